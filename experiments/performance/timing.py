"""How everything here is timed: rows in turn in one process, medians, samples under contention rejected.

Rows A, B, C of a table run as A B C A B C …, so that a machine that slows down slows all of them. A sample
in which the calling thread was kept off its core for more than 5 % of the time (wall time against the
thread's own CPU time) is rejected and taken again, up to three times as many samples as asked for. A row
that still has too few keeps its least disturbed ones and is marked as contended; its figure is then an
upper bound.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# A sample lasts at least this long: a row that is faster is repeated within a sample.
_SHORTEST = 0.005
# The share of a sample that the calling thread may be off its core, and a fixed part for the clock.
_OFF_CORE, _CLOCK = 0.05, 5e-5
_ATTEMPTS = 3
# On a machine so slow that a table takes this many times its seconds, this many samples are enough.
_OVERTIME, _FEWEST = 1.5, 3


@dataclass(frozen=True)
class Row:
    """What is timed: `call()` does `units` pieces of work, and the figure is seconds a piece."""

    call: Callable[[], Any]
    units: float = 1.0


@dataclass(frozen=True)
class Timing:
    """Seconds a unit over the samples kept."""

    median: float
    min: float
    max: float
    samples: int
    rejected: int
    contended: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a results file."""
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


@dataclass
class _Samples:
    row: Row
    calls: int = 1
    clean: list[float] = field(default_factory=list)
    disturbed: list[tuple[float, float]] = field(default_factory=list)  # (share off the core, seconds)

    def take(self) -> None:
        thread, wall = time.thread_time(), time.perf_counter()
        for _ in range(self.calls):
            self.row.call()
        wall = time.perf_counter() - wall
        off = wall - (time.thread_time() - thread)
        seconds = wall / (self.calls * self.row.units)
        if off <= _OFF_CORE * wall + _CLOCK:
            self.clean.append(seconds)
        else:
            self.disturbed.append((off / wall, seconds))

    def timing(self, repeats: int) -> Timing:
        kept = self.clean
        if len(kept) < repeats:
            spare = [seconds for _, seconds in sorted(self.disturbed)]
            kept = kept + spare[: repeats - len(kept)]
        taken = len(self.clean) + len(self.disturbed)
        contended = len(self.clean) < repeats
        return Timing(
            statistics.median(kept), min(kept), max(kept), len(kept), taken - len(self.clean), contended
        )


def _seconds(row: Row) -> float:
    started = time.perf_counter()
    row.call()
    return time.perf_counter() - started


def interleaved(
    rows: Mapping[str, Row | Callable[[], Any]], *, repeats: int, seconds: float = 60.0
) -> dict[str, Timing]:
    """Times the rows in turn.

    Args:
        rows: by name; a callable is a row of one unit.
        repeats: clean samples wanted of each.
        seconds: after this long no sample is taken again, once every row has `repeats` of any kind; after
            half as long again three are enough (a results file says how many there were).
    """
    samples = {name: _Samples(row if isinstance(row, Row) else Row(row)) for name, row in rows.items()}
    for own in samples.values():
        once = _seconds(own.row)  # caches, buffers and code are warm after this
        if once < 1:
            once = _seconds(own.row)
        own.calls = max(1, math.ceil(_SHORTEST / max(once, 1e-7)))
    started = time.perf_counter()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for attempt in range(_ATTEMPTS * repeats):
            wanting = [own for own in samples.values() if len(own.clean) < repeats]
            spent = time.perf_counter() - started
            enough = repeats if spent <= _OVERTIME * seconds else _FEWEST
            if not wanting or (attempt >= enough and spent > seconds):
                break
            for own in wanting:
                own.take()
    finally:
        if collecting:
            gc.enable()
    return {name: own.timing(repeats) for name, own in samples.items()}
