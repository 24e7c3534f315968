"""What is told to the user's own code after every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import nn

from swag.errors import InputError
from swag.training.snapshots import Store
from swag.training.triggers import NonMonotonicTrigger


@final
@dataclass(frozen=True)
class Epoch:
    """One epoch that has ended.

    Attributes:
        number: from 1.
        of: the epochs of the whole run.
        step: optimizer steps so far.
        loss: mean training loss over the epoch's rows, as the steps saw it.
        validation_loss: of the weights as they are, in eval mode; None without `validation`.
        rates: the learning rate of every parameter group at the epoch's last step.
        n_collected: snapshots so far.
        model: the model itself.
        optimizer: the optimizer itself.
    """

    number: int
    of: int
    step: int
    loss: float
    validation_loss: float | None
    rates: tuple[float, ...]
    n_collected: int
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def row(self) -> dict[str, Any]:
        """The numbers alone, for the history."""
        return {
            "epoch": self.number,
            "step": self.step,
            "loss": self.loss,
            "validation_loss": self.validation_loss,
            "rates": list(self.rates),
            "n_collected": self.n_collected,
        }


@final
@dataclass(frozen=True)
class Step:
    """One optimizer step that was taken.

    Attributes:
        number: from 1, over all epochs.
        epoch: the epochs that are over, the present one's part included; whole epochs alone where the loader
            does not know its length.
        model: the model itself.
        optimizer: the optimizer itself.
    """

    number: int
    epoch: float
    model: nn.Module
    optimizer: torch.optim.Optimizer


@final
@dataclass(frozen=True)
class Stop:
    """What a callback returns to end the training after this epoch.

    Attributes:
        reason: for the log, and the checkpoint.
    """

    reason: str = "a callback said so"


class Callback(Protocol):
    """Anything that can be called with an `Epoch`: a function, or an object.

    It may evaluate the model as it likes: the modes come back, but for layers that it freezes. What it
    returns is ignored, but for a `Stop`, which ends the training: the other callbacks are still called, the
    checkpoint is written, and a run that resumes from it is over, too.

    One that also has `after_step(step)` is told of every `Step`, as soon as it was taken. One that also has
    `state_dict()` and `load_state_dict(state)`, with tensors and plain data, is kept in the checkpoint and
    resumed with the rest.
    """

    def __call__(self, epoch: Epoch, /) -> object:
        """Called after every epoch, before its checkpoint is written."""


@runtime_checkable
class StepCallback(Protocol):
    """A callback that is told of every step."""

    def after_step(self, step: Step, /) -> object:
        """Called after every optimizer step."""


@final
class CollectInto:
    """A callback for a second average beside the trainer's collector, kept in the checkpoint.

    Args:
        average: anything with `collect(model)` and a state, such as `RunningAverage(model, EMA(0.999))`.
        start: epochs before the first snapshot.
        every_steps: optimizer steps between two snapshots, 1 for the usual EMA; None for one an epoch.
        trigger: averaging begins when it says so, too; it observes the validation loss after every epoch
            (NT-ASGD), and is kept in the checkpoint.

    Raises:
        InputError: no such numbers; at the first epoch, a trigger without `validation=` in `train`.

    >>> from torch.nn import functional as F
    >>> import swag.training
    >>> model, x = nn.Linear(4, 2), torch.randn(32, 4)
    >>> late = swag.training.Snapshots(model)
    >>> result = swag.training.train(
    ...     model,
    ...     [(x, (x[:, 0] > 0).long())],
    ...     F.cross_entropy,
    ...     epochs=4,
    ...     callbacks=[CollectInto(late, start=1)],
    ... )
    >>> late.n_collected
    3
    """

    def __init__(
        self,
        average: Store,
        start: float = 0,
        *,
        every_steps: int | None = None,
        trigger: NonMonotonicTrigger | None = None,
    ) -> None:
        if not callable(getattr(average, "collect", None)):
            raise InputError(f"average: got a {type(average).__name__}; pass an average, such as an EMA's")
        if isinstance(start, bool) or not isinstance(start, float | Real) or not start >= 0:
            raise InputError(f"start: got {start!r}; pass a number of epochs, 0 or more")
        if every_steps is not None and (
            isinstance(every_steps, bool) or not isinstance(every_steps, int | Integral) or every_steps < 1
        ):
            raise InputError(f"every_steps: got {every_steps!r}; pass a number of steps, 1 or more, or None")
        if trigger is not None and not isinstance(trigger, NonMonotonicTrigger):
            raise InputError(f"trigger: got a {type(trigger).__name__}; pass a NonMonotonicTrigger, or None")
        self.average, self.start = average, start
        self.every_steps, self.trigger = every_steps, trigger

    def __call__(self, epoch: Epoch, /) -> None:
        """Takes a snapshot, where one is taken after epochs."""
        if self.trigger is not None:
            if epoch.validation_loss is None:
                raise InputError("trigger: wants validation losses; pass validation= to train")
            self.trigger.observe(epoch.validation_loss)
        if self.every_steps is None and epoch.number > self.start and self._triggered:
            self.average.collect(epoch.model)

    def after_step(self, step: Step, /) -> None:
        """Takes a snapshot, where one is taken after steps."""
        if self.every_steps is None or step.number % self.every_steps:
            return
        if step.epoch > self.start and self._triggered:
            self.average.collect(step.model)

    def state_dict(self) -> Mapping[str, Any]:
        """The average's and the trigger's."""
        trigger = None if self.trigger is None else self.trigger.state_dict()
        return {"average": self.average.state_dict(), "trigger": trigger}

    def load_state_dict(self, state: Any) -> None:
        """Goes on where `state_dict()` was taken.

        Raises:
            InputError: another average, or with a trigger where this has none, or the other way about.
        """
        if not isinstance(state, Mapping) or not {"average", "trigger"} <= state.keys():
            raise InputError("state: pass what CollectInto.state_dict() returned")
        if (state["trigger"] is None) != (self.trigger is None):
            raise InputError("state: was written with a trigger, and here is none, or the other way about")
        self.average.load_state_dict(state["average"])
        if self.trigger is not None:
            self.trigger.load_state_dict(state["trigger"])

    @property
    def _triggered(self) -> bool:
        return self.trigger is None or self.trigger.triggered
