"""The results as Markdown."""

from __future__ import annotations

import math
from typing import Any

from scipy import stats

from experiments import record
from experiments.record import markdown, mean_and_spread
from experiments.transfer.images import DIRECTIONS

COLUMNS = (
    ("error", "test error, %", 100, 2),
    ("nll", "NLL, nats", 1, 4),
    ("ece", "ECE, %", 100, 2),
    ("brier", "Brier", 1, 4),
)


def tables(results: list[dict[str, Any]]) -> str:
    """A section for each direction."""
    sections = []
    for direction in dict.fromkeys(result["settings"]["direction"] for result in results):
        runs = [result for result in results if result["settings"]["direction"] == direction]
        runs.sort(key=lambda run: run["settings"]["seed"])
        title = DIRECTIONS[direction][0] if direction in DIRECTIONS else direction
        parts = [f"### {title}", scores(runs), verdict(runs)]
        parts += ["Differences, paired by seed:", differences(runs)]
        sections.append("\n\n".join(part for part in parts if part))
    return "\n\n".join([*sections, provenance(results)])


def found_by(runs: list[dict[str, Any]], start: str, method: str, key: str) -> list[float]:
    """A score, seed by seed."""
    return [
        row[key] for run in runs for row in run["rows"] if (row["start"], row["method"]) == (start, method)
    ]


def scores(runs: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds."""
    lines = []
    for start, method in [(row["start"], row["method"]) for row in runs[0]["rows"]]:
        cells = [start, method]
        for key, _, factor, digits in COLUMNS:
            mean, sd = mean_and_spread(factor * value for value in found_by(runs, start, method, key))
            cells.append(f"{mean:.{digits}f}" + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}"))
        scale = ""
        if "chosen" in method:
            scale = ", ".join(f"{value:g}" for value in found_by(runs, start, method, "scale"))
        lines.append([*cells, scale])
    return markdown(["start", "method", *(title for _, title, *_ in COLUMNS), "scale, by seed"], lines)


def differences(runs: list[dict[str, Any]]) -> str:
    """What averaging changes, from each start; and what the first task changes, for each method."""
    rows = [(row["start"], row["method"]) for row in runs[0]["rows"]]
    starts, methods = list(dict.fromkeys(s for s, _ in rows)), list(dict.fromkeys(m for _, m in rows))
    pairs = [
        (f"{start}: {method} − SGD", (start, method), (start, "SGD"))
        for start in starts
        for method in methods
        if method != "SGD"
    ]
    pairs += [
        (f"{method}: {starts[0]} − {other}", (starts[0], method), (other, method))
        for other in starts[1:]
        for method in ("SGD", "SWAG")
    ]
    lines = []
    for name, mine, theirs in pairs:
        cells = [name]
        for key, _, factor, digits in COLUMNS:
            a, b = found_by(runs, *mine, key), found_by(runs, *theirs, key)
            cells.append(interval([factor * (x - y) for x, y in zip(a, b, strict=True)], digits))
        lines.append(cells)
    return markdown(["difference [95 %]", *(title for _, title, *_ in COLUMNS)], lines)


def bounds(numbers: list[float]) -> tuple[float, float]:
    """The ends of the mean's 95 % interval by Student's t; two numbers or more."""
    mean, sd = mean_and_spread(numbers)
    half = float(stats.t.ppf(0.975, len(numbers) - 1)) * sd / math.sqrt(len(numbers))
    return mean - half, mean + half


def interval(numbers: list[float], digits: int) -> str:
    """Mean and its 95 % interval."""
    mean, _ = mean_and_spread(numbers)
    if len(numbers) < 2:
        return f"{mean:+.{digits}f}"
    low, high = bounds(numbers)
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def verdict(runs: list[dict[str, Any]]) -> str:
    """For the pre-trained network: what is better than SGD where, by intervals on one side of 0."""
    start = runs[0]["rows"][0]["start"]
    if len(runs) < 2:
        return ""
    lines = []
    for method in [row["method"] for row in runs[0]["rows"] if row["start"] == start][1:]:
        found: dict[str, list[str]] = {"better": [], "worse": [], "no difference to be seen": []}
        for key, title, *_ in COLUMNS:
            a, b = found_by(runs, start, method, key), found_by(runs, start, "SGD", key)
            low, high = bounds([x - y for x, y in zip(a, b, strict=True)])
            word = "better" if high < 0 else "worse" if low > 0 else "no difference to be seen"
            found[word].append(title.split(",")[0])
        said = "; ".join(f"{word}: {', '.join(titles)}" for word, titles in found.items() if titles)
        lines.append(f"- {method} from the {start} network, against SGD: {said}.")
    return "\n".join(lines)


def provenance(results: list[dict[str, Any]]) -> str:
    recipe, environment = results[0]["settings"]["recipe"], results[0]["environment"]
    seconds = sum(result["seconds"] for result in results)
    versions = record.versions(environment)
    hardware = environment.get("device", environment["cpu"])
    kind = "seconds" if "device" in environment else "CPU seconds"
    seeds = ", ".join(map(str, sorted({result["settings"]["seed"] for result in results})))
    source, _ = mean_and_spread(100 * result["source_accuracy"] for result in results)
    return (
        f"{recipe['rows']:,} labels of the target, {recipe['test_rows']:,} test rows; the first task is "
        f"learned to {source:.1f} % on average. Mean ± standard deviation, or 95 % interval by Student's t, "
        f"over seeds {seeds}. {hardware}, {environment['threads']} thread(s); {seconds:.0f} {kind} in all; "
        f"{versions}."
    )
