"""The ranks of a process group as SWAP's workers, one a process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from swag.distributed.ranks import Ranks, guarded
from swag.errors import StateError

T = TypeVar("T")


@final
class RankWorkers:
    r"""Worker w is rank w of the group.

    A sum over workers is the same bit for bit however many hands it goes through: rank r receives the r-th
    part of every rank's vector, adds them up in the order of the ranks, and sends the sum to all. That is an
    all-reduce's traffic, 2(W−1)/W vectors a rank, without its order of additions, which depends on W and on
    the place in the vector.

    Args:
        group: the process group; None for all ranks.

    Raises:
        StateError: no process group was made.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise StateError(
                "RankWorkers: there is no process group; start the script with torchrun and use "
                "`with swag.distributed.joined() as ranks:`"
            )
        self._ranks = Ranks(group)

    @property
    def n(self) -> int:
        """W."""
        return self._ranks.size

    @property
    def mine(self) -> range:
        """This rank's number alone."""
        return range(self._ranks.index, self._ranks.index + 1)

    @torch.no_grad()
    def share_(self, tensors: Iterable[Tensor]) -> None:
        """Makes everyone's tensors those of rank 0, in place."""
        for tensor in tensors:
            there = tensor.to(self._ranks.device)
            with guarded("share_"):
                dist.broadcast(there, group=self._ranks.group, group_src=0)
            tensor.copy_(there)

    @torch.no_grad()
    def total_(self, part: Tensor) -> None:
        """Makes the vector (n,) the sum over all ranks, in place."""
        size = -(-part.numel() // self.n)
        padded = torch.zeros(self.n * size, dtype=part.dtype, device=self._ranks.device)
        padded[: part.numel()] = part
        received = torch.empty_like(padded)
        with guarded("total_"):
            dist.all_to_all_single(received, padded, group=self._ranks.group)
            rows = received.view(self.n, size)
            total = rows[0].clone()
            for row in rows[1:]:
                total += row
            dist.all_gather(list(padded.view(self.n, size)), total, group=self._ranks.group)
        part.copy_(padded[: part.numel()])

    @torch.no_grad()
    def gathered(self, rows: Tensor) -> Tensor:
        """Every rank's row (W, …), from this one's (1, …)."""
        mine = rows[0].to(self._ranks.device).contiguous()
        found = [torch.empty_like(mine) for _ in range(self.n)]
        with guarded("gathered"):
            dist.all_gather(found, mine, group=self._ranks.group)
        return torch.stack(found).to(rows.device)

    def alike(self, what: str, make: Callable[[], T], describe: Callable[[T], list[str]]) -> T:
        """`Ranks.alike`."""
        return self._ranks.alike(what, make, describe)

    def __repr__(self) -> str:
        return f"RankWorkers(rank {self._ranks.index} of {self.n})"


@contextmanager
def joined(*, timeout: float = 1800.0) -> Iterator[RankWorkers]:
    """A process group over all that torchrun started, left together at the end.

    gloo; NCCL where there is a CUDA device for every process. Each process uses the device of its local
    rank. Without torchrun it is a group of one, so that the same script runs alone. A group that is there
    already is used, and left alone.

    Args:
        timeout: seconds that a rank waits for the others before it gives up.

    Yields:
        The workers, for `swag.training.swap`.

    Raises:
        StateError: the others did not come, or were lost.

    >>> with joined() as ranks:
    ...     ranks
    RankWorkers(rank 0 of 1)
    """
    if dist.is_initialized():
        yield RankWorkers()
        return
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_devices:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % n_devices)
    # NCCL wants a device for every rank; where they share one, gloo carries the messages through the CPU.
    backend = "nccl" if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= n_devices else "gloo"
    wait = timedelta(seconds=timeout)
    with guarded("joined"):
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=wait)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=wait)
    try:
        yield RankWorkers()
        # Whoever left first would take the connections along that others still read from.
        with guarded("joined"):
            dist.barrier()
    finally:
        dist.destroy_process_group()
