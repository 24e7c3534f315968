"""What a schedule is for one parameter group: its rate, its collection points, its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar, Protocol, final

from swag.errors import InputError
from swag.schedules import rates

# Epochs that are meant to be the same differ by the rounding of epoch + batch/batches.
TOLERANCE = 1e-9


class Shape(Protocol):
    """A rate as a function of the epoch. Its fields are numbers, so that a state_dict can hold them."""

    kind: ClassVar[str]

    def rate(self, epoch: float, base_lr: float, step: float) -> float:
        """The rate of a step at an absolute epoch for a group whose own rate is base_lr.

        Args:
            epoch: where the step begins.
            base_lr: the group's own rate.
            step: the step's length in epochs, for shapes that were not told one of their own.
        """

    def last_point(self, epoch: float, step: float) -> float | None:
        """The last collection point at or before an epoch; None where there was none yet."""


@final
@dataclass(frozen=True)
class Constant:
    """One rate; the collection points are the last steps of epochs."""

    lr: float
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        check_rate("lr", self.lr)

    def rate(self, epoch: float, base_lr: float, step: float) -> float:
        return self.lr

    def last_point(self, epoch: float, step: float) -> float | None:
        return _repeating(epoch, first=1.0 - step, every=1.0)


@final
@dataclass(frozen=True)
class SWAPaper:
    """The SWA paper's; the collection points are the last steps of epochs from swa_start on."""

    swa_start: float
    swa_lr: float
    kind: ClassVar[str] = "swa_paper"

    def __post_init__(self) -> None:
        check_length("swa_start", self.swa_start)
        check_rate("swa_lr", self.swa_lr)

    def rate(self, epoch: float, base_lr: float, step: float) -> float:
        return rates.swa_paper(epoch, lr=base_lr, swa_start=self.swa_start, swa_lr=self.swa_lr)

    def last_point(self, epoch: float, step: float) -> float | None:
        return _repeating(epoch, first=self.swa_start + 1.0 - step, every=1.0)


@final
@dataclass(frozen=True)
class SawTooth:
    """Linear down, then a jump; the collection point is the last step of a cycle."""

    lr_max: float
    lr_min: float
    cycle: float
    step: float | None = None
    kind: ClassVar[str] = "saw_tooth"

    def __post_init__(self) -> None:
        _check_cycle(self.lr_max, self.lr_min, self.cycle, self.step)

    def rate(self, epoch: float, base_lr: float, step: float) -> float:
        return rates.saw_tooth(
            epoch, lr_max=self.lr_max, lr_min=self.lr_min, cycle=self.cycle, step=_own_or(self.step, step)
        )

    def last_point(self, epoch: float, step: float) -> float | None:
        return _repeating(epoch, first=max(self.cycle - _own_or(self.step, step), 0.0), every=self.cycle)


@final
@dataclass(frozen=True)
class CosineCycle:
    """Half a cosine down, then a jump; the collection point is the last step of a cycle."""

    lr_max: float
    lr_min: float
    cycle: float
    step: float | None = None
    kind: ClassVar[str] = "cosine_cycle"

    def __post_init__(self) -> None:
        _check_cycle(self.lr_max, self.lr_min, self.cycle, self.step)

    def rate(self, epoch: float, base_lr: float, step: float) -> float:
        return rates.cosine_cycle(
            epoch, lr_max=self.lr_max, lr_min=self.lr_min, cycle=self.cycle, step=_own_or(self.step, step)
        )

    def last_point(self, epoch: float, step: float) -> float | None:
        return _repeating(epoch, first=max(self.cycle - _own_or(self.step, step), 0.0), every=self.cycle)


@final
@dataclass(frozen=True)
class Triangle:
    """Down and up; the collection point is the middle of a cycle."""

    lr_max: float
    lr_min: float
    cycle: float
    kind: ClassVar[str] = "fge_triangle"

    def __post_init__(self) -> None:
        _check_cycle(self.lr_max, self.lr_min, self.cycle)

    def rate(self, epoch: float, base_lr: float, step: float) -> float:
        return rates.triangle(epoch, lr_max=self.lr_max, lr_min=self.lr_min, cycle=self.cycle)

    def last_point(self, epoch: float, step: float) -> float | None:
        return _repeating(epoch, first=self.cycle / 2, every=self.cycle)


