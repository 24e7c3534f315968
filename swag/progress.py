"""Progress of long work: a bar on a terminal, silence everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_silent: ContextVar[bool] = ContextVar("silent", default=False)


def track(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Yields the items, with a bar on standard error where that is a terminal."""
    yield from tqdm(items, desc=description, total=total, leave=False, disable=_silent.get() or None)


@contextmanager
def silent() -> Iterator[None]:
    """No bars inside the block, on a terminal either."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


@contextmanager
def track_bytes(total: int, description: str) -> Iterator[Callable[[int], object]]:
    """A bar of bytes with their rate; yields what to call with the bytes done since the last call."""
    bar = tqdm(
        desc=description, total=total, unit="B", unit_scale=True, leave=False, disable=_silent.get() or None
    )
    with bar:
        yield bar.update
