"""A table as tensors: standardised features, targets and weights; and the part of it that is held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from swag.errors import InputError


@final
@dataclass(frozen=True)
class Rows:
    """Features x (N, F), targets y (N,), and weights (N,) of mean 1; None for equal ones."""

    x: Tensor
    y: Tensor
    weights: Tensor | None

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> list[Tensor]:
        """The features in their order, in batches that are nowhere a lone row, as batch norm wants it."""
        return [self.x[part] for part in parts(torch.arange(len(self.x), device=self.x.device), size)]


def parts(order: Tensor, size: int) -> Iterator[Tensor]:
    """Indices in batches; a single row that would be left over goes to the batch before it."""
    n = len(order)
    start = 0
    while start < n:
        stop = n if n - start <= size + (size > 1) else start + size
        yield order[start:stop]
        start = stop


@final
@dataclass(frozen=True)
class Standard:
    """v → (v − mean)/std column by column, with the weighted mean and std (population) of training rows."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray | None) -> Standard:
        """From rows (N, F); a column without spread keeps its unit."""
        share = np.full(len(values), 1 / len(values)) if weights is None else weights / weights.sum()
        mean = share @ values  # float64, since the shares are
        std = np.sqrt(share @ np.square(values - mean))
        # Rounding leaves a spread of some ulp in a constant column.
        flat = std <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(flat, 1.0, std))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Standardised rows, a fresh array."""
        return (values - self.mean) / self.std


def kept_weights(sample_weight: np.ndarray | None) -> tuple[np.ndarray | slice, np.ndarray | None]:
    """Which rows weigh anything, and their weights.

    Raises:
        InputError: none does.
    """
    if sample_weight is None:
        return slice(None), None
    kept = sample_weight > 0
    if not kept.any():
        raise InputError("sample_weight: every row weighs 0; pass a positive weight for some")
    return kept, sample_weight[kept]


def held_out(n: int, fraction: float, seed: int, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows to train on and of those held out; by class where every class has enough rows.

    Raises:
        ValueError: too few rows to hold any out (scikit-learn's own error).
    """
    stratify: Any = labels
    if labels is not None:
        counts = np.unique(labels, return_counts=True)[1]
        if counts.min() < 2 or min(fraction * n, (1 - fraction) * n) < len(counts):
            stratify = None
    train, held = train_test_split(np.arange(n), test_size=fraction, random_state=seed, stratify=stratify)
    return train, held
