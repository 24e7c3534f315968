"""Symmetric uniform grids {−L·Δ, …, 0, …, L·Δ}: the weights of SQWA."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.lowprecision.formats import work_dtype
from swag.lowprecision.inputs import check_dim, check_rounding, check_tensor, check_word, seed_for
from swag.lowprecision.kernel import Kernel, eager
from swag.lowprecision.straight_through import straight_through

LEAST_BITS, MOST_BITS = 2, 8
# Steps tried, each 2^(−1/4) of the one before: down to a sixteenth of max|x|/L, for tails ten times σ.
_TRIED = 17
_REFINEMENTS = 20


def symmetric_uniform(
    x: Tensor,
    bits: int,
    *,
    dim: int | None = None,
    step: Tensor | float | None = None,
    rounding: str = "nearest",
    generator: torch.Generator | None = None,
    kernel: Kernel = eager,
) -> Tensor:
    r"""Rounds to a symmetric uniform grid of 2^bits − 1 levels; with 2 bits {−Δ, 0, Δ}.

        Q(x) = sign(x)·Δ·min(⌊|x|/Δ + ½⌋, L),   L = 2^(bits−1) − 1

    with the Δ that makes Σ(x − Q(x))² small (see `symmetric_steps`), unless it is given. Ties go to even.
    Gradients pass straight through.

    Args:
        x: any shape, real floating point, finite.
        bits: 2 to 8.
        dim: each slice x.select(dim, i) has its own Δ; None is one Δ for the tensor.
        step: Δ, the grid of an earlier call: one number, or one for each slice along a dimension, in a shape
            that broadcasts against x.
        rounding: "nearest" or "stochastic".
        generator: gives one seed for all of x; None takes torch's own. Not used to nearest.
        kernel: `compiled_kernel()` fuses the arithmetic into one pass.

    Returns:
        A new tensor of x's shape and dtype.

    Raises:
        InputError: bits out of range, no such dimension, a step that is not positive or does not fit, an
            integer tensor, a NaN or an infinite value, an unknown rounding.

    Source: Shin, Boo & Sung 2020 (SQWA), arXiv:2002.00343, eq. 1.

    >>> symmetric_uniform(torch.tensor([-1.1, 0.2, 0.1, 0.9]), 2).tolist()
    [-1.0, 0.0, 0.0, 1.0]
    """
    found = SymmetricUniform(bits, dim, rounding, kernel)
    check_tensor(x, bits)
    check_dim(dim, x.ndim)
    steps = symmetric_steps(x, bits, dim=dim) if step is None else _given(step, x)
    return straight_through(x, found.on(x, steps, seed_for(rounding, generator)))


def symmetric_steps(x: Tensor, bits: int, *, dim: int | None = None) -> Tensor:
    r"""The Δ that makes Σ(x − Q(x))² small, of the tensor or of each slice.

    The best of 17 steps between max|x|/L and a sixteenth of it, refined by alternating k = Q(x)/Δ with
    Δ = Σ x·k / Σ k² (each step of which cannot increase the error). Δ has 16 significant bits, so that Δ·k is
    exact, and rounding twice changes nothing.

    Args:
        x: finite, real floating point.
        bits: 2 to 8.
        dim: as for `symmetric_uniform`.

    Returns:
        (1, …, C, …, 1), or a scalar where `dim` is None; 1 for slices of zeros.

    Raises:
        InputError: as `symmetric_uniform`.

    Source: Hwang & Sung 2014, "Fixed-point feedforward deep neural network design using weights +1, 0,
    and −1".

    >>> symmetric_steps(torch.tensor([-1.0, 0.0, 3.0]), 3).item()
    1.0
    """
    check_word("bits", bits, least=LEAST_BITS, most=MOST_BITS)
    check_tensor(x, bits)
    dim = check_dim(dim, x.ndim)
    x = x.detach().to(work_dtype(x.dtype))
    if x.numel() == 0:
        return x.new_ones(())
    _check_finite(x)
    others = list(range(x.ndim)) if dim is None else [d for d in range(x.ndim) if d != dim]
    keep = dim is not None

    def total(values: Tensor) -> Tensor:
        return values.sum(others, keepdim=keep) if others else values.clone()

    levels = (1 << (bits - 1)) - 1
    largest = x.abs().amax(others, keepdim=keep) if others else x.abs()
    largest = torch.where(largest > 0, largest, torch.full_like(largest, levels))
    best, least = largest / levels, torch.full_like(largest, torch.inf)
    for index in range(_TRIED):
        step = _short(largest / levels * 2.0 ** (-index / 4))
        error = total((x - _codes(x, step, levels) * step).square_())
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    for _ in range(_REFINEMENTS):
        codes = _codes(x, best, levels)
        weight = total(codes * codes)
        step = _short(torch.where(weight > 0, total(x * codes) / weight.clamp(min=1), best))
        if torch.equal(step, best):
            break
        best = step
    return best


@final
@dataclass(frozen=True)
class SymmetricUniform:
    """`symmetric_uniform` as a format; with a `dim`, tensors with at most one dimension get one step each.

    Raises:
        InputError: bits out of range, an unknown rounding.

    >>> SymmetricUniform(3).codes
    (-3, 3)
    """

    wl: int
    dim: int | None = None
    rounding: str = "nearest"
    kernel: Kernel = field(default=eager, repr=False)

    def __post_init__(self) -> None:
        check_word("bits", self.wl, least=LEAST_BITS, most=MOST_BITS)
        check_rounding(self.rounding)

    @property
    def codes(self) -> tuple[int, int]:
        """−L and L, L = 2^(bits−1) − 1."""
        return 1 - (1 << (self.wl - 1)), (1 << (self.wl - 1)) - 1

    def __call__(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """`symmetric_uniform(x, bits, …)`; tensors without the dimension with one step."""
        steps = self.steps(x)
        return straight_through(x, self.on(x, steps, seed_for(self.rounding, generator)))

    def steps(self, x: Tensor) -> Tensor:
        """Δ of the tensor or of every slice."""
        dim = self.dim
        if dim is not None and (x.ndim < 2 or not -x.ndim <= dim < x.ndim):
            dim = None
        return symmetric_steps(x, self.wl, dim=dim)

    def arranged(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def on(self, x: Tensor, steps: Tensor, seed: int | None) -> Tensor:
        """x rounded to multiples of `steps`."""
        x = x.detach()
        # A kept grid may have followed its model to half precision.
        steps = steps.to(work_dtype(x.dtype))
        return self.kernel(x.to(steps.dtype), steps, *self.codes, seed).to(x.dtype)

    def rounded(self, x: Tensor, seed: int) -> Tensor:
        """x on the grid, without gradients."""
        return self.on(x, self.steps(x), seed if self.rounding == "stochastic" else None)

    def to_nearest(self) -> SymmetricUniform:
        """The same grid, rounding to nearest."""
        return replace(self, rounding="nearest")


def _given(step: Tensor | float, x: Tensor) -> Tensor:
    """The caller's step, in as many dimensions as x has, or as a scalar."""
    steps = torch.as_tensor(step, dtype=work_dtype(x.dtype), device=x.device)
    if not bool((steps > 0).all()) or not bool(steps.isfinite().all()):
        raise InputError("step: holds values that are not positive, or not finite; pass Δ > 0")
    _check_finite(x)
    if steps.numel() == 1:
        return steps.reshape(())
    # From the last dimension backwards, as torch broadcasts.
    shape = (1,) * (x.ndim - steps.ndim) + tuple(steps.shape)
    fits = len(shape) == x.ndim and all(a in (1, b) for a, b in zip(shape, x.shape, strict=True))
    if not fits or sum(side > 1 for side in shape) > 1:
        raise InputError(
            f"step: got shape {tuple(steps.shape)} for x of shape {tuple(x.shape)}; pass one number, or one "
            "for each slice along one dimension, as symmetric_steps(x, bits, dim=…) gives them"
        )
    return steps.view(shape)


def _check_finite(x: Tensor) -> None:
    if not bool(x.isfinite().all()):
        raise InputError(
            "x: holds NaN or infinite values, for which no step is best; look for what made them"
        )


def _codes(x: Tensor, step: Tensor, levels: int) -> Tensor:
    return (x / step).round_().clamp_(-levels, levels)


def _short(step: Tensor) -> Tensor:
    """A step of 16 significant bits: with a code's seven, products are exact."""
    if step.dtype == torch.float64:
        return ((step.view(torch.int64) + (1 << 36)) & ~((1 << 37) - 1)).view(torch.float64)
    return ((step.view(torch.int32) + (1 << 7)) & ~((1 << 8) - 1)).view(torch.float32)
