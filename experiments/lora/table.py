"""The results as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats

from experiments import record
from experiments.lora.study import METHODS
from experiments.record import markdown, mean_and_spread

COLUMNS = {
    "accuracy": ("accuracy, % ↑", 100.0, 2),
    "nll": ("NLL ↓", 1.0, 4),
    "ece": ("ECE, % ↓", 100.0, 2),
    "nll_temperature": ("NLL after temperature ↓", 1.0, 4),
}


def tables(base: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """Scores, paired differences, what the posterior takes, and where it ran."""
    results = sorted(results, key=lambda result: result["seed"])
    return "\n\n".join([scores(results), differences(results), memory(results), facts(base, results)])


def scores(results: Sequence[dict[str, Any]]) -> str:
    lines = []
    for method in METHODS:
        cells = []
        for column, (_, factor, digits) in COLUMNS.items():
            mean, spread = mean_and_spread(factor * result["scores"][method][column] for result in results)
            cells.append(f"{mean:.{digits}f} ± {spread:.{digits}f}")
        lines.append([method, *cells])
    return markdown(["method", *(title for title, _, _ in COLUMNS.values())], lines)


def differences(results: Sequence[dict[str, Any]]) -> str:
    lines = []
    for method in METHODS[1:]:
        cells = []
        for column, (_, factor, digits) in COLUMNS.items():
            changes = [
                factor * (result["scores"][method][column] - result["scores"]["LoRA"][column])
                for result in results
            ]
            cells.append(interval(changes, digits))
        lines.append([f"{method} − LoRA", *cells])
    head = markdown(["paired difference", *(title for title, _, _ in COLUMNS.values())], lines)
    return f"Mean paired difference with its 95 % interval (Student's t over {len(results)} seeds):\n\n{head}"


def interval(changes: Sequence[float], digits: int) -> str:
    """The mean and its 95 % interval; the mean alone of one value."""
    mean = statistics.fmean(changes)
    if len(changes) < 2:
        return _signed(mean, digits)
    half = stats.t.ppf(0.975, len(changes) - 1) * statistics.stdev(changes) / math.sqrt(len(changes))
    return f"{_signed(mean, digits)} [{_signed(mean - half, digits)}, {_signed(mean + half, digits)}]"


def memory(results: Sequence[dict[str, Any]]) -> str:
    first = results[0]
    d, n = first["adapter_parameters"], first["base_parameters"]
    whole = first["swag_bytes"] // d * (n + d)
    lines = [
        ["adapters and head, d", f"{d:,} parameters"],
        ["frozen base", f"{n:,} parameters"],
        ["SWAG over the adapters, 4·(2 + K)·d", f"{first['swag_bytes'] / 1e6:.2f} MB"],
        ["SWAG over all weights would be", f"{whole / 1e6:.2f} MB"],
        ["snapshots", f"{first['snapshots']}"],
        ["scale chosen on validation rows, by seed", ", ".join(f"{r['scale']:g}" for r in results)],
    ]
    return markdown(["what it takes", ""], lines)


def facts(base: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    first = results[0]
    task, rows = first["settings"]["task"], first["rows"]
    versions = record.versions(first["environment"])
    seeds = ", ".join(str(result["seed"]) for result in results)
    seconds = [result["cpu_s"]["all"] for result in results]
    return (
        f"{task['data']}: {rows['train']:,} training, {rows['validation']:,} validation, {rows['test']:,} "
        f"test sentences; seeds {seeds}; mean ± standard deviation. The base model saw {base['tokens']:,} "
        f"tokens in {base['cpu_s']:.0f} CPU seconds; its perplexity on the validation text is "
        f"{base['perplexity']:.0f} a token. A seed took {min(seconds):.0f} to {max(seconds):.0f} CPU "
        f"seconds. {first['environment']['cpu']}, {first['environment']['threads']} thread(s); {versions}."
    )


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
