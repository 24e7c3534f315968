"""When to start averaging: NT-ASGD's rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, final

from swag.errors import InputError

STATE_VERSION = 1


@final
class NonMonotonicTrigger:
    r"""Says when validation has stopped improving, so that averaging should start [NT-ASGD].

    After the t-th loss v_t:  triggered once  v_t > min(v_1 … v_{t−1−patience}), the best of the losses
    before but for the latest `patience`. Once triggered it stays so.

    Args:
        patience: n, how many of the latest losses before v_t do not count; the paper's is 5.

    Raises:
        InputError: patience below 1.

    Source: Merity et al. 2018, arXiv:1708.02182, algorithm 1.

    >>> trigger = NonMonotonicTrigger(patience=2)
    >>> [trigger.observe(loss) for loss in (3.0, 2.0, 1.5, 1.8, 2.2)]
    [False, False, False, False, True]
    """

    def __init__(self, patience: int = 5) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int | Integral) or patience < 1:
            raise InputError(f"patience: got {patience!r}; pass a number of losses, 1 or more")
        self.patience = int(patience)
        self._losses: list[float] = []
        self._triggered = False

    @property
    def triggered(self) -> bool:
        """Whether averaging should be on."""
        return self._triggered

    def observe(self, loss: float) -> bool:
        """Takes a validation loss in (lower is better); returns whether averaging should be on from now on.

        Raises:
            InputError: no number, or NaN.
        """
        if not isinstance(loss, Real) or isinstance(loss, bool) or math.isnan(loss):
            raise InputError(f"loss: got {loss!r}; pass the validation loss as a number (tensor.item())")
        older = self._losses[: -self.patience]
        self._triggered = self._triggered or bool(older and loss > min(older))
        self._losses.append(float(loss))
        return self._triggered

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists alone."""
        return {
            "version": STATE_VERSION,
            "patience": self.patience,
            "losses": list(self._losses),
            "triggered": self._triggered,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken.

        Raises:
            InputError: not such a state, or one of another patience.
        """
        if not isinstance(state, Mapping) or state.get("version") != STATE_VERSION:
            raise InputError("state: pass what NonMonotonicTrigger.state_dict() returned")
        if state.get("patience") != self.patience:
            raise InputError(f"state: has patience {state.get('patience')!r}, this trigger {self.patience}")
        self._losses = [float(loss) for loss in state["losses"]]
        self._triggered = bool(state["triggered"])
