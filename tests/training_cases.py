"""A small classification task, its loaders and its networks, for the tests of `swag.training`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

N, N_FEATURES, N_CLASSES = 44, 6, 3


def task(n: int = N, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, N_FEATURES, generator=generator, dtype=dtype)
    return x, (x[:, :N_CLASSES] + 0.5 * torch.randn(n, N_CLASSES, generator=generator)).argmax(1)


def batches(size: int = 11, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    x, y = task(dtype=dtype)
    return list(zip(x.split(size), y.split(size), strict=True))


def network(seed: int = 0, *, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(N_FEATURES, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(8, N_CLASSES),
        )


def linear(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(N_FEATURES, N_CLASSES, dtype=dtype)


def shuffled(seed: int | None = None) -> DataLoader:
    """Batches of 11 rows in random order: by a generator of its own, or by torch's global one."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(*task()), batch_size=11, shuffle=True, generator=generator)


class Augmented(Dataset):
    """Rows with noise from Python's, NumPy's and a generator of the data set's own."""

    def __init__(self) -> None:
        self.x, self.y = task()
        self.generator = torch.Generator().manual_seed(3)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        own = torch.randn(N_FEATURES, generator=self.generator)
        noise = 0.1 * random.gauss(0, 1) + 0.1 * np.random.standard_normal()
        return self.x[index] + noise + 0.1 * own, self.y[index]


class Poisoned:
    """The batches again and again, but for one, counted from 1 over all epochs, whose inputs are NaN."""

    def __init__(self, bad: int) -> None:
        self.batches, self.bad, self.given = batches(), bad, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.batches:
            self.given += 1
            yield (x * float("nan") if self.given == self.bad else x), y


def same(mine: Any, theirs: Any, where: str = "") -> None:
    """Asserts that two states are equal bit for bit, part by part."""
    assert type(mine) is type(theirs), where
    if isinstance(mine, Tensor):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs), where
    elif isinstance(mine, Mapping):
        assert list(mine) == list(theirs), where
        for key in mine:
            same(mine[key], theirs[key], f"{where}.{key}")
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(theirs), where
        for index, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            same(a, b, f"{where}[{index}]")
    else:
        assert mine == theirs, where
