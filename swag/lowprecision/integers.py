"""Codes and scales: a quantised tensor as integers, packed without gaps below 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.lowprecision.formats import Format
from swag.lowprecision.inputs import check_word

_BYTE = 8


@final
@dataclass(frozen=True)
class Integers:
    """A tensor as whole multiples of its steps.

    Args:
        codes: int8 or int16, in the shape that the steps broadcast against.
        steps: float32 or float64.
        wl: bits a code.
        low: the smallest code there may be; packed codes count from it.
        shape: of the tensor.
        dtype: of the tensor.
    """

    codes: Tensor
    steps: Tensor
    wl: int
    low: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def dequantize(self) -> Tensor:
        """codes·steps, in the tensor's shape and dtype."""
        values = self.codes.to(self.steps.dtype) * self.steps
        return values.reshape(-1)[: math.prod(self.shape)].view(self.shape).to(self.dtype)

    def packed(self) -> Tensor:
        """The codes, counted from `low`, as bytes of a bit stream."""
        return pack(self.codes.to(torch.int32) - self.low, self.wl)


def to_integers(x: Tensor, form: Format, steps: Tensor | None = None) -> Integers:
    """A tensor as integers of a format, rounded to nearest.

    Args:
        x: real floating point.
        form: the format.
        steps: its grid; by default the one that the format finds for x.

    Raises:
        InputError: what the format refuses.

    >>> from swag.lowprecision import FixedPoint
    >>> to_integers(torch.tensor([0.26, -2.0]), FixedPoint(4, 2)).codes.tolist()
    [1, -8]
    """
    x = x.detach()
    nearest = form.to_nearest()
    steps = nearest.steps(x) if steps is None else steps
    arranged = nearest.arranged(nearest.on(x, steps, None)).to(steps.dtype)
    # On the grid, so that the quotient differs from a whole number by rounding alone.
    codes = (arranged / steps).round_().to(torch.int8 if form.wl <= _BYTE else torch.int16)
    return Integers(codes, steps, form.wl, form.codes[0], tuple(x.shape), x.dtype)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers from 0 to 2^bits − 1 as a stream of bits, lowest first, in bytes.

    >>> pack(torch.tensor([1, 2, 3, 0, 1]), 2).tolist()
    [57, 1]
    """
    check_word("bits", bits)
    flat = codes.reshape(-1).to(torch.int32)
    places = torch.arange(bits, dtype=torch.int32, device=flat.device)
    stream = (flat[:, None] >> places & 1).to(torch.uint8).view(-1)
    stream = torch.nn.functional.pad(stream, (0, -stream.numel() % _BYTE)).view(-1, _BYTE)
    weights = 2 ** torch.arange(_BYTE, dtype=torch.uint8, device=flat.device)
    return (stream * weights).sum(1, dtype=torch.uint8)


def unpack(stream: Tensor, bits: int, n: int) -> Tensor:
    """The n numbers of `pack`, int32.

    Raises:
        InputError: the stream is of another length.

    >>> unpack(torch.tensor([57, 1], dtype=torch.uint8), 2, 5).tolist()
    [1, 2, 3, 0, 1]
    """
    check_word("bits", bits)
    if stream.dtype != torch.uint8 or stream.ndim != 1 or stream.numel() != packed_size(n, bits):
        raise InputError(
            f"stream: got {tuple(stream.shape)} of {stream.dtype}; {n} codes of {bits} bits fill "
            f"{packed_size(n, bits)} bytes"
        )
    places = torch.arange(_BYTE, dtype=torch.uint8, device=stream.device)
    single = (stream[:, None] >> places & 1).view(-1)[: n * bits].view(n, bits)
    return (single.to(torch.int32) << torch.arange(bits, dtype=torch.int32, device=stream.device)).sum(
        1, dtype=torch.int32
    )


def packed_size(n: int, bits: int) -> int:
    """The bytes that n codes fill."""
    return -(-n * bits // _BYTE)
