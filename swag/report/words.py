"""The report's first lines: what was compared, what is best, what did not improve, in plain sentences."""

from collections.abc import Mapping, Sequence

from swag.report.numerals import count, digits, interval, number, percent
from swag.report.results import Difference, Estimate, Metric, Settings

Scores = Mapping[str, Mapping[str, Estimate]]
Differences = Mapping[str, Mapping[str, Difference]]


def summary(
    kind: str,
    n_rows: int,
    n_classes: int,
    baseline: str,
    metrics: Sequence[Metric],
    scores: Scores,
    differences: Differences,
    settings: Settings,
) -> tuple[str, ...]:
    """Three or four sentences; the NLL leads, because it weighs every probability."""
    level = percent(settings.level)
    rows = f"{count(n_rows)} labelled row{'s' if n_rows != 1 else ''}"
    where = f"{rows} in {n_classes} classes" if kind == "classification" else rows
    if len(scores) == 1:
        return (f"{next(iter(scores))} on {where}.", _one_method(metrics, scores), *_infinite(scores))
    lines = [f"Compared {_join(list(scores))} on {where}.", _best(baseline, scores, differences, level)]
    lines += _infinite(scores)
    lines += _not_improved(baseline, metrics, differences, level)
    return tuple(lines)


def _one_method(metrics: Sequence[Metric], scores: Scores) -> str:
    row = next(iter(scores.values()))
    parts = []
    for metric in metrics[:4]:
        cell = row.get(metric.key, Estimate(None))
        k = digits([cell])
        parts.append(f"{metric.label} {number(cell.value, k)} {interval(cell.low, cell.high, k)}".strip())
    return "; ".join(parts) + "."


def _best(baseline: str, scores: Scores, differences: Differences, level: str) -> str:
    key = _headline(scores)
    column = {method: row[key] for method, row in scores.items()}
    best = next(method for method, cell in column.items() if cell.mark == "best")
    tied = [method for method, cell in column.items() if cell.mark == "tied"]
    cell, k = column[best], digits(column.values())
    name = "NLL" if key == "nll" else "NLL (Gaussian)"
    text = f"Lowest {name}: {best}, {number(cell.value, k)} nats {interval(cell.low, cell.high, k)}".rstrip()
    apart = differences.get(best, {}).get(key)
    if apart is not None and apart.value is not None and apart.verdict == "better":
        ends = interval(_negative(apart.high), _negative(apart.low), k)
        text += f", {number(-apart.value, k)} {ends} less than {baseline}"
    elif apart is not None:
        text += f", not told apart from {baseline} at {level}"
    others = [method for method in tied if method != baseline]
    return text + (f"; {_join(others)} cannot be told apart from it at {level}." if others else ".")


def _not_improved(
    baseline: str, metrics: Sequence[Metric], differences: Differences, level: str
) -> list[str]:
    labels = {metric.key: metric.label for metric in metrics}
    same, worse = [], []
    for method, row in differences.items():
        unmoved = [labels[key] for key, d in row.items() if d.verdict in ("no difference", "undetermined")]
        lower = [labels[key] for key, d in row.items() if d.verdict == "worse"]
        if unmoved:
            same.append(f"{method} ({', '.join(unmoved)})")
        if lower:
            worse.append(f"{method} ({', '.join(lower)})")
    lines = []
    if worse:
        lines.append(f"Worse than {baseline} at {level}: {'; '.join(worse)}.")
    if same:
        lines.append(f"No difference from {baseline} shown at {level}: {'; '.join(same)}.")
    if not worse and not same:
        lines.append(f"Every method is better than {baseline} in every column at {level}.")
    return lines


def _infinite(scores: Scores) -> list[str]:
    rows = {method: row["nll"].infinite_rows for method, row in scores.items() if "nll" in row}
    return [
        f"{method}'s NLL is infinite: {count(n)} row{'s give' if n > 1 else ' gives'} the label "
        "probability 0."
        for method, n in rows.items()
        if n
    ]


def _headline(scores: Scores) -> str:
    is_complete = all(row.get("nll", Estimate(None)).value is not None for row in scores.values())
    return "nll" if is_complete else "nll_gaussian"


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
