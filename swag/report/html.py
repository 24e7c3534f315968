"""The report as one HTML page: a Jinja template (autoescaped), inline SVG, no scripts, no requests."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

from swag.report.definitions import OOD_MEASURES, SCORE_LABELS
from swag.report.figures import classification_figures, regression_figures
from swag.report.numerals import ARROWS, count, digits, interval, number, percent, significant
from swag.report.results import Difference, Estimate, Metric, OutOfDistribution, Results

if TYPE_CHECKING:
    from jinja2 import Environment


def page(results: Results) -> str:
    """A whole HTML document."""
    return _environment().get_template("template.html.j2").render(**_view(results))


def fragment(results: Results) -> str:
    """The summary and the tables, for a notebook's cell."""
    return _environment().get_template("fragment.html.j2").render(**_view(results, figures=False))


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("swag.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # what swag.report.svg drew; its texts are escaped there
    return environment


def _view(results: Results, *, figures: bool = True) -> dict[str, Any]:
    details = results.classification
    drawn: dict[str, Any] = {}
    if figures:
        drawn = classification_figures(results) if details else regression_figures(results)
    return {
        "results": results,
        "level": _unbroken(percent(results.settings.level)),
        "summary": [_unbroken(line) for line in results.summary],
        "heads": [_head(metric) for metric in results.metrics],
        "score_rows": _score_rows(results.metrics, results.methods, results.scores),
        "difference_rows": _difference_rows(results),
        "ood_tables": [_ood_table(ood) for ood in details.ood] if details else [],
        "figures": drawn,
        "facts": _facts(results),
        "count": count,
        "number": number,
        "significant": significant,
    }


def _unbroken(text: str) -> str:
    return text.replace(" %", "\u00a0%").replace(" nats", "\u00a0nats")


def _head(metric: Metric) -> dict[str, str]:
    return {
        "label": metric.label,
        "arrow": ARROWS[metric.direction],
        "direction": metric.direction,
        "unit": metric.unit,
    }


def _score_rows(metrics: Sequence[Metric], methods: Sequence[str], scores: Any) -> list[dict[str, Any]]:
    decimals = {
        m.key: digits(scores[method].get(m.key, Estimate(None)) for method in methods) for m in metrics
    }
    return [
        {
            "name": method,
            "cells": [_cell(scores[method].get(m.key, Estimate(None)), decimals[m.key]) for m in metrics],
        }
        for method in methods
    ]


def _cell(estimate: Estimate, decimals: int) -> dict[str, Any]:
    return {
        "value": number(estimate.value, decimals),
        "interval": interval(estimate.low, estimate.high, decimals),
        "mark": estimate.mark,
        "infinite_rows": estimate.infinite_rows,
    }


def _difference_rows(results: Results) -> list[dict[str, Any]]:
    """One block a metric: the differences of every other method, with a whisker on the block's own scale."""
    blocks = []
    for metric in results.metrics:
        found = {m: row[metric.key] for m, row in results.differences.items() if metric.key in row}
        if not found:
            continue
        decimals = digits(found.values())
        finite = [v for d in found.values() for v in (d.value, d.low, d.high) if _is_finite(v)]
        left, right = min([0.0, *finite]), max([0.0, *finite])
        rows = [
            {
                "name": method,
                "value": number(d.value, decimals, sign=True),
                "interval": interval(d.low, d.high, decimals, sign=True),
                "verdict": d.verdict,
                "whisker": _whisker(d, left, right),
            }
            for method, d in found.items()
        ]
        blocks.append({**_head(metric), "rows": rows})
    return blocks


def _whisker(d: Difference, left: float, right: float) -> dict[str, float] | None:
    """Places from 4 to 116 for 0 and the interval, on a scale from `left` ≤ 0 to `right` ≥ 0."""
    if not (_is_finite(d.low) and _is_finite(d.high) and _is_finite(d.value)):
        return None
    span = (right - left) or 1.0
    places = {"zero": 0.0, "low": d.low, "value": d.value, "high": d.high}
    return {key: round(4 + 112 * (value - left) / span, 1) for key, value in places.items()}


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and abs(value) != float("inf")


def _ood_table(ood: OutOfDistribution) -> dict[str, Any]:
    """One table a measure: methods down, scores across."""
    scores = list(dict.fromkeys(score for by_score in ood.scores.values() for score in by_score))
    tables = []
    for key, measure in OOD_MEASURES.items():
        rows: list[dict[str, Any]] = [{"name": method, "cells": []} for method in ood.scores]
        for score in scores:
            column = [by_score.get(score, {}).get(key, Estimate(None)) for by_score in ood.scores.values()]
            decimals = digits(column)
            for row, estimate in zip(rows, column, strict=True):
                row["cells"].append(_cell(estimate, decimals))
        tables.append({**_head(measure), "definition": measure.definition, "rows": rows})
    heads = [SCORE_LABELS.get(score, score) for score in scores]
    return {"name": ood.name, "n_rows": ood.n_rows, "heads": heads, "tables": tables}


def _facts(results: Results) -> list[tuple[str, str]]:
    settings = results.settings
    facts = [("rows", count(results.n_rows))]
    if results.classification:
        facts.append(("classes", count(results.classification.n_classes)))
        facts += [(f"rows of {ood.name}", count(ood.n_rows)) for ood in results.classification.ood]
    facts += [
        ("resamples", f"{count(settings.n_bootstrap)}, seed {settings.seed}"),
        ("level of intervals", percent(settings.level)),
        ("bins", count(settings.n_bins)),
    ]
    if results.classification and results.classification.temperatures:
        fitted = results.classification.temperatures.items()
        facts.append(("temperatures", ", ".join(f"{method} {t:.3g}" for method, t in fitted)))
    return [*facts, *results.provenance.items()]
