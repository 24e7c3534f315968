"""Questions that many arguments are asked."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from swag.errors import InputError


def whole(name: str, value: object, least: int = 1) -> int:
    """A whole number, `least` or more; numpy's count, True and False do not.

    Raises:
        InputError: it is none.

    >>> whole("n_samples", 30)
    30
    """
    if isinstance(value, bool) or not isinstance(value, int | Integral) or value < least:
        raise InputError(f"{name}: got {value!r}; pass a whole number, {least} or more")
    return int(value)


def tensor_of(values: Any) -> Tensor:
    """A tensor as it is, anything else as one on the CPU: numpy arrays, numbers, lists.

    `torch.as_tensor` would move both to `torch.set_default_device`'s device.

    >>> tensor_of([1.0, 2.0])
    tensor([1., 2.])
    """
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")


def part_of(share: float, total: int) -> int:
    """⌊share·total⌋ as it was meant: 0.29 of 100 is 29, though the product of the floats is a little less.

    >>> part_of(0.29, 100), part_of(1 / 3, 9), part_of(0.75, 10)
    (29, 3, 7)
    """
    return int(round(float(share) * total, 6))
