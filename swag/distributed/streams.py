"""θ on its way into a file: in global order, a piece at a time, from the ranks that hold it to rank 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, final, overload

import torch
from torch import Tensor

from swag.distributed.ranks import Ranks
from swag.distributed.shards import Shards
from swag.errors import StateError

# Bytes in a message.
PIECE = 1 << 24


class Owned(NamedTuple):
    """θ[first : first + stop − start] of the whole is θ[start:stop] of `rank`."""

    first: int
    start: int
    stop: int
    rank: int


def owners(shards: Shards) -> list[Owned]:
    """Who writes which part of θ, from first to last; the same on every rank. One exchange."""
    mine = torch.tensor(shards.counted, dtype=torch.int64, device="cpu").view(-1, 3)
    table = sorted(
        Owned(first, start, stop, rank)
        for rank, theirs in enumerate(shards.ranks.exchange({"runs": mine}))
        for start, stop, first in theirs["runs"].tolist()
    )
    end, in_order = 0, True
    for first, start, stop, _ in table:
        in_order = first == end
        if not in_order:
            break
        end += stop - start
    if not in_order or end != shards.layout.size:
        raise StateError(
            f"save: the ranks' parts of θ do not make up the whole (at {end:,} of {shards.layout.size:,}); "
            "pass group= the processes of one copy of the model at construction"
        )
    return table


@final
class Stream(Sequence[Tensor]):
    """Vectors (D,) in the file's order, a piece at a time: on rank 0 they come out, elsewhere they are sent.

    It can be gone through once, and goes on where it was left: a rank 0 that cannot write still takes what
    the others send.

    Args:
        parts: this rank's parts (D_local,).
        dtype: theirs.
        length: the first side of the tensor in the file.
        table: who has what.
        ranks: the processes.
    """

    def __init__(
        self, parts: list[Tensor], dtype: torch.dtype, length: int, table: list[Owned], ranks: Ranks
    ) -> None:
        self._length = length
        self._pieces = self._go(parts, dtype, table, ranks)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Tensor]:
        return self._pieces

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        raise TypeError("a stream is gone through from first to last")

    @staticmethod
    def _go(parts: list[Tensor], dtype: torch.dtype, table: list[Owned], ranks: Ranks) -> Iterator[Tensor]:
        step = PIECE // dtype.itemsize
        for part in parts:
            for run in table:
                for start in range(run.start, run.stop, step):
                    stop = min(start + step, run.stop)
                    if ranks.index == run.rank:
                        piece = part[start:stop].detach()
                        if ranks.index == 0:
                            yield piece
                        else:
                            ranks.send(piece.contiguous(), 0)
                    elif ranks.index == 0:
                        yield ranks.receive(stop - start, dtype, run.rank)
