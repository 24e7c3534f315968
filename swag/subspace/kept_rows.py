"""Training batches kept in memory: moved, joined, and rows picked from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from swag.errors import InputError


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device; lists become tuples."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple | list):
        return tuple(moved(value, device) for value in batch)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    return batch


def joined(batches: list[Any]) -> Any:
    """All rows as one batch.

    Raises:
        InputError: they are not all tuples, lists or dicts of tensors.
    """
    first = batches[0]
    if isinstance(first, tuple) and all(isinstance(v, Tensor) for b in batches for v in b):
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    if isinstance(first, Mapping) and all(isinstance(v, Tensor) for b in batches for v in b.values()):
        return {key: torch.cat([batch[key] for batch in batches]) for key in first}
    raise InputError("batches: rows can be chosen only from tuples, lists or dicts of tensors")


def rows_of(batch: Any, chosen: Tensor) -> Any:
    """The chosen rows of a batch, in their order."""
    if isinstance(batch, Mapping):
        return {key: value[chosen.to(value.device)] for key, value in batch.items()}
    return tuple(value[chosen.to(value.device)] for value in batch)
