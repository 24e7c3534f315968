"""When a snapshot is due: points on the axis of epochs, in exact fractions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, SupportsFloat, final

from swag.errors import InputError
from swag.training.every_step import EveryStep

# 0.1 is meant as 1/10: the binary number a little beside it would lose a snapshot to rounding.
_FINEST = 100_000


class When(Protocol):
    """Says when a snapshot is due."""

    def due(self, before: Fraction, now: Fraction) -> bool:
        """Whether one is, after `now` epochs, the question asked last after `before`."""


@final
@dataclass(frozen=True)
class WhereScheduled:
    """Where the schedule says so, and not before `start` epochs."""

    schedule: Any
    start: Fraction

    def due(self, before: Fraction, now: Fraction) -> bool:
        """`schedule.is_collection_point()`, asked after training at its rate and before it is stepped."""
        if now <= self.start:
            return False
        if isinstance(self.schedule, EveryStep):
            return bool(self.schedule.schedule.is_collection_point())
        return now.denominator == 1 and bool(self.schedule.is_collection_point())


@final
@dataclass(frozen=True)
class Points:
    """The positions first, first + every, first + 2·every, …, at most `most` of them; in epochs.

    >>> points = Points(first=Fraction(2), every=Fraction(1, 2))
    >>> [points.passed(Fraction(position)) for position in (1, 2, 2.4, 2.5, 4)]
    [0, 1, 1, 2, 5]
    """

    first: Fraction
    every: Fraction
    most: int | None = None

    def due(self, before: Fraction, now: Fraction) -> bool:
        """Whether a point was passed since `before`."""
        return self.passed(now) > self.passed(before)

    def passed(self, position: Fraction) -> int:
        """How many points lie at `position` or before it."""
        if position < self.first:
            return 0
        n = (position - self.first) // self.every + 1
        return n if self.most is None else min(n, self.most)


def exact(name: str, value: object) -> Fraction:
    """A number as the simple fraction that was meant.

    Raises:
        InputError: it is no finite number.
    """
    is_number = isinstance(value, SupportsFloat) and not isinstance(value, bool | str)
    if not is_number or not math.isfinite(float(value)):  # type: ignore[arg-type]
        raise InputError(f"{name}: got {value!r}; pass a finite number")
    return Fraction(float(value)).limit_denominator(_FINEST)  # type: ignore[arg-type]
