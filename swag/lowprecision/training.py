"""The word lengths of a training run, and a model and an optimizer that keep them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from swag.errors import InputError
from swag.lowprecision.block import BlockFloatingPoint
from swag.lowprecision.fixed import FixedPoint
from swag.lowprecision.formats import Format
from swag.lowprecision.inputs import make_for
from swag.lowprecision.kernel import Kernel, eager
from swag.lowprecision.model import quantize_model
from swag.lowprecision.optimizer import LowPrecisionOptimizer
from swag.noise import checked_seed, split_seeds, take_seed
from swag.parameters import unwrap


@final
@dataclass(frozen=True)
class Precision:
    """A format for each kind of number in training; None leaves that kind as it is.

    >>> import dataclasses
    >>> precision = dataclasses.replace(Precision.block(8), accumulators=BlockFloatingPoint(16, dim=0))
    >>> precision.weights.wl, precision.accumulators.wl
    (8, 16)
    """

    weights: Format | None = None
    gradients: Format | None = None
    activations: Format | None = None
    errors: Format | None = None
    momentum: Format | None = None
    accumulators: Format | None = None

    @classmethod
    def block(
        cls, wl: int = 8, *, rounding: str = "stochastic", small: bool = True, kernel: Kernel = eager
    ) -> Precision:
        """SWALP's: block floating point throughout, all of one word length, no longer accumulators.

        Args:
            wl: word length in bits.
            rounding: "stochastic" or "nearest".
            small: whether each output channel of a weight and each channel of an activation has its own
                exponent (the paper's "small-block"), or each tensor one ("big-block").
            kernel: of the arithmetic.
        """
        of_weights = BlockFloatingPoint(wl, 0 if small else None, None, rounding, kernel)
        of_data = BlockFloatingPoint(wl, 1 if small else None, None, rounding, kernel)
        return cls(of_weights, of_weights, of_data, of_data, of_weights)

    @classmethod
    def fixed(cls, wl: int, fl: int, *, rounding: str = "stochastic", kernel: Kernel = eager) -> Precision:
        """One fixed-point format for weights alone, as in the paper's convex experiments."""
        return cls(weights=FixedPoint(wl, fl, rounding, kernel))


def low_precision(
    model: nn.Module,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    precision: Precision,
    *,
    skip: Iterable[str] = (),
    strict: bool = False,
    seed: int | None = None,
) -> tuple[nn.Module, LowPrecisionOptimizer]:
    r"""A copy of the model and an optimizer for it, for SWALP or plain low-precision training.

    The layers' inputs and errors are rounded by the model, gradients, weights and momentum by the optimizer.
    Parameter names stay, so that a collector of the copy serves the original model.

    Args:
        model: any model; it is not changed.
        make_optimizer: the optimizer of given parameters.
        precision: the formats.
        skip: names of modules whose inputs and parameters stay in full precision.
        strict: as for `quantize_model`.
        seed: of the stochastic roundings; None takes one from torch's global generator.

    Raises:
        InputError: as `quantize_model` and `LowPrecisionOptimizer`; an optimizer that is not of the copy's
            parameters.

    >>> import swag
    >>> model = nn.Linear(2, 1)
    >>> lowbit, optimizer = low_precision(
    ...     model, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), Precision.block(8), seed=0)
    >>> collector = swag.Collector(lowbit)
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     lowbit(torch.ones(8, 2)).square().mean().backward()
    ...     optimizer.step()
    ...     collector.collect(lowbit)              # the average is kept in full precision
    >>> swalp, swag_of_it = collector.swa(), collector.swag()
    """
    if not isinstance(precision, Precision):
        raise InputError(f"precision: got {precision!r}; pass a Precision, such as Precision.block(8)")
    skip = [skip] if isinstance(skip, str) else list(skip)
    of_model, of_optimizer = split_seeds(take_seed() if seed is None else checked_seed(seed), 2)
    data: dict[str, Any] = {"activations": precision.activations, "errors": precision.errors}
    # One of the two is needed for the hooks; without both, a copy is all there is to make.
    if any(form is not None for form in data.values()):
        lowbit = quantize_model(model, **data, skip=skip, strict=strict, seed=of_model)
    else:
        lowbit = copy.deepcopy(unwrap(model))
    left = [p for name in skip for p in lowbit.get_submodule(name).parameters()]
    optimizer = LowPrecisionOptimizer(
        make_for(make_optimizer, lowbit),
        weights=precision.weights,
        gradients=precision.gradients,
        momentum=precision.momentum,
        accumulators=precision.accumulators,
        skip=left,
        seed=of_optimizer,
    )
    return lowbit, optimizer
