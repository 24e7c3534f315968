"""After which steps a snapshot is taken."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import final

from swag.arguments import part_of
from swag.errors import InputError


@final
@dataclass(frozen=True)
class Plan:
    """A snapshot after step i (from 1) where i > start and (i − start) is a multiple of every.

    >>> [step for step in range(1, 11) if Plan(4, 2).is_due(step)], Plan(4, 2).n_due(10)
    ([6, 8, 10], 3)
    """

    start: int
    every: int

    @classmethod
    def of(cls, swa_start: int | float, every: int | float, max_steps: int) -> Plan:
        """The plan for a run of so many steps, shares of it rounded down, `every` to 1 at least."""
        return cls(_steps(swa_start, max_steps), max(1, _steps(every, max_steps)))

    def is_due(self, step: int) -> bool:
        """Whether step i ends with a snapshot."""
        return step > self.start and (step - self.start) % self.every == 0

    def n_due(self, step: int) -> int:
        """The snapshots taken by the end of step i."""
        return max(0, step - self.start) // self.every


def check_swa_start(swa_start: int | float) -> None:
    """A number of steps, or a share of them.

    Raises:
        InputError: neither.
    """
    if not (_is_count(swa_start, 0) or _is_share(swa_start)):
        raise InputError(
            f"swa_start: got {swa_start!r}; pass the optimizer steps before averaging as an integer, or "
            "their share of all as a float between 0 and 1 (0.75)"
        )


def check_every(every: int | float) -> None:
    """A number of steps, or a share of them.

    Raises:
        InputError: neither.
    """
    if not (_is_count(every, 1) or (_is_share(every) and every > 0)):
        raise InputError(
            f"every: got {every!r}; pass the optimizer steps between snapshots as an integer from 1 on, or "
            "their share of all as a float between 0 and 1 (0.0125)"
        )


def _steps(value: int | float, max_steps: int) -> int:
    return int(value) if isinstance(value, Integral) else part_of(value, max_steps)


def _is_count(value: int | float, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def _is_share(value: int | float) -> bool:
    return isinstance(value, Real) and not isinstance(value, Integral) and 0 <= value < 1
