"""Quantizers as modules: of what flows through a layer, and of a weight."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from swag.errors import InputError
from swag.lowprecision.formats import Format
from swag.lowprecision.straight_through import rounds_gradient, straight_through
from swag.noise import checked_seed, key_for, take_seed

_FORWARD, _BACKWARD = 0, 1


@final
class Quantizer(nn.Module):
    r"""Rounds what passes: activations on the way forward, errors on the way back.

        forward   a ← Q_A(a)
        backward  e ← Q_E(e), past Q_A straight through

    In train mode the formats' own rounding is used; in eval mode values are rounded to nearest, so that
    predictions repeat. Errors that hold NaN or infinite values pass as they are, so that a
    `torch.amp.GradScaler` sees its overflows. Random numbers are numbered from a seed, and `state_dict()`
    holds seed and number: a run that is resumed rounds as it would have.

    Args:
        activations: Q_A, or None to leave them.
        errors: Q_E, or None to leave them.
        seed: of the random numbers; None takes one from torch's global generator.

    Raises:
        InputError: no format where one is expected, a bad seed. Called: what the format refuses, such as NaN.

    Source: Yang et al. 2019 (SWALP), algorithm 2.

    >>> from swag.lowprecision import FixedPoint
    >>> Quantizer(FixedPoint(4, 2)).eval()(torch.tensor([0.3])).tolist()
    [0.25]
    """

    def __init__(
        self, activations: Format | None = None, errors: Format | None = None, *, seed: int | None = None
    ) -> None:
        super().__init__()
        check_format("activations", activations)
        check_format("errors", errors)
        self.activations = activations
        self.errors = errors
        self._seed = take_seed() if seed is None else checked_seed(seed)
        self._drawn = [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        """x on the activations' grid; its gradient will be put on the errors'."""
        if self.errors is not None:
            x = rounds_gradient(x, self._rounded_error)
        if self.activations is None:
            return x
        form = self.activations if self.training else self.activations.to_nearest()
        return straight_through(x, form.rounded(x, self._next(_FORWARD)))

    def _rounded_error(self, gradient: Tensor) -> Tensor:
        assert self.errors is not None
        # An overflow of scaled gradients is for the loss scaler to see, which skips the step and goes on;
        # without one, LowPrecisionOptimizer refuses what arrives.
        if not bool(gradient.isfinite().all()):
            return gradient
        form = self.errors if self.training else self.errors.to_nearest()
        return form.rounded(gradient, self._next(_BACKWARD))

    def _next(self, way: int) -> int:
        if self.training:
            self._drawn[way] += 1
        return key_for(self._seed, way, self._drawn[way])

    def get_extra_state(self) -> Tensor:
        """Seed and numbers drawn, for `state_dict()`."""
        # A seed may have 64 bits: as its two's complement.
        seed = self._seed - (1 << 64) if self._seed >> 63 > 0 else self._seed
        return torch.tensor([seed, *self._drawn], dtype=torch.int64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on where `get_extra_state` was taken."""
        if not isinstance(state, Tensor) or state.dtype != torch.int64 or state.shape != (3,):
            raise InputError("state_dict: a quantizer's state is not three whole numbers; pass one it gave")
        self._seed, *self._drawn = state.tolist()

    def extra_repr(self) -> str:
        """The formats."""
        return f"activations={self.activations}, errors={self.errors}"


@final
class WeightQuantizer(nn.Module):
    r"""A parametrisation: the layer computes with Q_W(w), the optimizer moves w (straight through).

    Args:
        form: Q_W. In eval mode it rounds to nearest.
        steps: a grid that stays; None finds the grid anew for every w.
        seed: of the random numbers; None takes one from torch's global generator.

    Raises:
        InputError: no format, a bad seed.
    """

    steps: Tensor | None

    def __init__(self, form: Format, steps: Tensor | None = None, *, seed: int | None = None) -> None:
        super().__init__()
        check_format("form", form)
        self.form = form
        self.register_buffer("steps", steps)
        self._draws = Quantizer(form, seed=seed)

    def forward(self, weight: Tensor) -> Tensor:
        """Q_W(weight)."""
        if self.steps is None:
            return self._draws(weight)
        stochastic = self.training and self.form.to_nearest() != self.form
        seed = self._draws._next(_FORWARD) if stochastic else None
        return straight_through(weight, self.form.on(weight, self.steps, seed))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What `layer.weight = weight` stores: the weight itself."""
        return weight

    def refit_(self, weight: Tensor) -> None:
        """Chooses the grid for `weight` and keeps it."""
        self.steps = self.form.steps(weight.detach())

    def extra_repr(self) -> str:
        """The format, and whether the grid stays."""
        return f"{self.form}, grid {'found anew' if self.steps is None else 'kept'}"


def check_format(name: str, form: Format | None) -> None:
    """Raises InputError for what is neither a format nor None."""
    if form is not None and not isinstance(form, Format):
        raise InputError(f"{name}: got {form!r}; pass a format such as BlockFloatingPoint(8, dim=0), or None")
