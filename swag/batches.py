"""How a batch of a loader is fed to a model, unless the caller says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from swag.errors import InputError

Forward = Callable[[nn.Module, Any], Any]


def feed(model: nn.Module, batch: Any) -> Any:
    """model(x) for a tensor x, for a tuple or list its first element, for a dict model(**batch).

    Tensors are moved to the device of the model's first parameter.

    Raises:
        InputError: the batch is none of these.
    """
    device = device_of(model)
    if isinstance(batch, Mapping):
        return model(**{key: _to(value, device) for key, value in batch.items()})
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, Tensor):
        raise InputError(
            f"batch: cannot feed a {type(batch).__name__} whose input is a {type(x).__name__}; pass "
            "forward=lambda model, batch: model(...) to say how"
        )
    return model(_to(x, device))


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU for a model with neither."""
    first: Tensor | None = next(model.parameters(), None)
    if first is None:
        first = next(model.buffers(), None)
    return torch.device("cpu") if first is None else first.device


def check_loader(name: str, loader: Any) -> None:
    """Raises InputError for what cannot be iterated, or is visibly empty."""
    if not isinstance(loader, Iterable) or isinstance(loader, Tensor | str | bytes | Mapping):
        raise InputError(
            f"{name}: got a {type(loader).__name__}; pass an iterable of batches, such as a DataLoader or [x]"
        )
    if length(loader) == 0:
        raise InputError(f"{name}: is empty; pass a loader with at least one batch")


def is_iterator(loader: Iterable[Any]) -> bool:
    """Whether it can be gone through once only."""
    return isinstance(_whole(loader), Iterator)


def n_rows(loader: Iterable[Any]) -> int | None:
    """The rows that a loader gives in one pass, up to a batch, where that is known without reading it."""
    loader = _whole(loader)
    if type(loader) in (list, tuple):  # not what merely is one, and may do work when read
        return sum(map(_rows, loader))
    batch_size, batches = getattr(loader, "batch_size", None), length(loader)
    return batch_size * batches if isinstance(batch_size, int) and batches is not None else None


def length(loader: Any) -> int | None:
    """The number of batches, where the loader knows it (over a stream, a DataLoader's `len` raises)."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def peeked(loader: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first batch, and an iterable of all of them; going through it once reads the loader once.

    Raises:
        InputError: the loader gave nothing.
    """
    iterator = iter(loader)
    for first in iterator:
        return first, _Again(first, iterator, loader)
    raise InputError("bn_loader: gave no batch; pass a loader with at least one batch of training data")


class _Again:
    """A loader after its first batch was looked at; keeps the loader's length for progress bars."""

    def __init__(self, first: Any, rest: Iterator[Any], loader: Iterable[Any]) -> None:
        self._begun: tuple[Any, Iterator[Any]] | None = (first, rest)
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        if self._begun is None:
            yield from self._loader
            return
        (first, rest), self._begun = self._begun, None
        yield first
        yield from rest

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]


def _whole(loader: Iterable[Any]) -> Iterable[Any]:
    return loader._loader if isinstance(loader, _Again) else loader


def _rows(batch: Any) -> int:
    """The rows of a batch: of its first tensor; 0 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((n for part in parts if (n := _rows(part))), 0)


def n_bytes(batch: Any) -> int:
    """The bytes of a batch's tensors."""
    if isinstance(batch, Tensor):
        return batch.nbytes
    if isinstance(batch, Mapping):
        return sum(map(n_bytes, batch.values()))
    return sum(map(n_bytes, batch)) if isinstance(batch, tuple | list) else 0


def as_tensor(result: Any) -> Tensor:
    """A model's outputs: a tensor, or the `logits` of an output object of transformers.

    Raises:
        InputError: neither.
    """
    if isinstance(result, Tensor):
        return result
    if isinstance(getattr(result, "logits", None), Tensor):
        return result.logits
    raise InputError(
        f"model: its forward returned a {type(result).__name__}, not a tensor; pass "
        "forward=lambda model, batch: ... that returns the outputs"
    )


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
