"""This rank's slices of a whole file, and the objects they make."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from swag.collector import Collector
from swag.distributed.collector import ShardedCollector
from swag.distributed.gaussian import ShardedGaussian
from swag.distributed.point import ShardedPointMass
from swag.distributed.shards import Shards
from swag.distributed.states import set_n_collected, statistics_of
from swag.distributed.streams import PIECE
from swag.posterior import LowRankGaussian, PointMass
from swag.tensorfile import TensorFile

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@final
class Slices:
    """This rank's part of the vectors in a file.

    Args:
        file: open; its layout is that of the shards.
        shards: which part.
        device: where to.
    """

    def __init__(self, file: TensorFile, shards: Shards, device: torch.device) -> None:
        self._file, self._shards, self._device = file, shards, device
        self._buffer = torch.empty(PIECE, dtype=torch.uint8, device="cpu")

    def vector(self, name: str) -> Tensor:
        """A vector (D,) of the file: (D_local,) here."""
        spec = self._file.specs[name]
        if spec.shape != (self._shards.layout.size,) or spec.dtype not in _DTYPES:
            raise ValueError(f"tensor '{name}' is {spec.dtype} {spec.shape}")
        found = torch.empty(self._shards.local.size, dtype=spec.dtype, device=self._device)
        self._fill_(found, name, 0)
        return found

    def n_rows(self, name: str) -> int:
        """How many stacked vectors a tensor (K, D) has."""
        spec = self._file.specs[name]
        if len(spec.shape) != 2 or spec.shape[1] != self._shards.layout.size or spec.dtype not in _DTYPES:
            raise ValueError(f"tensor '{name}' is {spec.dtype} {spec.shape}")
        return spec.shape[0]

    def rows(self, name: str) -> Tensor:
        """All rows (K, D) of the file: (K, D_local) here."""
        count = self.n_rows(name)
        found = torch.empty(
            count, self._shards.local.size, dtype=self._file.specs[name].dtype, device=self._device
        )
        for index in range(count):
            self.row_(found[index], name, index)
        return found

    def row_(self, out: Tensor, name: str, index: int) -> None:
        """Row `index`, into `out` (D_local,)."""
        self._fill_(out, name, index * self._shards.layout.size)

    def vector_(self, out: Tensor, name: str) -> None:
        """A vector, into `out` (D_local,)."""
        out.copy_(self.vector(name))

    def _fill_(self, out: Tensor, name: str, offset: int) -> None:
        step = PIECE // self._file.specs[name].dtype.itemsize
        for run in self._shards.runs:
            for start in range(run.start, run.stop, step):
                stop = min(start + step, run.stop)
                first = offset + run.first + start - run.start
                out[start:stop].copy_(self._file.read_piece(name, first, first + stop - start, self._buffer))


def _read_point(header: dict[str, Any], file: Slices, shards: Shards, device: torch.device) -> Any:
    return ShardedPointMass(PointMass(file.vector("mean"), layout=shards.local), shards)


def _read_gaussian(header: dict[str, Any], file: Slices, shards: Shards, device: torch.device) -> Any:
    own = LowRankGaussian.from_rows(
        file.vector("mean"),
        file.vector("cov_diag"),
        file.rows("rows"),
        row_scale=float(header["row_scale"]),
        layout=shards.local,
    )
    own.scale, own.n_collected = header["scale"], header["n_collected"]
    return ShardedGaussian(own, shards)


def _read_collector(header: dict[str, Any], file: Slices, shards: Shards, device: torch.device) -> Any:
    n, rank = header["n_collected"], header["rank"]
    dtype = getattr(torch, header["deviation_dtype"])
    if type(n) is not int or n < 0:
        raise ValueError(f"n_collected {n!r:.80} is no number of snapshots")
    inner = Collector.for_layout(shards.local, rank, deviation_dtype=dtype, device=device)
    if n:
        if file.n_rows("deviations") != min(n, rank):
            raise ValueError(f"deviations has {file.n_rows('deviations')} rows, expected {min(n, rank)}")
        running = statistics_of(inner)
        for name in ("origin", "offset_mean", "sq_dev"):
            file.vector_(getattr(running, name), name)
        for position, snapshot in enumerate(range(max(n - rank, 0), n)):
            file.row_(running.ring[snapshot % rank], "deviations", position)
        set_n_collected(inner, n)
    return ShardedCollector.from_parts(shards, inner)


READERS = {"point_mass": _read_point, "low_rank_gaussian": _read_gaussian, "collector": _read_collector}
