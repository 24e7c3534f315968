"""A task to learn first, and another of which few labels are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from experiments import data
from swag.noise import key_for

DIRECTIONS = {
    "fashion-to-mnist": ("Fashion-MNIST → MNIST", data.fashion_mnist, data.mnist),
    "mnist-to-fashion": ("MNIST → Fashion-MNIST", data.mnist, data.fashion_mnist),
}


@final
@dataclass(frozen=True)
class Task:
    """Images (N, 1, side, side) from −0.5 to 0.5, and labels (N,); test rows are those of the data set."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def some(self, n: int, n_test: int, seed: int, part: int, device: str) -> Task:
        """n training rows by a seed, different parts without common rows; the first n_test test rows."""
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(key_for(seed, 0) >> 1))
        rows = order[part * n : (part + 1) * n]
        found = Task(self.x[rows], self.y[rows], self.test_x[:n_test], self.test_y[:n_test])
        return Task(**{name: value.to(device) for name, value in vars(found).items()})


def tasks(direction: str, data_dir: Path | None) -> tuple[Task, Task]:
    """The source and the target of a direction."""
    _, *readers = DIRECTIONS[direction]
    source, target = (_task(reader(data.folder(data_dir))) for reader in readers)
    return source, target


def digits() -> tuple[Task, Task]:
    """scikit-learn's digits, and the same as negatives on their side; for a look in seconds."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16 - 0.5, torch.from_numpy(labels).long()
    other = -x.mT
    return Task(x[500:], y[500:], x[:500], y[:500]), Task(other[500:], y[500:], other[:500], y[:500])


def _task(found: data.Images) -> Task:
    train, test = (images.float() / 255 - 0.5 for images in (found.train, found.test))
    return Task(train, found.train_labels, test, found.test_labels)
