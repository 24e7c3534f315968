"""What is told to the user's own code after every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import nn

from swag.training.snapshots import Store


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
        rates: the learning rate of every parameter group, for the next step.
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


class Callback(Protocol):
    """Anything that can be called with an `Epoch`: a function, or an object.

    One that also has `state_dict()` and `load_state_dict(state)`, with tensors and plain data, is kept in the
    checkpoint and resumed with the rest.
    """

    def __call__(self, epoch: Epoch, /) -> object:
        """Called after every epoch, before its checkpoint is written."""


@final
class CollectInto:
    """A callback for a second average beside the trainer's collector: a snapshot after every epoch.

    Args:
        average: anything with `collect(model)` and a state, such as an EMA; it is kept in the checkpoint.
        start: epochs before the first snapshot.

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

    def __init__(self, average: Store, start: int = 0) -> None:
        self.average, self.start = average, start

    def __call__(self, epoch: Epoch, /) -> None:
        """Takes a snapshot."""
        if epoch.number > self.start:
            self.average.collect(epoch.model)

    def state_dict(self) -> Mapping[str, Any]:
        """The average's."""
        return self.average.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """The average's."""
        self.average.load_state_dict(state)
