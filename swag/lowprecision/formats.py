"""What a number format is, and powers of two that are exact."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

# The exponents of steps and range ends that a dtype can write down; float16 counts its denormals, which
# every device keeps, the others do not.
EXPONENTS = {
    torch.float64: (-1022, 1023),
    torch.float32: (-126, 127),
    torch.bfloat16: (-126, 127),
    torch.float16: (-24, 15),
}


@runtime_checkable
class Format(Protocol):
    """A grid of numbers, and how values are rounded to it.

    A format is called as the functions are: `format(x, generator=None)`, with straight-through gradients.
    The other methods take it apart, for quantizers that keep a grid or number their draws.
    """

    @property
    def wl(self) -> int:
        """The word length in bits."""

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest multiple of the step."""

    def __call__(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """x on the grid, same shape and dtype."""

    def steps(self, x: Tensor) -> Tensor:
        """The step δ of every value of `arranged(x)`: broadcasts against it, float32 or float64."""

    def arranged(self, x: Tensor) -> Tensor:
        """x, or a view or padded copy of it, in the shape that the steps broadcast against."""

    def on(self, x: Tensor, steps: Tensor, seed: int | None) -> Tensor:
        """x on a grid of given steps; stochastic with numbers from `seed`, to nearest where it is None."""

    def rounded(self, x: Tensor, seed: int) -> Tensor:
        """x on the grid, without gradients, its random numbers (if it needs any) from `seed`."""

    def to_nearest(self) -> Format:
        """The same grid, rounding to nearest."""


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Where the arithmetic is done: half-precision tensors are rounded in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponent, exactly, for int32 exponents of normal numbers: torch's pow and exp2 are off by an ulp.

    >>> power_of_two(torch.tensor([-126, 0, 3], dtype=torch.int32), torch.float32).tolist()
    [1.1754943508222875e-38, 1.0, 8.0]
    """
    if dtype == torch.float64:
        return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)
