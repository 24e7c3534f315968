"""Uniform random subsets of the rows of a loader, picked while it is read once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.noise import split_seeds


@final
class RowSampler:
    """Keeps the rows with the smallest random keys, which is a uniform draw without replacement.

    Batches are tensors, or tuples, lists or dicts of tensors whose first dimension counts the same rows;
    whatever else they hold is passed on as the first batch had it.

    Args:
        n_rows: rows a subset.
        n_subsets: how many subsets, independent of each other; the first m do not depend on how many.
        seed: which rows.

    >>> sampler = RowSampler(3, 1, seed=0)
    >>> for batch in torch.arange(100).split(32):
    ...     sampler.take(batch)
    >>> [subset.shape for subset in sampler.subsets()]
    [torch.Size([3])]
    """

    def __init__(self, n_rows: int, n_subsets: int, seed: int) -> None:
        self._n_rows = n_rows
        self._subsets = [_Subset(n_rows, own) for own in split_seeds(seed, n_subsets)]
        self._first: Any = None
        self._is_rows: list[bool] = []  # for each tensor of a batch, whether its first dimension counts rows
        self._seen = 0

    def take(self, batch: Any) -> None:
        """Looks at a batch; its rows may replace kept ones.

        Raises:
            InputError: the batch has no rows to pick, or is made of other parts than the first.
        """
        tensors = list(_tensors(batch))
        n = next((len(tensor) for tensor in tensors if tensor.ndim > 0), None)
        if n is None:
            raise InputError(
                f"bn_loader: cannot pick rows out of a {type(batch).__name__}; pass batches that are "
                "tensors, tuples or dicts of tensors, or batchnorm=swag.ExactBatchNorm()"
            )
        if self._first is None:
            self._first, self._is_rows = batch, [True] * len(tensors)
        if len(tensors) != len(self._is_rows):
            raise InputError(
                f"bn_loader: gave a batch of {len(tensors)} tensors after one of {len(self._is_rows)}; pass "
                "batches that are alike, or batchnorm=swag.ExactBatchNorm()"
            )
        pairs = zip(tensors, self._is_rows, strict=True)
        self._is_rows = [was and tensor.ndim > 0 and len(tensor) == n for tensor, was in pairs]
        for subset in self._subsets:
            subset.take(tensors, self._is_rows, n)
        self._seen += n

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
        return [_rebuilt(self._first, self._parts(subset)) for subset in self._subsets]

    def _parts(self, subset: _Subset) -> Iterator[Tensor]:
        for kept, whole, is_rows in zip(subset.kept, _tensors(self._first), self._is_rows, strict=True):
            yield kept if is_rows else whole


@final
class _Subset:
    """The rows with the smallest keys so far."""

    def __init__(self, n_rows: int, seed: int) -> None:
        self._n_rows = n_rows
        self._generator = torch.Generator().manual_seed(seed)
        self._keys = torch.empty(0, dtype=torch.float64, device="cpu")
        self.kept: list[Tensor] = []  # for each tensor of a batch, the rows that belong to the keys

    def take(self, tensors: list[Tensor], is_rows: list[bool], n: int) -> None:
        # In float64 two rows practically never have equal keys, however many there are.
        drawn = torch.rand(n, generator=self._generator, dtype=torch.float64, device="cpu")
        keys = torch.cat([self._keys, drawn])
        order = keys.argsort()[: self._n_rows].sort().values
        old, new = order[order < len(self._keys)], order[order >= len(self._keys)] - len(self._keys)
        first = not self.kept
        self._keys = keys[order]
        if first:
            self.kept = tensors
        if len(new) == 0 and not first:
            return
        self.kept = [
            _joined(None if first else mine, tensor, old, new) if rows else mine
            for mine, tensor, rows in zip(self.kept, tensors, is_rows, strict=True)
        ]


def _joined(kept: Tensor | None, tensor: Tensor, old: Tensor, new: Tensor) -> Tensor:
    picked = tensor[new.to(tensor.device)]
    return picked if kept is None else torch.cat([kept[old.to(kept.device)], picked])


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for item in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(item)


def _rebuilt(batch: Any, tensors: Iterator[Tensor]) -> Any:
    """The batch, of the same kind, with other tensors."""
    if isinstance(batch, Tensor):
        return next(tensors)
    if isinstance(batch, Mapping):
        items = {key: _rebuilt(value, tensors) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return items
        same = copy.copy(batch)
        same.update(items)
        return same
    if isinstance(batch, tuple | list):
        parts = [_rebuilt(item, tensors) for item in batch]
        if isinstance(batch, list):
            return parts
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch
