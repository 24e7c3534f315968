"""Gradients past a rounding: in the backward pass the quantizer is the identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """`quantized`, with ∂quantized/∂x taken as 1 everywhere, clamped values included.

    Source: Bengio, Léonard & Courville 2013, arXiv:1308.3432.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _StraightThrough.apply(x, quantized)
    return quantized


def rounds_gradient(x: Tensor, rounder: Callable[[Tensor], Tensor]) -> Tensor:
    """x itself; the gradient that comes back through it is passed through `rounder`."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _RoundedGradient.apply(x, rounder)
    return x


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class _RoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, rounder: Callable[[Tensor], Tensor]) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.rounder = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.rounder(grads[0]), None
