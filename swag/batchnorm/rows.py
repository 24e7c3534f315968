"""A uniform random subset of the rows of a loader, picked while it is read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.noise import key_for


@final
class RowSampler:
    """Keeps the rows with the smallest random keys, which is a uniform draw without replacement.

    Batches are tensors, or tuples, lists or dicts of tensors whose first dimension counts the same rows;
    whatever else they hold is passed on as the first batch had it.

    Args:
        n_rows: rows a subset.
        n_subsets: how many subsets, independent of each other.
        seed: which rows.
    """

    def __init__(self, n_rows: int, n_subsets: int, seed: int) -> None:
        self._n_rows = n_rows
        self._generator = torch.Generator().manual_seed(key_for(seed, n_rows) >> 1)
        self._keys = [torch.empty(0) for _ in range(n_subsets)]
        self._kept: list[Any] = [None] * n_subsets
        self._seen = 0

    def take(self, batch: Any) -> None:
        """Looks at a batch; its rows may replace kept ones.

        Raises:
            InputError: the batch is of a kind that has no rows to pick.
        """
        n = _count(batch)
        self._seen += n
        for index, keys in enumerate(self._keys):
            fresh = torch.rand(n, generator=self._generator)
            joined = torch.cat([keys, fresh])
            order = joined.argsort()[: self._n_rows].sort().values
            old, new = order[order < len(keys)], order[order >= len(keys)] - len(keys)
            self._keys[index] = joined[order]
            if len(new) == 0:
                continue
            picked = _map(batch, new, n)
            kept = self._kept[index]
            if kept is not None and len(old) > 0:
                picked = _join(_map(kept, old, len(keys)), picked)
            self._kept[index] = picked

    def subsets(self) -> list[Any]:
        """The subsets, as batches.

        Raises:
            InputError: the data had fewer rows than a subset.
        """
        if self._seen < self._n_rows:
            raise InputError(
                f"rows: asked for a subset of {self._n_rows} and bn_loader gave {self._seen} rows; pass "
                "fewer, or batchnorm=swag.ExactBatchNorm()"
            )
        return self._kept


def _count(batch: Any) -> int:
    for tensor in _tensors(batch):
        if tensor.ndim > 0:
            return tensor.shape[0]
    raise InputError(
        f"bn_loader: cannot pick rows out of a {type(batch).__name__}; pass batches that are tensors, tuples "
        "or dicts of tensors, or batchnorm=swag.ExactBatchNorm()"
    )


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, tuple | list):
        return [tensor for item in batch for tensor in _tensors(item)]
    return []


def _map(batch: Any, rows: Tensor, n: int) -> Any:
    """The batch with those rows of its tensors of n rows alone."""
    if isinstance(batch, Tensor):
        return batch[rows.to(batch.device)] if batch.ndim > 0 and batch.shape[0] == n else batch
    if isinstance(batch, Mapping):
        return {key: _map(value, rows, n) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [_map(item, rows, n) for item in batch]
    return batch


def _join(left: Any, right: Any) -> Any:
    if isinstance(left, Tensor):
        return torch.cat([left, right]) if left.ndim > 0 else left
    if isinstance(left, Mapping):
        return {key: _join(value, right[key]) for key, value in left.items()}
    if isinstance(left, list):
        return [_join(a, b) for a, b in zip(left, right, strict=True)]
    return left
