"""One metric of every method as the bootstrap sees it: values, intervals, differences, marks, verdicts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from swag.report.intervals import (
    Array,
    Interval,
    acceleration,
    bca_interval,
    difference_from_intervals,
    ece_corrected,
    ece_interval,
    percentile_interval,
    wilson_interval,
)
from swag.report.results import Difference, Direction, Estimate, Mark, Verdict


class Sampled(Protocol):
    """A metric of M methods on the same rows."""

    @property
    def values(self) -> Array:
        """(M,) the figures on all rows."""

    def interval(self, i: int) -> Interval | None:
        """Method i's interval, or None where the resamples do not support one."""

    def difference(self, i: int, j: int) -> Interval | None:
        """The interval of method i's figure minus method j's."""


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """Any statistic with replicates; BCa where the rows' influences are given, percentile otherwise.

    Attributes:
        values: (M,).
        replicates: (M, R).
        influences: One (M, N) array a sample (two for out-of-distribution scores), or empty.
        level: E.g. 0.95.
    """

    values: Array
    replicates: Array
    influences: tuple[Array, ...]
    level: float

    def interval(self, i: int) -> Interval | None:
        return self._interval(self.replicates[i], self.values[i], [u[i] for u in self.influences])

    def difference(self, i: int, j: int) -> Interval | None:
        with np.errstate(invalid="ignore"):
            replicates = self.replicates[i] - self.replicates[j]
            value = self.values[i] - self.values[j]
            influences = [u[i] - u[j] for u in self.influences]
        return self._interval(replicates, value, influences)

    def _interval(self, replicates: Array, value: float, influences: Sequence[Array]) -> Interval | None:
        if np.isnan(replicates).any() or np.isnan(value):
            return None
        finite = np.isfinite(replicates)
        if finite.all() and np.ptp(replicates) <= 1e-12 * max(1.0, abs(value)):
            return None
        if influences and finite.all() and all(np.isfinite(u).all() for u in influences):
            return bca_interval(replicates, value, acceleration(*influences), self.level)
        return percentile_interval(replicates, self.level)


@dataclasses.dataclass(frozen=True, eq=False)
class Proportions:
    """Accuracies: Wilson's interval, and Newcombe's (1998) for the difference of paired proportions.

    Attributes:
        successes: (M, N) zeros and ones.
        level: E.g. 0.95.
    """

    successes: Array
    level: float

    @property
    def values(self) -> Array:
        return np.asarray(self.successes.mean(axis=1))

    def interval(self, i: int) -> Interval | None:
        n = self.successes.shape[1]
        low, high = wilson_interval(self.successes[i].sum(), n, self.level)
        return float(low), float(high)

    def difference(self, i: int, j: int) -> Interval | None:
        first, second = self.interval(i), self.interval(j)
        assert first is not None and second is not None
        rho = _correlation(self.successes[i], self.successes[j])
        return difference_from_intervals(self.values[i], first, self.values[j], second, rho)


@dataclasses.dataclass(frozen=True, eq=False)
class CalibrationErrors:
    """ECEs, whose bias the intervals know: see `swag.report.intervals.ece_interval`.

    Attributes:
        gap_sums: (M, B).
        replicates: (M, B, R).
        n_rows: N.
        level: E.g. 0.95.
    """

    gap_sums: Array
    replicates: Array
    n_rows: int
    level: float

    @property
    def values(self) -> Array:
        return np.asarray(np.abs(self.gap_sums).sum(axis=1) / self.n_rows)

    def interval(self, i: int) -> Interval | None:
        if self.n_rows < 2:
            return None
        return ece_interval(self.gap_sums[i], self.replicates[i], self.n_rows, self.level)

    def difference(self, i: int, j: int) -> Interval | None:
        first, second = self.interval(i), self.interval(j)
        if first is None or second is None:
            return None
        rho = _correlation(*(np.abs(self.replicates[m]).sum(axis=0) for m in (i, j)))
        centres = [
            float(np.clip(ece_corrected(self.gap_sums[m], self.replicates[m], self.n_rows), *interval))
            for m, interval in ((i, first), (j, second))
        ]
        return difference_from_intervals(centres[0], first, centres[1], second, rho)


def estimates(
    sampled: Sampled, methods: Sequence[str], direction: Direction, infinite_rows: Sequence[int] | None = None
) -> dict[str, Estimate]:
    """A column of the table: every method's figure, interval and mark."""
    values = sampled.values
    best = int(np.argmin(values if direction == "lower" else -values))
    is_ranked = len(methods) > 1 and direction != "none"
    column = {}
    for i, method in enumerate(methods):
        low, high = sampled.interval(i) or (None, None)
        mark: Mark = "best" if is_ranked and i == best else ""
        if is_ranked and i != best:
            apart = sampled.difference(i, best)
            mark = "tied" if apart is None or apart[0] <= 0.0 <= apart[1] else ""
        column[method] = Estimate(
            float(values[i]),
            low,
            high,
            mark,
            infinite_rows[i] if infinite_rows else 0,
        )
    return column


def differences(
    sampled: Sampled, methods: Sequence[str], baseline: str, direction: Direction
) -> Mapping[str, Difference]:
    """Every other method minus the baseline, with a verdict; none where neither way is better."""
    if baseline not in methods or direction == "none":
        return {}
    values, j = sampled.values, methods.index(baseline)
    column = {}
    for i, method in enumerate(methods):
        if i == j:
            continue
        interval = sampled.difference(i, j)
        with np.errstate(invalid="ignore"):
            value = float(values[i] - values[j])
        low, high = interval or (None, None)
        column[method] = Difference(
            None if np.isnan(value) else value, low, high, _verdict(value, interval, direction)
        )
    return column


def _verdict(value: float, interval: Interval | None, direction: Direction) -> Verdict:
    if interval is None:
        return "no difference" if value == 0.0 else "undetermined"
    low, high = interval
    if low <= 0.0 <= high:
        return "no difference"
    return "better" if (low > 0.0) == (direction == "higher") else "worse"


def _correlation(x: Array, y: Array) -> float:
    if np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
