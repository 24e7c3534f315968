"""The results as Markdown."""

from __future__ import annotations

import math
from typing import Any

from scipy import stats

from experiments import record
from experiments.record import markdown, mean_and_spread

METHODS = ("SGD", "SWA", "SWAG", "SWAG, scale chosen")
METHODS += ("deep ensemble", "MultiSWA", "MultiSWAG", "MultiSWAG, scale chosen")


def tables(results: list[dict[str, Any]]) -> str:
    """A section for each data set."""
    sections = []
    for data in dict.fromkeys(result["settings"]["recipe"]["data"] for result in results):
        runs = [result for result in results if result["settings"]["recipe"]["data"] == data]
        runs.sort(key=lambda run: run["settings"]["width"])
        parts = [f"### {data}"]
        for key, title, factor, digits in (
            ("error", "Test error, %", 100, 1),
            ("nll", "Test NLL, nats", 1, 3),
        ):
            parts += [f"{title}:", by_width(runs, key, factor, digits)]
        parts += ["The bump: how far a curve rises above the best of all smaller networks, at its worst:"]
        parts += [
            bumps(runs),
            verdicts(runs),
            "The scale chosen for MultiSWAG, by group:",
            scales(runs),
            provenance(runs),
        ]
        sections.append("\n\n".join(part for part in parts if part))
    return "\n\n".join(sections)


def methods_of(runs: list[dict[str, Any]]) -> list[str]:
    """The methods there are, in the usual order."""
    there = {row["method"] for row in runs[0]["rows"]}
    return [method for method in METHODS if method in there]


def values(run: dict[str, Any], method: str, key: str) -> dict[int, float]:
    """A method's score by seed."""
    return {row["seed"]: row[key] for row in run["rows"] if row["method"] == method}


def by_width(runs: list[dict[str, Any]], key: str, factor: float, digits: int) -> str:
    """A line a width, with how far its networks have learned the wrong labels by heart."""
    methods = methods_of(runs)
    lines = []
    for run in runs:
        cells: list[object] = [run["settings"]["width"], f"{run['parameters']:,}"]
        cells.append(f"{100 * mean_and_spread(values(run, 'SGD', 'train_error').values())[0]:.1f}")
        for method in methods:
            mean, sd = mean_and_spread(factor * value for value in values(run, method, key).values())
            cells.append(f"{mean:.{digits}f}" + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}"))
        lines.append(cells)
    return markdown(["width", "parameters", "SGD's training error, %", *methods], lines)


def rise(curve: list[float]) -> float:
    """max over widths of (score − the least score of the smaller ones), 0 where the curve never rises.

    >>> round(rise([0.3, 0.2, 0.4, 0.1, 0.15]), 3)
    0.2
    """
    best, highest = math.inf, 0.0
    for value in curve:
        highest = max(highest, value - best)
        best = min(best, value)
    return highest


def rises(runs: list[dict[str, Any]], method: str, key: str) -> list[float]:
    """The rise of a method's curve, seed by seed."""
    seeds = values(runs[0], method, key)
    return [rise([values(run, method, key)[seed] for run in runs]) for seed in seeds]


def bounds(numbers: list[float]) -> tuple[float, float]:
    """The ends of the mean's 95 % interval by Student's t; two numbers or more."""
    mean, sd = mean_and_spread(numbers)
    half = float(stats.t.ppf(0.975, len(numbers) - 1)) * sd / math.sqrt(len(numbers))
    return mean - half, mean + half


def interval(numbers: list[float], factor: float, digits: int) -> str:
    """Mean and its 95 % interval."""
    scaled = [factor * number for number in numbers]
    mean, _ = mean_and_spread(scaled)
    if len(numbers) < 2:
        return f"{mean:.{digits}f}"
    low, high = bounds(scaled)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def bumps(runs: list[dict[str, Any]]) -> str:
    """The rise of each curve, and what is left of SGD's, paired by seed."""
    lines = []
    base = {key: rises(runs, "SGD", key) for key in ("error", "nll")}
    for method in methods_of(runs):
        cells = [method]
        for key, factor, digits in (("error", 100, 1), ("nll", 1, 3)):
            own = rises(runs, method, key)
            less = [mine - sgd for mine, sgd in zip(own, base[key], strict=True)]
            cells += [
                interval(own, factor, digits),
                interval(less, factor, digits) if method != "SGD" else "",
            ]
        lines.append(cells)
    head = ["rise of the error, % [95 %]", "less SGD's", "rise of the NLL, nats [95 %]", "less SGD's"]
    return markdown(["method", *head], lines)


def verdicts(runs: list[dict[str, Any]]) -> str:
    """In words, by a rule that was set before there were results.

    A bump is gone where the mean rise is below a tenth of SGD's; smaller, or larger, where the paired
    interval lies wholly on that side of 0; otherwise there is no difference to be seen.
    """
    lines = []
    for key, title, factor, digits, unit in (
        ("error", "error", 100, 1, " points"),
        ("nll", "NLL", 1, 3, " nats"),
    ):
        sgd = [factor * value for value in rises(runs, "SGD", key)]
        mean, _ = mean_and_spread(sgd)
        if mean <= 0 or len(sgd) < 2:
            continue
        words = []
        for method in [method for method in methods_of(runs) if method != "SGD"]:
            own = [factor * value for value in rises(runs, method, key)]
            left, _ = mean_and_spread(own)
            low, high = bounds([mine - base for mine, base in zip(own, sgd, strict=True)])
            word = (
                "gone" if left < 0.1 * mean else "smaller" if high < 0 else "larger" if low > 0 else "as high"
            )
            words.append(f"{method}: {word} ({left:.{digits}f})")
        lines.append(f"- The bump of the {title}, {mean:.{digits}f}{unit} for SGD. {'; '.join(words)}.")
    return "\n".join(lines)


def scales(runs: list[dict[str, Any]]) -> str:
    """What held-out rows chose, a column a width."""
    chosen = [values(run, "MultiSWAG, scale chosen", "scale") for run in runs]
    lines = [["scale", *(", ".join(f"{scale:g}" for scale in each.values()) for each in chosen)]]
    return markdown(["width", *(str(run["settings"]["width"]) for run in runs)], lines)


def provenance(runs: list[dict[str, Any]]) -> str:
    recipe, environment = runs[0]["settings"]["recipe"], runs[0]["environment"]
    seconds = sum(run["seconds"] for run in runs)
    versions = record.versions(environment)
    hardware = environment.get("device", environment["cpu"])
    kind = "seconds" if "device" in environment else "CPU seconds"
    seeds = ", ".join(map(str, sorted(values(runs[0], "SGD", "error"))))
    return (
        f"{recipe['train_rows']:,} training rows, {100 * recipe['noise']:.0f} % wrong labels, test rows with "
        f"true ones. Mean ± standard deviation, or 95 % interval, over groups {seeds}, each of "
        f"{recipe['members']} networks and with its own rows and wrong labels; SGD, SWA and SWAG are the "
        f"mean of the group's networks, each alone. {hardware}, {environment['threads']} thread(s); "
        f"{seconds:.0f} {kind} in all; {versions}."
    )
