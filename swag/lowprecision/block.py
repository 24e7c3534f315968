"""Block floating point: values share an exponent, by tensor, by slice, or by runs of n."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from swag.errors import InputError
from swag.lowprecision.formats import EXPONENTS, power_of_two, work_dtype
from swag.lowprecision.inputs import (
    check_dim,
    check_rounding,
    check_tensor,
    check_word,
    refuse_nan,
    seed_for,
)
from swag.lowprecision.kernel import Kernel, eager
from swag.lowprecision.straight_through import straight_through

# Below the exponent of any number.
_NONE = -(1 << 20)


def block_floating_point(
    x: Tensor,
    wl: int,
    *,
    dim: int | None = None,
    rounding: str = "stochastic",
    generator: torch.Generator | None = None,
    block: int | None = None,
    kernel: Kernel = eager,
) -> Tensor:
    r"""Rounds to block floating point: one exponent a block, wl bits in two's complement a value.

    With e = ⌊log₂ max|x|⌋ over the block, δ = 2^(e−wl+2) and u ~ U[0, 1) (to nearest: ties to even)

        Q(x) = clamp(⌊x/δ + u⌋, −2^(wl−1), 2^(wl−1) − 1)·δ

    E[Q(x)] = x and Var[Q(x)] = δ²·f·(1 − f), f = x/δ − ⌊x/δ⌋, except within one step of the block's top,
    where the clamp takes E[Q(x)] − x = (2^(wl−1) − 1)·δ − x < 0.

    A block that is on a grid already stays, so that Q(Q(x)) = Q(x). That takes one exception: values that
    reach down to −2^k and are all multiples of the step of e = k − 1, whose range ends there, keep that step;
    the formula's e = k would move them.

    An all-zero block gives zeros. The step is never below the dtype's smallest normal number (float16:
    denormal number), so blocks of denormal numbers give zeros or single steps. In a block that reaches the
    dtype's topmost power of two (2¹²⁷ in float32, 2¹⁵ in float16), −2^(wl−1)·δ would be −∞, and codes start
    one higher. Gradients pass straight through.

    Args:
        x: any shape, real floating point; half types need wl ≤ 8 (bfloat16) or 11 (float16).
        wl: word length, 1 to 16 bits, the sign included.
        dim: each slice x.select(dim, i) has its own exponent: 0 for a weight's output channels ("small
            block"), 1 for the channels of images; None is one exponent for the tensor.
        rounding: "stochastic" or "nearest".
        generator: gives one seed for all of x; None takes torch's own. Not used to nearest.
        block: in place of `dim`, each run of so many values in row-major order has its own exponent.
        kernel: `compiled_kernel()` fuses the arithmetic into one pass.

    Returns:
        A new tensor of x's shape and dtype.

    Raises:
        InputError: wl out of range, no such dimension, both dim and block, an integer tensor, a NaN or an
            infinite value, an unknown rounding.

    Source: Yang et al. 2019 (SWALP), arXiv:1904.11943, section 3.1; Song et al. 2018.

    >>> x = torch.tensor([[1.0, 0.26], [0.25, 0.06]])
    >>> block_floating_point(x, 4, rounding="nearest").tolist()
    [[1.0, 0.25], [0.25, 0.0]]
    >>> block_floating_point(x, 4, dim=0, rounding="nearest").tolist()
    [[1.0, 0.25], [0.25, 0.0625]]
    """
    found = BlockFloatingPoint(wl, dim, block, rounding, kernel)
    check_tensor(x, found.wl)
    check_dim(dim, x.ndim)
    # Steps first: a refused tensor takes no number from the generator.
    steps = found._steps(x, dim)
    return straight_through(x, found.on(x, steps, seed_for(rounding, generator)))


@final
@dataclass(frozen=True)
class BlockFloatingPoint:
    """`block_floating_point` as a format for tensors of any shape.

    With a `dim`, tensors that have at most one dimension, or not that one, get one exponent each: a bias has
    no channels to tell apart, and an exponent of its own for every value would be no low precision.

    Raises:
        InputError: wl or block out of range, both dim and block, an unknown rounding.

    >>> BlockFloatingPoint(8, dim=0).steps(torch.tensor([[1.0], [4.0]])).tolist()
    [[0.015625], [0.0625]]
    """

    wl: int
    dim: int | None = None
    block: int | None = None
    rounding: str = "stochastic"
    kernel: Kernel = field(default=eager, repr=False)

    def __post_init__(self) -> None:
        check_word("wl", self.wl)
        check_rounding(self.rounding)
        if self.dim is not None and (isinstance(self.dim, bool) or not isinstance(self.dim, int | Integral)):
            raise InputError(f"dim: got {self.dim!r}; pass a dimension, or None for one exponent a tensor")
        if self.block is None:
            return
        if self.dim is not None:
            raise InputError(f"block: got {self.block!r} beside dim={self.dim!r}; pass one of the two")
        whole = isinstance(self.block, int | Integral) and not isinstance(self.block, bool)
        if not whole or self.block < 1:
            raise InputError(f"block: got {self.block!r}; pass how many values share an exponent, 1 or more")

    @property
    def codes(self) -> tuple[int, int]:
        """−2^(wl−1) and 2^(wl−1) − 1."""
        return -(1 << (self.wl - 1)), (1 << (self.wl - 1)) - 1

    def __call__(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """`block_floating_point(x, wl, …)`; tensors without the dimension as one block."""
        steps = self.steps(x)
        return straight_through(x, self.on(x, steps, seed_for(self.rounding, generator)))

    def steps(self, x: Tensor) -> Tensor:
        """δ = 2^(e−wl+2) of every block."""
        check_tensor(x, self.wl)
        dim = self.dim
        if dim is not None and (x.ndim < 2 or not -x.ndim <= dim < x.ndim):
            dim = None
        return self._steps(x, dim)

    def _steps(self, x: Tensor, dim: int | None) -> Tensor:
        dtype = work_dtype(x.dtype)
        if x.numel() == 0:
            return torch.ones((), dtype=dtype, device=x.device)
        x = self.arranged(x.detach())
        if self.block is not None:
            dim = 0
        dim = check_dim(dim, x.ndim)
        low, high = _extremes(x, dim)
        if not bool((high - low).isfinite().all()):
            _check_finite(x)
        exponents, edge = _exponents(low.to(dtype), high.to(dtype))
        steps = self._of(exponents, x.dtype)
        if bool(edge.any()):
            finer = self._of(exponents - edge.int(), x.dtype)
            steps = torch.where(_are_multiples(x, finer, edge, dim), finer, steps)
        return steps

    def _of(self, exponents: Tensor, dtype: torch.dtype) -> Tensor:
        """2^(e−wl+2), as far as the dtype goes."""
        least, most = EXPONENTS[dtype]
        exponents = (exponents - self.wl + 2).clamp_(least, min(most, most - self.wl + 2))
        return power_of_two(exponents, work_dtype(dtype))

    def arranged(self, x: Tensor) -> Tensor:
        """x itself; in blocks of n, x as rows of n values, padded with zeros."""
        if self.block is None:
            return x
        flat = x.reshape(-1)
        missing = -flat.numel() % self.block
        return (F.pad(flat, (0, missing)) if missing else flat).view(-1, self.block)

    def on(self, x: Tensor, steps: Tensor, seed: int | None) -> Tensor:
        """x rounded to multiples of `steps`."""
        x = x.detach()
        if x.numel() == 0:
            return x.clone()
        # A kept grid may have followed its model to half precision.
        steps = steps.to(work_dtype(x.dtype))
        rows = self.arranged(x).to(steps.dtype)
        found = self.kernel(rows, steps, *self.codes, seed)
        if self.wl > 1:
            found = self._ended(found, steps, x.dtype)
        if self.block is not None:
            found = found.view(-1)[: x.numel()].view(x.shape)
        return found.to(x.dtype)

    def _ended(self, found: Tensor, steps: Tensor, dtype: torch.dtype) -> Tensor:
        """Where −2^(wl−1)·δ is more than the dtype can write, the next code ends the range."""
        topmost = steps >= 2.0 ** (EXPONENTS[dtype][1] - self.wl + 2)
        if not bool(topmost.any()):
            return found
        return torch.maximum(found, torch.where(topmost, -self.codes[1] * steps, -torch.inf))

    def rounded(self, x: Tensor, seed: int) -> Tensor:
        """x on the grid, without gradients."""
        return self.on(x, self.steps(x), seed if self.rounding == "stochastic" else None)

    def to_nearest(self) -> BlockFloatingPoint:
        """The same grid, rounding to nearest."""
        return replace(self, rounding="nearest")


def _extremes(x: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of every block; NaN where a block holds one."""
    if dim is None:
        return torch.aminmax(x)
    others = [d for d in range(x.ndim) if d != dim]
    # Along no dimension, amin would reduce all of them.
    return (x.amin(others, keepdim=True), x.amax(others, keepdim=True)) if others else (x, x)


