"""Schedules that move at every step of the optimizer, and not once an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, final

from swag.schedules import Schedule


@final
class EveryStep:
    """Says that a schedule is to be stepped after every optimizer step, where `train` does it once an epoch.

    One of `swag.schedules` is told the epoch with its fraction; any other, such as torch's `OneCycleLR`, is
    stepped without argument.

    Args:
        schedule: any LR scheduler.

    >>> import torch, swag.schedules
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> schedule = EveryStep(swag.schedules.fge_triangle(optimizer, lr_max=0.1, lr_min=0.02, cycle=2))
    >>> schedule.move_to(Fraction(1, 2))
    >>> round(optimizer.param_groups[0]["lr"], 3)
    0.06
    """

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def begin(self, n_steps: int | None) -> None:
        """Says how many steps the coming epoch has, where that is known; before its first one."""
        if isinstance(self.schedule, Schedule) and n_steps is not None:
            self.schedule.stepped(n_steps)

    def move_to(self, position: Fraction) -> None:
        """Sets the rates for what follows after `position` epochs."""
        if isinstance(self.schedule, Schedule):
            self.schedule.step(float(position))
        else:
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """The schedule's."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The schedule's."""
        self.schedule.load_state_dict(state)
