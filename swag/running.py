"""The memory behind a collector: origin, mean, squared deviations and the ring of the last K deviations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from swag import moments
from swag.errors import FileError
from swag.moments import Kernel

Pieces = Iterable[tuple[int, int, Tensor]]


@final
class RunningMoments:
    """Statistics of n snapshots of θ (D,), updated in place piece by piece; nothing is allocated later.

    Args:
        size: D.
        rank: K, the rows of the ring.
        dtype: of the statistics.
        row_dtype: of the ring.
        device: where all of it lives.
        widest: the most weights in a piece.
        kernel: one Welford step on tensors.
        row_folder: keeps the ring in a file in this folder and not in memory.
    """

    @torch.inference_mode(False)  # tensors made in inference mode could not be updated outside of it
    def __init__(
        self,
        size: int,
        rank: int,
        *,
        dtype: torch.dtype,
        row_dtype: torch.dtype,
        device: torch.device,
        widest: int,
        kernel: Kernel,
        row_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.rank = rank
        self.origin = torch.zeros(size, dtype=dtype, device=device)  # θ₁
        self.offset_mean = torch.zeros_like(self.origin)  # m_n = θ̄ − θ₁
        self.sq_dev = torch.zeros_like(self.origin)
        self.ring: Tensor  # snapshot i in row (i − 1) mod K
        if row_folder is None:
            self.ring = torch.empty(rank, size, dtype=row_dtype, device=device)
        else:
            self.ring = _on_disk(row_folder, rank * size, row_dtype).view(rank, size)
        self._kernel = kernel
        self._in_place = rank > 0 and row_dtype == dtype and device.type == "cpu"
        self._scratch = torch.empty(0 if self._in_place else widest, dtype=dtype, device=device)

    def step_(self, pieces: Pieces, n: int, keep: Tensor | None = None) -> None:
        """Takes snapshot n in; where `keep`, a boolean scalar on the device, is false nothing changes."""
        if n == 1:
            for start, stop, x in pieces:
                self.origin[start:stop].copy_(x)
            self.ring[:1].zero_()
            return
        for start, stop, x in pieces:
            at = slice(start, stop)
            row = self.ring[(n - 1) % self.rank, at] if self.rank else None
            if row is not None and self._in_place and keep is None:
                self._kernel(x, self.origin[at], self.offset_mean[at], self.sq_dev[at], row, n)
                continue
            deviation = self._scratch_for(stop - start)
            if keep is None:
                self._kernel(x, self.origin[at], self.offset_mean[at], self.sq_dev[at], deviation, n)
            else:
                moments.accumulate_where_(
                    keep, x, self.origin[at], self.offset_mean[at], self.sq_dev[at], deviation, n
                )
            if row is not None:
                row.copy_(deviation if keep is None else torch.where(keep, deviation.to(row.dtype), row))

    def rows(self, n: int) -> Tensor:
        """The rows present (min(n, K), D), oldest first; a fresh tensor."""
        if n <= self.rank or self.rank == 0:
            return self.ring[: min(n, self.rank)].clone()
        return self.ring.roll(-(n % self.rank), dims=0)

    def ordered(self, n: int) -> list[Tensor]:
        """The rows present, oldest first, as views of the ring."""
        return [self.ring[i % self.rank] for i in range(max(n - self.rank, 0), n)] if self.rank else []

    def put_rows_(self, rows: Tensor, n: int) -> None:
        """Puts rows, oldest first, where n snapshots would have left them."""
        for i, row in zip(range(n - len(rows), n), rows, strict=True):
            self.ring[i % self.rank].copy_(row)

    def _scratch_for(self, length: int) -> Tensor:
        if self._scratch.numel() < length:
            self._scratch = torch.empty(length, dtype=self.origin.dtype, device=self.origin.device)
        return self._scratch[:length]


def _on_disk(folder: str | os.PathLike[str], size: int, dtype: torch.dtype) -> Tensor:
    """A vector in a file that has no name any more: its space is free again when the vector is gone."""
    if size == 0:
        return torch.empty(0, dtype=dtype, device="cpu")
    try:
        handle, name = tempfile.mkstemp(prefix=".swag-rows.", dir=folder)
        try:
            # All of it now: a disk that fills up later would end the process on a write to the mapping.
            os.posix_fallocate(handle, 0, size * dtype.itemsize)
            return torch.from_file(name, shared=True, size=size, dtype=dtype)
        finally:
            os.close(handle)
            os.unlink(name)
    except OSError as error:
        raise FileError(
            f"deviation_folder: {os.fspath(folder)} cannot take {size * dtype.itemsize / 1e9:.2f} GB of "
            f"deviations ({error.strerror}); pass a folder with that much space, a smaller rank or bfloat16"
        ) from error
