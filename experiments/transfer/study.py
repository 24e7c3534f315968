"""One direction from one seed: pretrain, then learn the target from its few labels in three ways."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from experiments.transfer.images import Task
from experiments.transfer.network import convnet, with_new_head
from swag.metrics import accuracy, brier, ece
from swag.noise import key_for
from swag.training import EveryStep, Trained, continue_training

KIND = "transfer"
_AT_ONCE = 500


@final
@dataclass(frozen=True)
class Recipe:
    """All that a result depends on besides direction and seed.

    Attributes:
        channels: of the three convolutions.
        source_rows, source_epochs, source_rate: of the first task; its rate falls to 0.
        rows, held_rows, test_rows: of the target; held-out rows choose SWAG's scale and nothing else.
        batch: rows of a step.
        epochs: on the target at one rate, before the ways part.
        averaged: further epochs, in which the rate falls to 0, or stays with a snapshot in each.
        longer: how many times as long the long run from scratch is.
        rate, weight_decay: of SGD with momentum 0.9.
        rank, n_samples, scales: of SWAG; 0.5 is the scale where none is chosen.
    """

    channels: tuple[int, int, int] = (16, 32, 64)
    source_rows: int = 10_000
    source_epochs: int = 6
    source_rate: float = 0.05
    rows: int = 1_000
    held_rows: int = 500
    test_rows: int = 4_000
    batch: int = 50
    epochs: int = 8
    averaged: int = 12
    longer: int = 3
    rate: float = 0.03
    weight_decay: float = 5e-4
    rank: int = 20
    n_samples: int = 20
    scales: tuple[float, ...] = (0.125, 0.5, 2.0, 8.0)


QUICK = Recipe(
    channels=(4, 8, 8),
    source_rows=300,
    source_epochs=2,
    rows=100,
    held_rows=50,
    test_rows=100,
    epochs=2,
    averaged=3,
    longer=2,
    n_samples=4,
    scales=(0.5, 2.0),
)


@final
class Shuffled:
    """Batches of a task's training rows in a new order every epoch."""

    def __init__(self, task: Task, batch: int, seed: int) -> None:
        self._task, self._batch = task, batch
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._task.y) // self._batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self._task.y), generator=self._generator).split(self._batch):
            rows = rows.to(self._task.y.device)
            yield self._task.x[rows], self._task.y[rows]


def run(
    source: Task, target: Task, recipe: Recipe, direction: str, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Trains and scores one direction from one seed."""
    now = time.process_time if device == "cpu" else time.perf_counter
    started = now()
    first = source.some(recipe.source_rows, recipe.test_rows, seed, 0, device)
    few = target.some(recipe.rows, recipe.test_rows, seed, 0, device)
    more = target.some(recipe.rows, recipe.test_rows, seed, 1, device)
    held = Task(more.x[: recipe.held_rows], more.y[: recipe.held_rows], more.test_x, more.test_y)
    classes = int(max(source.y.max(), target.y.max())) + 1
    torch.manual_seed(seed)
    fresh = convnet(recipe.channels, classes).to(device)
    pretrained = copy.deepcopy(fresh)
    optimizer = _sgd(pretrained, recipe.source_rate, recipe)
    swag.training.train(
        pretrained,
        Shuffled(first, recipe.batch, key_for(seed, 1) >> 1),
        F.cross_entropy,
        epochs=recipe.source_epochs,
        swa_start=0,
        optimizer=optimizer,
        schedule=EveryStep(swag.schedules.cosine(optimizer, epochs=recipe.source_epochs)),
        rank=0,
    )
    seen = swag.Ensemble.from_models([pretrained]).predict(first.test_x.split(_AT_ONCE))
    starts = {
        "pre-trained": (with_new_head(pretrained), 1),
        "from scratch": (fresh, 1),
        f"from scratch, {recipe.longer} × as long": (copy.deepcopy(fresh), recipe.longer),
    }
    rows = []
    for name, (network, times) in starts.items():
        begun = now()
        falling, kept = two_ways(network, few, recipe, times, seed)
        rows += [{"start": name, **row} for row in scored(falling, kept, few, held, recipe, seed)]
        rows[-1]["seconds"] = now() - begun
    return {
        "settings": {"recipe": asdict(recipe), "direction": direction, "seed": seed},
        "parameters": sum(parameter.numel() for parameter in fresh.parameters()),
        "source_accuracy": accuracy(seen.probs, first.test_y),
        "rows": rows,
        "seconds": now() - started,
    }


def two_ways(
    network: nn.Module, task: Task, recipe: Recipe, times: int, seed: int
) -> tuple[nn.Module, Trained]:
    """One rate; then it falls to zero in a copy, and stays in the network, with a snapshot an epoch."""
    epochs, averaged = times * recipe.epochs, times * recipe.averaged
    keys = [key_for(seed, 2, part) >> 1 for part in (0, 1, 1)]
    common, down, stay = (Shuffled(task, recipe.batch, key) for key in keys)
    optimizer = _sgd(network, recipe.rate, recipe)
    settings = {"optimizer": optimizer, "swa_lr": recipe.rate}
    continue_training(network, common, F.cross_entropy, epochs=epochs, rank=0, **settings)
    falling = copy.deepcopy(network)
    own = _sgd(falling, recipe.rate, recipe)
    own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    swag.training.train(
        falling,
        down,
        F.cross_entropy,
        epochs=averaged,
        swa_start=0,
        optimizer=own,
        schedule=EveryStep(swag.schedules.cosine(own, epochs=averaged)),
        rank=0,
    )
    kept = continue_training(
        network, stay, F.cross_entropy, epochs=averaged, rank=recipe.rank, collect_every=times, **settings
    )
    return falling, kept


def scored(
    falling: nn.Module, kept: Trained, few: Task, held: Task, recipe: Recipe, seed: int
) -> list[dict[str, Any]]:
    """A row a method, on the target's test rows; all with batch-norm statistics of the same training rows."""
    bn_loader = list(few.x.split(_AT_ONCE))
    chosen = swag.tune(
        kept.swag(),
        kept.model,
        [(held.x, held.y)],
        scales=recipe.scales,
        n_samples=recipe.n_samples,
        bn_loader=bn_loader,
        seed=seed,
    )

    def ensemble(posterior: swag.Posterior, n_samples: int = recipe.n_samples) -> swag.Ensemble:
        return kept.ensemble(posterior, n_samples, seed=seed, bn_loader=bn_loader)

    layout = kept.collector.layout
    ensembles = {
        "SGD": ensemble(swag.PointMass(layout.flatten(falling), layout=layout), 1),
        "SWA": ensemble(kept.swa(), 1),
        "SWAG": ensemble(kept.swag()),
        "SWAG, scale chosen": ensemble(chosen.posterior),
    }
    rows = []
    for method, each in ensembles.items():
        predictive = each.predict(few.test_x.split(_AT_ONCE))
        labels = few.test_y
        row = {
            "method": method,
            "error": 1 - accuracy(predictive.probs, labels),
            "nll": -float(predictive.log_probs.double().gather(1, labels[:, None]).mean()),
            "ece": ece(predictive.probs, labels),
            "brier": brier(predictive.probs, labels),
            "confidence": float(predictive.probs.amax(1).mean()),
        }
        rows.append(row | ({"scale": chosen.scale} if "chosen" in method else {}))
    return rows


def _sgd(network: nn.Module, rate: float, recipe: Recipe) -> torch.optim.SGD:
    return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=recipe.weight_decay)
