"""A second average at points of its own, such as the ends of cycles."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, final

from swag.errors import InputError
from swag.training.callbacks import Epoch, Step
from swag.training.points import Points, exact
from swag.training.snapshots import Store


@final
class CollectAt:
    """A callback that takes snapshots after first, first + every, first + 2·every, … epochs.

    Args:
        average: anything with `collect(model)` and a state, such as `RunningAverage(model)`.
        first: epochs before the first snapshot, above 0; fractions where the loader knows its length.
        every: epochs between two.

    Raises:
        InputError: no average, or a number that is not positive.

    >>> import torch
    >>> from torch import nn
    >>> from torch.nn import functional as F
    >>> import swag.training
    >>> model, x = nn.Linear(4, 2), torch.randn(32, 4)
    >>> ends = swag.training.RunningAverage(model)
    >>> batches = [(x, (x[:, 0] > 0).long())]
    >>> at = CollectAt(ends, first=2, every=3)
    >>> _ = swag.training.train(model, batches, F.cross_entropy, epochs=9, callbacks=[at])
    >>> ends.n_collected  # after 2, 5 and 8 epochs
    3
    """

    def __init__(self, average: Store, *, first: float, every: float) -> None:
        if not callable(getattr(average, "collect", None)):
            raise InputError(
                f"average: got a {type(average).__name__}; pass an average, such as RunningAverage"
            )
        points = Points(exact("first", first), exact("every", every))
        for name, value in (("first", points.first), ("every", points.every)):
            if value <= 0:
                raise InputError(f"{name}: got {float(value)!r}; pass a number of epochs above 0")
        self.average, self._points = average, points
        self._before = Fraction(0)

    def __call__(self, epoch: Epoch, /) -> None:
        """Takes the snapshot that became due by the epoch's end."""
        self._moved_to(Fraction(epoch.number), epoch.model)

    def after_step(self, step: Step, /) -> None:
        """Takes the snapshot that became due in this step."""
        self._moved_to(exact("epoch", step.epoch), step.model)

    def _moved_to(self, now: Fraction, model: Any) -> None:
        if self._points.due(self._before, now):
            self.average.collect(model)
        self._before = max(self._before, now)

    def state_dict(self) -> dict[str, Any]:
        """The average's, and how far it came."""
        return {"average": self.average.state_dict(), "epoch": float(self._before)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken.

        Raises:
            InputError: another average.
        """
        if not isinstance(state, Mapping) or not {"average", "epoch"} <= state.keys():
            raise InputError("state: pass what CollectAt.state_dict() returned")
        self.average.load_state_dict(state["average"])
        self._before = exact("epoch", state["epoch"])
