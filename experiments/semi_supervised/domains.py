"""Which rows have labels, which have none, and what the second domain looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments import data
from experiments.rows import Rows
from experiments.semi_supervised.settings import Setting
from swag.demo.data import digits
from swag.training.semi_supervised import UNLABELLED


@dataclass(frozen=True)
class Parts:
    """The rows of one setting and seed; training labels are `UNLABELLED` where there is none."""

    train: Rows
    validation: Rows
    test: Rows
    n_classes: int


class Batches(Protocol):
    """Lists of row numbers."""

    generator: torch.Generator | None

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[int]]: ...


class Drawn:
    """The batches of rows that a sampler lists, gone through once an epoch."""

    def __init__(self, rows: Rows, sampler: Batches) -> None:
        self.rows, self.batch_sampler = rows, sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in self.batch_sampler:
            index = torch.tensor(chosen).to(self.rows.images.device)
            yield self.rows.images[index], self.rows.labels[index]


class Repeated:
    """So many batches an epoch of `size` rows, out of passes through `rows`, each in a new order."""

    def __init__(self, rows: Tensor, size: int, n_batches: int, generator: torch.Generator) -> None:
        self.rows, self.size, self.n_batches, self.generator = rows, size, n_batches, generator

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[int]]:
        left = self.rows[:0]
        for _ in range(self.n_batches):
            while len(left) < self.size:
                order = torch.randperm(len(self.rows), generator=self.generator)
                left = torch.cat([left, self.rows[order]])
            yield left[: self.size].tolist()
            left = left[self.size :]


class Pool:
    """Read once; which rows have labels depends on the seed, which rows validate does not."""

    def __init__(self, setting: Setting, data_dir: Path | None, device: str) -> None:
        self.setting, self.device = setting, device
        train, train_labels, test, self.test_labels = read(setting.data, data_dir)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        wanted = setting.labels + setting.unlabelled + setting.validation
        if wanted > len(train):
            raise SystemExit(f"{setting.data} has {len(train)} training rows, the setting wants {wanted}")
        held, rest = order[: setting.validation], order[setting.validation : wanted]
        self.labels = train_labels[rest]
        std, mean = torch.std_mean(train[rest], (0, 2, 3), keepdim=True)

        def standard(images: Tensor, stream: int, *, target: bool) -> Tensor:
            if target and setting.second_domain is not None:
                images = corrupted(images, *setting.second_domain, stream)
            return (images - mean) / std

        self.clean = standard(train[rest], 0, target=False)
        self.target = standard(train[rest], 1, target=True)
        self.validation = Rows(standard(train[held], 2, target=True), train_labels[held]).to(device)
        self.test = Rows(standard(test, 3, target=True), self.test_labels).to(device)
        self.n_classes = int(train_labels.max()) + 1

    def parts(self, seed: int) -> Parts:
        """Labelled rows first, as many of each class as can be, then the unlabelled ones."""
        chosen = balanced(self.labels, self.setting.labels, torch.Generator().manual_seed(1_000 + seed))
        others = torch.ones(len(self.labels), dtype=torch.bool)
        others[chosen] = False
        unlabelled = torch.full((int(others.sum()),), UNLABELLED)
        images = torch.cat([self.clean[chosen], self.target[others]])
        train = Rows(images, torch.cat([self.labels[chosen], unlabelled])).to(self.device)
        return Parts(train, self.validation, self.test, self.n_classes)


def balanced(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n row numbers, one class after another in turn until a class has no more."""
    order = torch.randperm(len(labels), generator=generator)
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique():
        own = order[labels[order] == label]
        turn[own] = torch.arange(len(own))
    return order[torch.sort(turn[order], stable=True).indices[:n]]


def corrupted(images: Tensor, blur: float, noise: float, stream: int) -> Tensor:
    """Images (N, 1, H, W) with pixels from 0 to 1 blurred (within three pixels), then noisy, then clipped."""
    at = torch.arange(-3.0, 4.0)
    bell = torch.exp(-at.square() / (2 * blur**2))
    bell = bell / bell.sum()
    x = F.conv2d(images, bell.view(1, 1, -1, 1), padding=(3, 0))
    x = F.conv2d(x, bell.view(1, 1, 1, -1), padding=(0, 3))
    draws = torch.randn(x.shape, generator=torch.Generator().manual_seed(stream))
    return (x + noise * draws).clamp(0, 1)


def read(name: str, data_dir: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images with pixels from 0 to 1, and labels."""
    if name == "digits":
        task = digits(seed=0)
        pixels = task.train.images
        low, high = pixels.min(), pixels.max()
        train, test = ((part.images - low) / (high - low) for part in (task.train, task.test))
        return train, task.train.labels, test, task.test.labels
    if name == "made up":
        x = torch.rand(500, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return x, torch.arange(500) % 4, x[:100], torch.arange(100) % 4
    found = {"fashion_mnist": data.fashion_mnist, "mnist": data.mnist, "cifar10": data.cifar10}[name](
        data.folder(data_dir)
    )
    return found.train.float() / 255, found.train_labels, found.test.float() / 255, found.test_labels
