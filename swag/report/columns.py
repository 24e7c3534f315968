"""A column of the table, and how columns become rows of scores and differences."""

import dataclasses
from collections.abc import Sequence

from swag.report.results import Difference, Estimate, Metric
from swag.report.sampled import Sampled, differences, estimates


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """A metric, the methods that have it, their figures, and how many rows of each are infinite."""

    metric: Metric
    methods: tuple[str, ...]
    sampled: Sampled
    infinite_rows: tuple[int, ...] | None = None


def tabulate(
    columns: Sequence[Column], methods: Sequence[str], baseline: str
) -> tuple[tuple[Metric, ...], dict[str, dict[str, Estimate]], dict[str, dict[str, Difference]]]:
    """Columns to rows: metrics, scores[method][metric], differences[method][metric]."""
    scores: dict[str, dict[str, Estimate]] = {method: {} for method in methods}
    paired: dict[str, dict[str, Difference]] = {method: {} for method in methods if method != baseline}
    for column in columns:
        metric = column.metric
        figures = estimates(column.sampled, column.methods, metric.direction, column.infinite_rows)
        apart = differences(column.sampled, column.methods, baseline, metric.direction)
        for method in methods:
            scores[method][metric.key] = figures.get(method, Estimate(None))
            if method in apart:
                paired[method][metric.key] = apart[method]
    return tuple(column.metric for column in columns), scores, paired