def _exponents(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """⌊log₂ max(|low|, |high|)⌋, far below all where both are zero; and where low = −2^e and high < 2^e."""
    # frexp: high = m·2^k with ½ ≤ m < 1, denormal numbers included.
    _, above = torch.frexp(high)
    mantissa, below = torch.frexp(low)
    above = torch.where(high > 0, above - 1, _NONE)
    below = torch.where(low < 0, below - 1, _NONE)
    return torch.maximum(above, below), (mantissa == -0.5) & (above < below)


def _are_multiples(x: Tensor, steps: Tensor, asked: Tensor, dim: int | None) -> Tensor:
    """Which of the blocks `asked` for hold multiples of their step alone; False for the others."""
    if dim is None:
        return (x.to(steps.dtype) / steps).frac_().abs_().amax() == 0
    # Of the few that are asked for alone.
    chosen = asked.flatten().nonzero().view(-1)
    rows = x.index_select(dim, chosen).to(steps.dtype)
    remainders = (rows / steps.index_select(dim, chosen)).frac_().abs_()
    others = [d for d in range(x.ndim) if d != dim]
    worst = remainders.amax(others) if others else remainders
    return torch.zeros_like(asked).flatten().index_fill(0, chosen[worst == 0], True).view_as(asked)


def _check_finite(x: Tensor) -> None:
    # high − low also overflows for finite values near both ends of the dtype's range.
    if bool(x.isnan().any()):
        refuse_nan(x)
    if bool(x.isinf().any()):
        raise InputError(
            f"x: holds {int(x.isinf().sum())} infinite values; a block with one has no exponent: clip "
            "them, or use fixed_point, which clamps them"
        )
