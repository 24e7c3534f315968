"""Progress of long work: a bar on a terminal, silence everywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Yields the items, with a bar on standard error where that is a terminal."""
    yield from tqdm(items, desc=description, total=total, leave=False, disable=None)
