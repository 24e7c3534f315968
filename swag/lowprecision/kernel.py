"""The one rounding kernel behind all number formats: clamp(round(x/δ), low, high)·δ, eager or compiled.

Stochastic rounding compares the fraction f = x/δ − ⌊x/δ⌋ with u ~ U[0, 1): ⌊x/δ⌋ + [u < f]. That is
⌊x/δ + u⌋ without its rounding error: at 2¹⁵ steps from zero, float32 keeps eight bits of u in the sum, and a
number on the grid would move with probability 2⁻⁹.

u is a pure function of (seed, position), of 24 bits: the same in pieces or whole, eager or compiled, on every
device. A fraction is therefore rounded up with a probability right to 2⁻²⁴.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from swag.noise import key_for

_log = logging.getLogger(__name__)

# Shifts and multipliers of the hash "lowbias32" (Wellons 2018), as signed 32-bit numbers.
_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)
# Positions are 32-bit numbers; a longer tensor takes another key for each piece of so many values.
_PIECE = 1 << 30
# Values hashed at a time, so that the bits stay in the cache.
_CHUNK = 1 << 15


class Kernel(Protocol):
    """clamp(round(x/δ), low, high)·δ."""

    def __call__(self, x: Tensor, step: Tensor, low: int, high: int, seed: int | None) -> Tensor:
        """Rounds x to multiples of `step`, which broadcasts against it.

        Args:
            x: any shape, float32 or float64.
            step: δ > 0, of x's dtype.
            low: the smallest multiple.
            high: the largest.
            seed: of the uniform numbers of stochastic rounding; None rounds to nearest, ties to even.
        """


def eager(x: Tensor, step: Tensor, low: int, high: int, seed: int | None) -> Tensor:
    """The kernel in plain torch operations, piece by piece in the cache: of x's size is the result alone."""
    if x.numel() == 0:
        return x.clone()
    rows, steps = _merged(x, step)
    out = torch.empty_like(rows)
    uniform = None if seed is None else _Uniforms(seed, x.device)
    width = rows[0].numel()
    size = max(1, _CHUNK // width) if x.device.type == "cpu" else len(rows)
    whole = torch.empty_like(rows[:size])
    u = torch.empty(whole.numel(), dtype=torch.float32, device=x.device)
    for first in range(0, len(rows), size):
        piece, own = out[first : first + size], steps[first : first + size] if steps.ndim == 2 else steps
        # Clamped first, which for limits on the grid is the same, and leaves no ∞ − ∞.
        torch.div(rows[first : first + size], own, out=piece).clamp_(low, high)
        if uniform is None:
            piece.round_().mul_(own)
            continue
        floor, numbers = whole[: len(piece)], u[: piece.numel()]
        uniform.fill_(numbers, first * width)
        torch.floor(piece, out=floor)
        # ⌈f − u⌉ is 1 where u < f and 0 elsewhere: the sign of a difference of floats is exact.
        piece.sub_(floor).sub_(numbers.view(piece.shape)).ceil_().add_(floor).mul_(own)
    return _laid_out_as(x, out)


def uniforms(n: int, seed: int, *, device: torch.device | str = "cpu") -> Tensor:
    """n multiples of 2⁻²⁴ in [0, 1), float32; the first m do not depend on n.

    >>> torch.equal(uniforms(70_000, 7)[:5], uniforms(5, 7))
    True
    """
    out = torch.empty(n, dtype=torch.float32, device=device)
    _Uniforms(seed, out.device).fill_(out, 0)
    return out


class _Uniforms:
    """The uniform numbers of a seed, at any positions."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        # On the CPU in pieces that stay in the cache; elsewhere a launch costs more than memory.
        self._chunk = _CHUNK if device.type == "cpu" else _PIECE
        self._buffers = [torch.empty(0, dtype=torch.int32, device=device)] * 3

    def fill_(self, out: Tensor, start: int) -> None:
        """Writes the numbers of positions start … start + n − 1."""
        n = min(out.numel(), self._chunk)
        if self._buffers[0].numel() < n:
            positions = torch.arange(n, dtype=torch.int32, device=out.device)
            self._buffers = [positions, torch.empty_like(positions), torch.empty_like(positions)]
        first = 0
        while first < out.numel():
            piece, offset = divmod(start + first, _PIECE)
            # Not across the end of a piece, where the key changes.
            part = out[first : first + min(self._chunk, _PIECE - offset)]
            positions, a, b = (buffer[: part.numel()] for buffer in self._buffers)
            keys = _keys(self._seed, piece)
            torch.add(positions, _wrapped(keys[0] + offset), out=a)
            _mix_(a, b, 16).mul_(_M1)
            _mix_(a, b, 15).add_(keys[1]).mul_(_M2)
            # The upper bits, which a product mixes best: from −2²³ to 2²³ − 1.
            torch.bitwise_right_shift(a, 8, out=a)
            torch.mul(a, 2.0**-24, out=part).add_(0.5)
            first += part.numel()


def _mix_(bits: Tensor, shifted: Tensor, by: int) -> Tensor:
    torch.bitwise_right_shift(bits, by, out=shifted)
    # int32 shifts drag the sign along, which the mask takes away.
    shifted.bitwise_and_((1 << (32 - by)) - 1)
    return bits.bitwise_xor_(shifted)


def _keys(seed: int, piece: int) -> tuple[int, int]:
    key = key_for(seed, piece)
    return _wrapped(key), _wrapped(key >> 32)


def _wrapped(value: int) -> int:
    """The lower 32 bits as a signed number: torch's unsigned types lack the arithmetic."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def compiled_kernel() -> Kernel:
    """The kernel fused into one pass by `torch.compile`; pass it as `kernel=`.

    It gives the same numbers as the eager one. The first calls compile (seconds, and a C++ compiler on the
    CPU). Where that fails the eager kernel takes over for good, and a warning is logged.
    """
    return _Compiled()


class _Compiled:
    def __init__(self) -> None:
        self._fused: Callable[..., Tensor] | None = torch.compile(_fused, dynamic=True)

    def __call__(self, x: Tensor, step: Tensor, low: int, high: int, seed: int | None) -> Tensor:
        if self._fused is None or not 0 < x.numel() <= _PIECE:
            return eager(x, step, low, high, seed)
        # Numbers go in as tensors: as numbers they would be compiled anew for each value.
        limits = torch.tensor([low, high], dtype=x.dtype, device=x.device)
        keys = None
        if seed is not None:
            keys = torch.tensor(_keys(seed, 0), dtype=torch.int32, device=x.device)
        try:
            # The fused loop runs over one, two or three dimensions, whatever the tensor's own.
            found = self._fused(*_merged(x, step), limits, keys)
        except Exception as error:  # the compiler's failures have many classes
            _log.warning("torch.compile failed (%s); rounding goes on with the eager kernel", error)
            self._fused = None
            return eager(x, step, low, high, seed)
        return _laid_out_as(x, found)

    def __reduce__(self) -> tuple[Callable[[], Kernel], tuple[()]]:
        return compiled_kernel, ()


def _merged(x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """x as (before, C, after) with `step` (1, C, 1), or flat where one step serves all."""
    x = x.contiguous()
    if step.numel() == 1:
        return x.view(-1), step.view(())
    dim = next(d for d, side in enumerate(step.shape) if side > 1)
    before = x.shape[:dim].numel()
    if before == 1:
        return x.view(x.shape[dim], -1), step.reshape(-1, 1)
    return x.view(before, x.shape[dim], -1), step.reshape(1, -1, 1)


def _laid_out_as(x: Tensor, rows: Tensor) -> Tensor:
    """The rows in x's shape and memory order, such as channels_last."""
    shaped = rows.view(x.shape)
    return shaped if x.is_contiguous() else torch.empty_like(x).copy_(shaped)


def _fused(x: Tensor, step: Tensor, limits: Tensor, keys: Tensor | None) -> Tensor:
    scaled = (x / step).clamp(limits[0], limits[1])
    if keys is None:
        return scaled.round() * step
    bits: Any = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape) + keys[0]
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * _M1
    bits = ((bits ^ ((bits >> 15) & 0x1FFFF)) + keys[1]) * _M2
    whole = scaled.floor()
    up = (scaled - whole) > (bits >> 8).to(torch.float32) * 2.0**-24 + 0.5
    return (whole + up) * step
