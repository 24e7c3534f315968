"""What the LoRA experiment's numbers depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Base:
    """The GPT-2-shaped language model, trained once for all seeds."""

    vocabulary: int = 3000
    width: int = 96
    layers: int = 3
    heads: int = 4
    block: int = 64  # tokens in a training window, and the most that a sentence may have
    batch: int = 32
    steps: int = 1200
    rate: float = 3e-3
    share: float = 0.8  # of the training articles; the task's training sentences are from the rest


@dataclass(frozen=True)
class Task:
    """Which sentences have their words in disorder."""

    data: str = "WikiText-2"
    train: int = 1500
    validation: int = 600
    test: int = 1500
    shortest: int = 8  # words
    longest: int = 20


@dataclass(frozen=True)
class Tuning:
    """LoRA's fine-tuning, and what is drawn afterwards."""

    rank: int = 8  # of the adapters
    batch: int = 32
    epochs: int = 7
    rate: float = 2e-3
    swa_start: float = 0.4
    swa_rate: float = 1e-3
    snapshots_an_epoch: int = 4
    swag_rank: int = 20
    n_samples: int = 20
    tuning_samples: int = 8
    scales: tuple[float, ...] = (0.125, 0.5, 1.0, 2.0, 4.0)
    members: int = 3


@dataclass(frozen=True)
class Settings:
    """All of it."""

    base: Base = Base()
    task: Task = Task()
    tuning: Tuning = Tuning()


QUICK = Settings(
    Base(vocabulary=300, width=16, layers=1, heads=2, block=32, steps=20),
    Task(data="made up", train=60, validation=30, test=60, shortest=6, longest=20),
    Tuning(
        rank=2,
        epochs=2,
        snapshots_an_epoch=2,
        swag_rank=3,
        n_samples=3,
        tuning_samples=2,
        scales=(0.5, 1.0),
        members=2,
    ),
)
