"""What the quantizers accept, and how a refused input is named."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from swag.errors import InputError
from swag.noise import take_seed

LONGEST_WORD = 16
# Bits of a significand: a code of more bits cannot be written in the dtype.
_SIGNIFICAND = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def check_word(name: str, wl: int, *, least: int = 1, most: int = LONGEST_WORD) -> int:
    """The word length as a plain int.

    Raises:
        InputError: not a whole number from `least` to `most`.
    """
    whole = isinstance(wl, int | Integral) and not isinstance(wl, bool)
    if not whole or not least <= wl <= most:
        raise InputError(f"{name}: got {wl!r}; pass a word length of {least} to {most} bits")
    return int(wl)


def check_tensor(x: Tensor, wl: int) -> None:
    """Raises InputError for what is no real floating-point tensor, or cannot hold codes of wl bits."""
    if not isinstance(x, Tensor):
        raise InputError(f"x: got a {type(x).__name__}; pass a floating-point tensor")
    if x.dtype not in _SIGNIFICAND:
        raise InputError(
            f"x: got dtype {x.dtype}; only real floating-point tensors can be rounded to a grid: convert it "
            "with x.float(), or leave it out"
        )
    if wl > _SIGNIFICAND[x.dtype]:
        raise InputError(
            f"x: {x.dtype} has {_SIGNIFICAND[x.dtype]} significant bits, too few for codes of {wl}; "
            "pass x.float()"
        )


def check_rounding(rounding: str) -> None:
    """Raises InputError for a rounding that is neither "stochastic" nor "nearest"."""
    if rounding not in ("stochastic", "nearest"):
        raise InputError(f"rounding: got {rounding!r}; pass 'stochastic' or 'nearest'")


def check_dim(dim: int | None, ndim: int) -> int | None:
    """The dimension counted from the front.

    Raises:
        InputError: the tensor has no such dimension.
    """
    if dim is None:
        return None
    whole = isinstance(dim, int | Integral) and not isinstance(dim, bool)
    if not whole or not -ndim <= dim < ndim:
        raise InputError(f"dim: got {dim!r} for a tensor of {ndim} dimensions; pass one of them, or None")
    return int(dim) % ndim


def seed_for(rounding: str, generator: torch.Generator | None) -> int | None:
    """One seed from the generator where the rounding is stochastic, None where it is to nearest."""
    check_rounding(rounding)
    return take_seed(generator) if rounding == "stochastic" else None


def refuse_nan(x: Tensor) -> None:
    """Raises InputError that counts the NaNs of x."""
    n = int(x.isnan().sum())
    raise InputError(
        f"x: holds {n} NaN{'s' if n > 1 else ''} of {x.numel():,} values; a NaN has no place on a grid: look "
        "for what made it (a learning rate too high, a division by zero)"
    )
