"""What changed between two reports of the same kind, figure by figure."""

import dataclasses
from typing import Literal

from swag.errors import InputError
from swag.report.numerals import ARROWS, digits, interval, number
from swag.report.results import Direction, Estimate, Results

Word = Literal["same", "within the intervals", "better", "worse", "other", "new", "gone"]


@dataclasses.dataclass(frozen=True)
class Change:
    """One figure before and after; None where a report lacks it."""

    method: str
    key: str
    label: str
    direction: Direction
    before: Estimate | None
    after: Estimate | None
    word: Word


def changes(before: Results, after: Results) -> list[Change]:
    """Every figure of either report.

    The two may have been scored on other rows, so nothing is paired: "better" and "worse" mean that the
    intervals do not touch, which says less than a paired difference within one report.

    Raises:
        InputError: one is of classification, the other of regression.
    """
    if before.kind != after.kind:
        raise InputError(
            f"reports: one is of {before.kind}, the other of {after.kind}; compare two of one kind"
        )
    metrics = {metric.key: metric for metric in (*before.metrics, *after.metrics)}
    found = []
    for method in dict.fromkeys((*before.methods, *after.methods)):
        for key, metric in metrics.items():
            old, new = (_present(results.scores.get(method, {}).get(key)) for results in (before, after))
            if old is not None or new is not None:
                word = _word(old, new, metric.direction)
                found.append(Change(method, key, metric.label, metric.direction, old, new, word))
    return found


def text(before: Results, after: Results) -> str:
    """The changes as an aligned table, figures that stayed the same left out and counted."""
    found = changes(before, after)
    lines = []
    for name in ("n_rows", "settings", "baseline"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            lines.append(f"{name}: {old} → {new}")
    rows = []
    for change in found:
        if change.word == "same":
            continue
        k = digits([estimate for estimate in (change.before, change.after) if estimate is not None])
        label = f"{change.label} {ARROWS[change.direction]}".strip()
        rows.append((change.method, label, _shown(change.before, k), _shown(change.after, k), change.word))
    if rows:
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append(f"{cells[0]}  {cells[1]}  {cells[2]}  →  {cells[3]}  {row[4]}")
    lines.append(f"{len(found) - len(rows)} of {len(found)} figures are the same.")
    return "\n".join(lines)


def _present(estimate: Estimate | None) -> Estimate | None:
    return None if estimate is None or estimate.value is None else estimate


def _word(old: Estimate | None, new: Estimate | None, direction: Direction) -> Word:
    if old is None or new is None:
        return "new" if old is None else "gone"
    if old.value == new.value:
        return "same"
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return "other"
    if old.low <= new.high and new.low <= old.high:
        return "within the intervals"
    if direction == "none":
        return "other"
    return "better" if (new.low > old.high) == (direction == "higher") else "worse"


def _shown(estimate: Estimate | None, decimals: int) -> str:
    if estimate is None:
        return "–"
    return f"{number(estimate.value, decimals)} {interval(estimate.low, estimate.high, decimals)}".rstrip()
