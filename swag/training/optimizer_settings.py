"""When an `SWAOptimizer` averages by itself, and at which rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, final

from torch import Tensor

from swag.errors import InputError


@final
@dataclass(frozen=True)
class Automatic:
    """After step i (from 1) the iterate joins if i > start and i % freq == 0; `rates` hold for i > start.

    Args:
        start: steps before the averaging.
        freq: steps between two snapshots.
        rates: one for all groups, or one a group; None leaves the rates alone.
    """

    start: int
    freq: int
    rates: tuple[float, ...] | None

    def joins(self, i: int) -> bool:
        """Whether the iterate after step i joins the average."""
        return i > self.start and i % self.freq == 0

    def set_rates_(self, groups: list[dict[str, Any]], i: int) -> None:
        """Sets the groups' rates for step i, where that is due."""
        if self.rates is None or i <= self.start:
            return
        rates = self.rates if len(self.rates) > 1 else self.rates * len(groups)
        for group, rate in zip(groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def check_groups(self, n: int) -> None:
        """Raises InputError where there are not rates for n groups."""
        if self.rates is not None and len(self.rates) not in (1, n):
            raise InputError(
                f"swa_lr: has {len(self.rates)} rates for {n} parameter groups; pass one number, or one "
                "a group"
            )


def automatic(start: Any, freq: Any, rate: float | Sequence[float] | None) -> Automatic | None:
    """The settings that were meant; None for averaging by hand.

    Raises:
        InputError: one of start and freq without the other, a rate without them, or out of range.
    """
    if (start is None) != (freq is None):
        given, lacking = ("swa_freq", "swa_start") if start is None else ("swa_start", "swa_freq")
        raise InputError(
            f"{given}: got {freq if start is None else start!r} without {lacking}; pass both to average "
            "automatically, or neither and call update_swa()"
        )
    if start is None:
        if rate is not None:
            raise InputError(
                f"swa_lr: got {rate!r} without swa_start and swa_freq; pass them, too, or set the rate with "
                "a schedule such as swag.schedules.swa_paper"
            )
        return None
    for name, value, least in (("swa_start", start, 0), ("swa_freq", freq, 1)):
        if isinstance(value, bool) or not isinstance(value, int | Integral) or value < least:
            raise InputError(f"{name}: got {value!r}; pass a number of steps, an integer of {least} or more")
    return Automatic(int(start), int(freq), None if rate is None else _rates(rate))


def _rates(swa_lr: float | Sequence[float]) -> tuple[float, ...]:
    given = list(swa_lr) if isinstance(swa_lr, Sequence) else [swa_lr]
    for value in given:
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise InputError(f"swa_lr: got {swa_lr!r}; pass a learning rate of 0 or more, or one a group")
    return tuple(float(value) for value in given)
