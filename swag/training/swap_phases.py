"""The two ways of training in SWAP: all workers on one large batch, and each alone on small ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, final

from torch import Tensor

from swag.arguments import whole
from swag.errors import InputError
from swag.training.settings import MakeOptimizer, MakeSchedule

# n_right(outputs, targets) → how many rows are right, a scalar tensor.
Count = Callable[[Any, Any], Tensor]


@final
@dataclass(frozen=True)
class LargeBatch:
    """Phase 1: all workers together, stopped early.

    Attributes:
        size: rows of the large batch, the sum of the workers' pieces.
        max_epochs: where it ends at the latest.
        target_accuracy: it ends after the epoch whose training accuracy (a fraction, counted while training)
            is this or more; above 1 it never does.
        optimizer: a function from a list of parameters to an optimizer; None for `train`'s SGD.
        schedule: a function from the optimizer to a scheduler, stepped once an epoch, or after every step
            within `EveryStep`; None for the optimizer's own rates. Plan it for max_epochs.

    Raises:
        InputError: a value out of its range.
    """

    size: int
    max_epochs: int
    target_accuracy: float
    optimizer: MakeOptimizer | None = None
    schedule: MakeSchedule | None = None

    def __post_init__(self) -> None:
        whole("size", self.size)
        whole("max_epochs", self.max_epochs)
        accuracy = self.target_accuracy
        if not isinstance(accuracy, Real) or isinstance(accuracy, bool) or not accuracy > 0:
            raise InputError(f"target_accuracy: got {accuracy!r}; pass a fraction, such as 0.98")
        check_factories(self.optimizer, self.schedule)


@final
@dataclass(frozen=True)
class SmallBatch:
    """Phase 2: every worker alone, from the weights of phase 1 on, with a new optimizer.

    Attributes:
        size: rows of a batch.
        epochs: passes over the whole data set, each worker in an order of its own; 0 leaves this phase out,
            which is large-batch training alone, the baseline.
        optimizer: as in `LargeBatch`.
        schedule: as in `LargeBatch`; None for half a cosine down to 0 over these epochs.

    Raises:
        InputError: a value out of its range.
    """

    size: int
    epochs: int
    optimizer: MakeOptimizer | None = None
    schedule: MakeSchedule | None = None

    def __post_init__(self) -> None:
        whole("size", self.size)
        whole("epochs", self.epochs, 0)
        check_factories(self.optimizer, self.schedule)


def check_factories(optimizer: Any, schedule: Any) -> None:
    """Raises InputError for what belongs to one network: every worker needs its own."""
    for name, given in (("optimizer", optimizer), ("schedule", schedule)):
        is_instance = hasattr(given, "state_dict") and not isinstance(given, type)
        if given is not None and (is_instance or not callable(given)):
            raise InputError(
                f"{name}: got a {type(given).__name__}; pass a function that makes one, for every worker "
                "needs its own"
            )


def top_1(outputs: Any, targets: Any) -> Tensor:
    """How many rows of logits (N, C) have their maximum at the label (N,).

    Raises:
        InputError: other shapes.
    """
    is_pair = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not is_pair or outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        raise InputError(
            "n_right: cannot count right answers by itself, for it takes logits (N, C) and labels (N,); pass "
            "n_right=lambda outputs, targets: ... that returns how many rows are right"
        )
    return (outputs.argmax(1) == targets).sum()
