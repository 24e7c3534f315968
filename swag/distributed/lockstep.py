"""Loaders of different lengths, read side by side.

A forward pass of a sharded model is collective: every rank must make as many as the others, or all wait for
each other. So a rank that has run out of batches repeats its last one, and what comes of it is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from swag.batches import check_loader, n_bytes
from swag.distributed.ranks import Ranks
from swag.errors import InputError, StateError

_FAILED, _NOTHING_YET = -1, -2


def lockstep(
    loader: Iterable[Any], ranks: Ranks, name: str, *, at_least: int = 0
) -> Iterator[list[tuple[Any, bool]]]:
    """Groups of (batch, whether it is a real one), equally many on every rank. One small collective a group.

    Args:
        loader: this rank's batches.
        ranks: who reads along.
        name: the argument's, for messages.
        at_least: bytes of batches in a group; 0 for one batch.

    Raises:
        InputError: on all ranks, where one's loader gave nothing at all.
        StateError: on the others, where reading failed on a rank.
    """
    iterator: Iterator[Any] | None = None
    spare: Any = None
    seen = ended = False
    while True:
        group: list[Any] = []
        failure: Exception | None = None
        try:
            if iterator is None:
                check_loader(name, loader)
                iterator = iter(loader)
            weight = 0
            while not ended and (not group or weight < at_least):
                batch = next(iterator, _END)
                if batch is _END:
                    ended = True
                    break
                group.append(batch)
                weight += n_bytes(batch)
        except Exception as caught:
            failure = caught
        if group:
            spare, seen = group[-1], True
        counts = ranks.numbers(_FAILED if failure else len(group) if seen else _NOTHING_YET)
        if failure is not None:
            raise failure
        bad = [rank for rank, count in enumerate(counts) if count == _FAILED]
        if bad:
            raise StateError(f"{name}: reading failed on rank {bad[0]}; its own error says why")
        empty = [rank for rank, count in enumerate(counts) if count == _NOTHING_YET]
        if empty:
            raise InputError(
                f"{name}: gave no batch on rank {empty[0]}; every rank needs one at least, since a forward "
                "pass takes all of them"
            )
        longest = max(counts)
        if longest == 0:
            return
        yield [(batch, True) for batch in group] + [(spare, False)] * (longest - len(group))


_END = object()