@final
@dataclass(frozen=True)
class RepeatedCosine:
    """A cosine whose last piece is repeated; the collection points are the steps that end at `first_point`,
    and every `every` epochs after it."""

    horizon: float
    first_end: float
    cycle: float
    first_point: float
    every: float
    kind: ClassVar[str] = "repeated_cosine"

    def __post_init__(self) -> None:
        for name in ("horizon", "first_end", "cycle", "every"):
            check_length(name, getattr(self, name))
        if not self.cycle <= self.first_end <= self.horizon:
            raise InputError(
                f"first_end: got {self.first_end} with cycle {self.cycle} and horizon {self.horizon}; pass "
                "cycle ≤ first_end ≤ horizon (fast-SWA: 30, 180, 210)"
            )

    def rate(self, epoch: float, base_lr: float, step: float) -> float:
        return rates.repeated_cosine(
            epoch, lr=base_lr, horizon=self.horizon, first_end=self.first_end, cycle=self.cycle
        )

    def last_point(self, epoch: float, step: float) -> float | None:
        return _repeating(epoch, first=max(self.first_point - step, 0.0), every=self.every)


@final
@dataclass(frozen=True)
class Cosine:
    """Half a cosine to its end, where the only collection point is."""

    lr_min: float
    horizon: float
    kind: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        check_rate("lr_min", self.lr_min)
        check_length("epochs", self.horizon)

    def rate(self, epoch: float, base_lr: float, step: float) -> float:
        return rates.cosine(epoch, lr=base_lr, lr_min=self.lr_min, horizon=self.horizon)

    def last_point(self, epoch: float, step: float) -> float | None:
        return self.horizon if epoch >= self.horizon - TOLERANCE else None


KINDS: dict[str, type[Shape]] = {
    kind.kind: kind for kind in (Constant, SWAPaper, SawTooth, CosineCycle, Triangle, RepeatedCosine, Cosine)
}


def check_rate(name: str, value: float) -> None:
    if not is_number(value) or not 0 <= value < math.inf:
        raise InputError(f"{name}: got {value!r}; pass a learning rate of 0 or more")


def check_length(name: str, value: float) -> None:
    if not is_number(value) or not 0 < value < math.inf:
        raise InputError(f"{name}: got {value!r}; pass a number of epochs above 0")


def whole_steps(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name}: got {value!r}; pass how often step() is called an epoch, 1 or more")
    return int(value)


def check_stride(shape: Shape, stride: float | None) -> None:
    """Raises InputError where steps of this length would jump over whole cycles: the rate would be flat."""
    if not isinstance(shape, SawTooth | CosineCycle) or shape.step is not None or stride is None:
        return
    if stride > shape.cycle + TOLERANCE:
        raise InputError(
            f"cycle: got {shape.cycle:g}, which is shorter than a step of {stride:g} epochs; pass a longer "
            "one, or call step(epoch + batch/batches) before each batch"
        )


def check_epoch(epoch: float, end: float | None) -> None:
    if not is_number(epoch) or not 0 <= epoch < math.inf:
        raise InputError(
            f"epoch: got {epoch!r}; pass the absolute epoch from 0, such as epoch + batch/batches"
        )
    if end is not None and epoch > end + TOLERANCE:
        raise InputError(
            f"epoch: got {epoch:g}, and this schedule ends at {end:g}; stop stepping there, or build it for "
            "more epochs"
        )


def _check_cycle(lr_max: float, lr_min: float, cycle: float, step: float | None = None) -> None:
    check_rate("lr_max", lr_max)
    check_rate("lr_min", lr_min)
    check_length("cycle", cycle)
    if lr_min > lr_max:
        raise InputError(f"lr_min: got {lr_min}, which is above lr_max {lr_max}; exchange them")
    if step is not None:
        check_length("step", step)


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _own_or(own: float | None, step: float) -> float:
    return step if own is None else own


def _repeating(epoch: float, *, first: float, every: float) -> float | None:
    """The last of first, first + every, first + 2·every, … that is not after the epoch."""
    if epoch < first - TOLERANCE:
        return None
    return first + every * math.floor((epoch - first + TOLERANCE) / every)
