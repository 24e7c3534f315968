"""Randomness: one seed taken from the caller's generator, then counter-based streams of our own.

Every sampler takes exactly one 63-bit number from its `generator` (or from torch's global one), so what
it consumes does not depend on how much is drawn. From there a normal number is a pure function of
(key, position): the same however many are drawn together, on any device, whatever the chunking.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import final

import torch
from torch import Tensor

from swag.errors import InputError

_LARGEST = (1 << 63) - 1
_MASK = (1 << 64) - 1
# Fractional part of the golden ratio: the additive sequence with the least discrepancy in one dimension.
_GOLDEN = 0.6180339887498949
# SplitMix64 (Steele, Lea & Flood 2014): the Weyl increment, and (shift, multiplier) of its finaliser.
_WEYL = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
# Positions come in blocks of 2·_HALF: the first half takes the cosines, the second the sines.
_HALF = 512
BLOCK = 2 * _HALF
_CHUNK = 1 << 17


def take_seed(generator: torch.Generator | None = None) -> int:
    """One seed from `generator`, or from torch's global generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator: got {generator!r}; pass torch.Generator().manual_seed(…), or None for torch's own"
        )
    device = generator.device if generator is not None else torch.device("cpu")
    return int(torch.randint(_LARGEST, (), generator=generator, device=device, dtype=torch.int64))


def checked_seed(seed: int) -> int:
    """The seed as a plain int.

    Raises:
        InputError: it is no integer of 64 bits.
    """
    is_whole = isinstance(seed, int | Integral) and not isinstance(seed, bool)
    if not is_whole or not -_LARGEST <= seed <= _MASK:
        raise InputError(f"seed: got {seed!r}; pass an integer such as 0, or None")
    return int(seed)


def key_for(seed: int, *numbers: int) -> int:
    """A 64-bit key from a seed and numbers, such as a sample's index and a stream's.

    >>> key_for(0, 1) == key_for(0, 1), key_for(0, 1) == key_for(1, 0)
    (True, False)
    """
    key = _mix(seed + _WEYL)
    for number in numbers:
        # Twice the increment: with once, seed and number could change places.
        key = _mix(key ^ _mix(number + 2 * _WEYL))
    return key


def split_seeds(seed: int, n: int) -> list[int]:
    """n seeds of 63 bits from one; the first m do not depend on n."""
    return [key_for(seed, index) & _LARGEST for index in range(n)]


