r"""Drawing from N(mean, diag(cov_diag) + row_scale² rowsᵀ rows): pieces of θ that stay in a core's cache.

Every sample's normals are a function of (seed, its index, position in θ) alone, see `swag.noise`.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from swag.noise import BLOCK, NormalSource, add_normals_, base_of, key_for, weyl_steps

_log = logging.getLogger(__name__)

_PIECE = 1 << 16
# A compiled call costs some 60 µs before the first number.
_FUSED_PIECE = 1 << 20
# Samples are multiplied in padded groups of this many: a matrix product rounds by its shape, and a sample
# must not depend on how many are drawn with it.
_GROUP = 4
# A sample's two streams of noise: z₁, a number for each weight, and z₂, K numbers for all of them.
_DIAGONAL, _SHARED = 0, 1
# (start, stop, first): θ[start:stop] of a part of a longer vector stands there at position `first`.
Run = tuple[int, int, int]


def draw(
    mean: Tensor,
    cov_diag: Tensor,
    rows: Tensor,
    row_scale: float,
    indices: range,
    seed: int,
    fused: Fused | None = None,
    runs: Sequence[Run] | None = None,
) -> Tensor:
    """Samples number `indices` of a seed (n, D), θ = mean + √cov_diag ⊙ z₁ + row_scale·rowsᵀ z₂.

    Args:
        mean: (D,).
        cov_diag: (D,).
        rows: (K, D), also of a narrower dtype.
        row_scale: what they are multiplied by.
        indices: which samples.
        seed: of the sequence.
        fused: adds diagonal noise in one compiled pass; the normals differ by rounding.
        runs: where θ is a part of a longer vector, as a rank's shard is: its runs in order, without gaps.
            Each weight's noise is then that of its position in the whole, so that every division of the
            whole gives the same samples, but for the rounding of the matrix product.
    """
    if runs is not None:
        fused = None  # it wants whole blocks from aligned positions
    places = [(0, mean.numel(), 0)] if runs is None else list(runs)
    size, dtype, device, rank = mean.numel(), mean.dtype, mean.device, len(rows)
    source = NormalSource(device)
    first, last = indices.start - indices.start % _GROUP, -(-indices.stop // _GROUP) * _GROUP
    z2 = torch.zeros(last - first, rank, dtype=dtype, device=device)
    for index in indices:
        source.fill_(z2[index - first], key=key_for(seed, index, _SHARED))
    z2 *= row_scale
    theta = torch.empty(len(indices), size, dtype=dtype, device=device)
    step = min(_PIECE if fused is None else _FUSED_PIECE, max(-(-size // BLOCK), 1) * BLOCK)
    noise = torch.empty(step, dtype=dtype, device=device)
    moved = torch.empty(_GROUP * step, dtype=dtype, device=device)
    for start in range(0, size, step):
        at = slice(start, min(start + step, size))
        length = at.stop - at.start
        std, part = cov_diag[at].sqrt(), rows[:, at].to(dtype)
        for index in indices:
            out = theta[index - indices.start, at]
            if rank and (index % _GROUP == 0 or index == indices.start):
                group = index - index % _GROUP - first
                together = moved[: _GROUP * length].view(_GROUP, length)
                torch.mm(z2[group : group + _GROUP], part, out=together)
            key, done = key_for(seed, index, _DIAGONAL), 0
            whole = length - length % BLOCK
            if (
                fused is not None
                and whole
                and fused.add_(out[:whole], mean[at][:whole], std[:whole], key, start)
            ):
                done = whole
            if done < length:
                piece = noise[: length - done]
                for a, b, position in _within(places, start + done, at.stop):
                    source.fill_(piece[a:b], key=key, start=position)
                torch.addcmul(mean[at][done:], std[done:], piece, out=out[done:])
            if rank:
                out += together[index % _GROUP]
    return theta


def _within(runs: list[Run], start: int, stop: int) -> list[Run]:
    """The runs inside θ[start:stop], counted from `start`."""
    found = []
    for index in range(bisect.bisect_right(runs, start, key=lambda run: run[1]), len(runs)):
        first, last, position = runs[index]
        if first >= stop:
            break
        a, b = max(first, start), min(last, stop)
        found.append((a - start, b - start, position + a - first))
    return found


@final
class Fused:
    """Diagonal noise in one compiled pass: normals, scaling and adding without coming back from the cache.

    The first call compiles (seconds, and a C++ compiler on the CPU). Where that fails the eager way takes
    over for good, and a warning is logged.
    """

    def __init__(self) -> None:
        self._step: Callable[..., Any] | None = torch.compile(add_normals_)
        self._steps = torch.empty(0, dtype=torch.int64, device="cpu")

    def add_(self, out: Tensor, mean: Tensor, std: Tensor, key: int, start: int) -> bool:
        """Writes mean + std ⊙ normals of positions start … into `out` (m,), m a multiple of BLOCK.

        Returns:
            False where it could not be compiled; the values in `out` are then worthless.
        """
        if self._step is None:
            return False
        if len(self._steps) < out.numel() // 2 or self._steps.device != out.device:
            self._steps = weyl_steps(out.numel() // 2, out.device)
        base = base_of(key, start).to(out.device, non_blocking=True)
        try:
            self._step(out, mean, std, base, self._steps[: out.numel() // 2])
        except Exception as error:  # the compiler's failures have many classes
            _log.warning("torch.compile failed (%s); drawing goes on with the eager way", error)
            self._step = None
            return False
        return True

    def __reduce__(self) -> tuple[Callable[[], Fused], tuple[()]]:
        return Fused, ()
