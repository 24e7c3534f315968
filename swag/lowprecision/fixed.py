"""Fixed point: one step 2^−fl for all values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.lowprecision.formats import EXPONENTS, work_dtype
from swag.lowprecision.inputs import check_rounding, check_tensor, check_word, refuse_nan, seed_for
from swag.lowprecision.kernel import Kernel, eager
from swag.lowprecision.straight_through import straight_through


def fixed_point(
    x: Tensor,
    wl: int,
    fl: int,
    *,
    rounding: str = "stochastic",
    generator: torch.Generator | None = None,
    kernel: Kernel = eager,
) -> Tensor:
    r"""Rounds to fixed point: wl bits in two's complement, fl of them behind the point.

    With δ = 2^−fl and u ~ U[0, 1) (to nearest: ties to even)

        Q(x) = clamp(δ·⌊x/δ + u⌋, −2^(wl−fl−1), 2^(wl−fl−1) − δ)

    Inside the range E[Q(x)] = x and Var[Q(x)] = δ²·f·(1 − f), f = x/δ − ⌊x/δ⌋. Values beyond the range, the
    infinite ones included, become its ends: from above, the bias is (2^(wl−fl−1) − δ) − x. Values on the grid
    stay as they are. Gradients pass straight through.

    Args:
        x: any shape, real floating point; half types need wl ≤ 8 (bfloat16) or 11 (float16).
        wl: word length, 1 to 16 bits, the sign included.
        fl: fractional bits; negative, or larger than wl, where the dtype can write the ends of the range.
        rounding: "stochastic" or "nearest".
        generator: gives one seed for all of x; None takes torch's own. Not used to nearest.
        kernel: `compiled_kernel()` fuses the arithmetic into one pass.

    Returns:
        A new tensor of x's shape and dtype.

    Raises:
        InputError: wl or fl out of range, an integer tensor, a NaN, an unknown rounding.

    Source: Gupta et al. 2015, arXiv:1502.02551; Yang et al. 2019 (SWALP), arXiv:1904.11943.

    >>> fixed_point(torch.tensor([0.3, -0.26, 9.0, -9.0]), 4, 2, rounding="nearest").tolist()
    [0.25, -0.25, 1.75, -2.0]
    """
    found = FixedPoint(wl, fl, rounding, kernel)
    steps = found.steps(x)
    return straight_through(x, found.on(x, steps, seed_for(rounding, generator)))


@final
@dataclass(frozen=True)
class FixedPoint:
    """`fixed_point` as a format: what it takes besides the values.

    Raises:
        InputError: wl out of range, an unknown rounding.

    >>> FixedPoint(8, 6)(torch.tensor([0.5])).tolist()
    [0.5]
    """

    wl: int
    fl: int
    rounding: str = "stochastic"
    kernel: Kernel = field(default=eager, repr=False)

    def __post_init__(self) -> None:
        check_word("wl", self.wl)
        check_rounding(self.rounding)
        if isinstance(self.fl, bool) or not isinstance(self.fl, int | Integral):
            raise InputError(f"fl: got {self.fl!r}; pass a whole number of fractional bits")

    @property
    def codes(self) -> tuple[int, int]:
        """−2^(wl−1) and 2^(wl−1) − 1."""
        return -(1 << (self.wl - 1)), (1 << (self.wl - 1)) - 1

    def __call__(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """`fixed_point(x, wl, fl, …)`."""
        return fixed_point(
            x, self.wl, self.fl, rounding=self.rounding, generator=generator, kernel=self.kernel
        )

    def steps(self, x: Tensor) -> Tensor:
        """2^−fl, a scalar."""
        check_tensor(x, self.wl)
        least, most = EXPONENTS[x.dtype]
        if -self.fl < least or self.wl - self.fl - 1 > most:
            raise InputError(
                f"fl: got {self.fl} with wl={self.wl}; {x.dtype} holds steps from 2^{least} and ranges up to "
                f"2^{most}: pass fl from {self.wl - 1 - most} to {-least}"
            )
        return torch.tensor(2.0**-self.fl, dtype=work_dtype(x.dtype), device=x.device)

    def arranged(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def on(self, x: Tensor, steps: Tensor, seed: int | None) -> Tensor:
        """x rounded to multiples of `steps`."""
        x = x.detach()
        if x.numel() == 0:
            return x.clone()
        # The largest value is NaN where any is.
        if bool(x.amax().isnan()):
            refuse_nan(x)
        steps = steps.to(work_dtype(x.dtype))
        return self.kernel(x.to(steps.dtype), steps, *self.codes, seed).to(x.dtype)

    def rounded(self, x: Tensor, seed: int) -> Tensor:
        """x on the grid, without gradients."""
        return self.on(x, self.steps(x), seed if self.rounding == "stochastic" else None)

    def to_nearest(self) -> FixedPoint:
        """The same grid, rounding to nearest."""
        return replace(self, rounding="nearest")