@final
class NormalSource:
    r"""Standard normal numbers as a pure function of (key, position), filled in place.

    With pair number j of a key, z = SplitMix64(key + j·φ), its upper 31 bits give u ∈ (0, 1], its lower 32
    bits an angle a ∈ [−π, π), and (Box & Muller 1958)

        √(−2 ln u)·cos a,   √(−2 ln u)·sin a

    are two independent normals. u ≥ 2⁻³², so |n| ≤ 6.66. Computed in float32 on every device; devices
    differ by the rounding of ln, cos and sin alone.

    Args:
        device: where numbers are wanted; scratch there is 3 MiB however many are drawn.

    >>> source = NormalSource("cpu")
    >>> whole, part = torch.empty(5000), torch.empty(100)
    >>> source.fill_(whole, key=7)
    >>> source.fill_(part, key=7, start=4000)
    >>> torch.equal(part, whole[4000:4100])
    True
    """

    def __init__(self, device: torch.device | str) -> None:
        half = _CHUNK // 2
        self._weyl = weyl_steps(half, device)
        self._bits = torch.empty_like(self._weyl)
        self._shifted = torch.empty_like(self._weyl)
        self._radius = torch.empty(half, dtype=torch.float32, device=device)
        self._angle = torch.empty_like(self._radius)
        self._spare = torch.empty(_CHUNK, dtype=torch.float32, device=device)

    def fill_(self, out: Tensor, *, key: int, start: int = 0) -> None:
        """Writes the normals of positions start … start + m − 1 into `out` (m,), of any floating dtype."""
        stop = start + out.numel()
        low = start - start % BLOCK
        while low < stop:
            high = min(low + _CHUNK, -(-stop // BLOCK) * BLOCK)
            a, b = max(low, start), min(high, stop)
            piece = out[a - start : b - start]
            if (a, b) == (low, high) and out.dtype == torch.float32 and out.is_contiguous():
                self._fill_blocks(piece, key, low // 2)
            else:
                spare = self._spare[: high - low]
                self._fill_blocks(spare, key, low // 2)
                piece.copy_(spare[a - low : b - low])
            low = high

    def _fill_blocks(self, out: Tensor, key: int, first_pair: int) -> None:
        half = out.numel() // 2
        bits, shifted = self._bits[:half], self._shifted[:half]
        radius, angle = self._radius[:half], self._angle[:half]
        torch.add(self._weyl[:half], _signed(key + first_pair * _WEYL), out=bits)
        for shift, multiplier in _ROUNDS:
            bits.bitwise_xor_(_shift_right(bits, shift, shifted)).mul_(_signed(multiplier))
        bits.bitwise_xor_(_shift_right(bits, _LAST_SHIFT, shifted))
        radius.copy_(_shift_right(bits, 33, shifted))
        # The upper 31 bits k as (k + ½)/2³¹ keep their relative precision near 0, where the tails are.
        radius.add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
        angle.copy_(bits.view(torch.int32).view(-1, 2)[:, 0]).mul_(math.pi * 2.0**-31)
        blocks = out.view(-1, 2, _HALF)
        torch.cos(angle.view(-1, _HALF), out=blocks[:, 0])
        torch.sin(angle.view(-1, _HALF), out=blocks[:, 1])
        blocks.mul_(radius.view(-1, 1, _HALF))


def add_normals_(out: Tensor, mean: Tensor, std: Tensor, base: Tensor, steps: Tensor) -> None:
    """out = mean + std ⊙ normals (m,), m a multiple of BLOCK; one expression, for `torch.compile`.

    The formula of `NormalSource`, which computes it in place, step by step.

    Args:
        out: (m,).
        mean: (m,).
        std: (m,).
        base: int64 scalar, `base_of` the key and the first position.
        steps: (m/2,), `weyl_steps`; a table, since the compiler's index arithmetic does not wrap around.
    """
    bits = base + steps
    for shift, multiplier in _ROUNDS:
        bits = (bits ^ _shifted_right(bits, shift)) * _signed(multiplier)
    bits = bits ^ _shifted_right(bits, _LAST_SHIFT)
    radius = ((_shifted_right(bits, 33).float() + 0.5) * 2.0**-31).log().mul(-2).sqrt().view(-1, _HALF)
    angle = (bits.to(torch.int32).float() * (math.pi * 2.0**-31)).view(-1, _HALF)
    normals = torch.cat([radius * angle.cos(), radius * angle.sin()], 1).view(-1)
    out.copy_(mean + std * normals)


def weyl_steps(n_pairs: int, device: torch.device | str) -> Tensor:
    """j·φ modulo 2⁶⁴ for j below n_pairs, as int64."""
    return torch.arange(n_pairs, dtype=torch.int64, device=device).mul_(_signed(_WEYL))


def base_of(key: int, start: int) -> Tensor:
    """What `add_normals_` wants for a key and a first position, a multiple of BLOCK."""
    return torch.tensor(_signed(key + start // 2 * _WEYL), device="cpu")


def balanced_uniform(n: int, n_items: int, seed: int) -> Tensor:
    """n indices below n_items (n,): one random permutation after another, so every prefix is balanced.

    >>> balanced_uniform(6, 3, seed=0).bincount().tolist()
    [2, 2, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = [torch.randperm(n_items, generator=generator, device="cpu") for _ in range(-(-n // n_items))]
    return torch.cat(blocks)[:n] if blocks else torch.empty(0, dtype=torch.int64, device="cpu")


def balanced_weighted(n: int, weights: Tensor, seed: int) -> Tensor:
    """n indices (n,) distributed as `weights` (M,), from a golden-ratio sequence with a random start.

    Each index alone has exactly the distribution `weights`; every stretch of the sequence holds each
    item within O(log n) of its expected number.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand((), generator=generator, dtype=torch.float64, device="cpu")
    points = (start + torch.arange(n, dtype=torch.float64, device="cpu") * _GOLDEN) % 1.0
    edges = weights.double().cumsum(0)
    # The last item of positive weight takes the rounding of the sum.
    last = int(weights.nonzero()[-1])
    return torch.searchsorted(edges, points, right=True).clamp_(max=last)


def _mix(value: int) -> int:
    value &= _MASK
    for shift, multiplier in _ROUNDS:
        value = ((value ^ (value >> shift)) * multiplier) & _MASK
    return value ^ (value >> _LAST_SHIFT)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits: torch's unsigned types lack the arithmetic."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shifted_right(bits: Tensor, shift: int) -> Tensor:
    return (bits >> shift) & ((1 << (64 - shift)) - 1)


def _shift_right(bits: Tensor, shift: int, out: Tensor) -> Tensor:
    """Logical shift: int64 shifts drag the sign along, which the mask takes away."""
    torch.bitwise_right_shift(bits, shift, out=out)
    return out.bitwise_and_((1 << (64 - shift)) - 1)
