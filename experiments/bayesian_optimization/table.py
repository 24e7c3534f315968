"""The README's tables, from the results files alone."""

from __future__ import annotations

import statistics
from typing import Any

from experiments import record
from experiments.record import markdown, mean_and_spread

ORDER = ("Sobol", "GP", "SWAG", "MultiSWAG")
PAIRS = (("SWAG", "GP"), ("MultiSWAG", "GP"), ("MultiSWAG", "SWAG"), ("SWAG", "Sobol"))


def tables(results: list[dict[str, Any]]) -> str:
    """A table of regrets and one of differences for every problem, and the line about the hardware."""
    parts = []
    for problem in dict.fromkeys(result["problem"] for result in results):
        parts += _problem(problem, [result for result in results if result["problem"] == problem])
    return "\n\n".join([*parts, _footer(results)])


def _problem(name: str, results: list[dict[str, Any]]) -> list[str]:
    settings = results[0]["settings"]
    runs = {
        method: {r["seed"]: row for r in results for row in r["rows"] if row["method"] == method}
        for method in ORDER
    }
    runs = {method: found for method, found in runs.items() if found}
    last = settings["n_batches"]
    half = last // 2
    counts = [settings["n_start"] + settings["q"] * batches for batches in (half, last)]
    rows = []
    for method, found in runs.items():
        middle, end = ([row["regret"][k] for row in found.values()] for k in (half, last))
        seconds = [
            statistics.fmean(row["seconds"][stage] for row in found.values())
            for stage in ("fit", "acquisition")
        ]
        rows.append(
            [
                method,
                len(found),
                _spread(middle),
                _spread(end),
                _short(statistics.median(end)),
                f"{_short(min(end))} to {_short(max(end))}",
                " + ".join(f"{value:.2f}" for value in seconds) if method != "Sobol" else "–",
            ]
        )
    heads = ["method", "seeds", f"regret after {counts[0]}", f"after {counts[1]}", "median", "range"]
    scores = markdown([*heads, "CPU s a batch, fit + acquisition"], rows)
    return [f"### {name}", scores, _differences(runs, last)]


def _differences(runs: dict[str, dict[int, Any]], last: int) -> str:
    rows = []
    for one, other in PAIRS:
        seeds = sorted(runs.get(one, {}).keys() & runs.get(other, {}).keys())
        if not seeds:
            continue
        gaps = [runs[one][s]["regret"][last] - runs[other][s]["regret"][last] for s in seeds]
        lower = sum(gap < 0 for gap in gaps)
        mean, spread = mean_and_spread(gaps)
        rows.append([f"{one} − {other}", f"{mean:+.3f} ± {spread:.3f}", f"{lower} of {len(gaps)}"])
    return markdown(["difference at the end, same start", "regret", "lower"], rows)


def _spread(values: list[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{_short(mean)} ± {_short(spread)}"


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.2f}"


def _footer(results: list[dict[str, Any]]) -> str:
    found = results[0]["environment"]
    versions = record.versions(found)
    versions += ", " + ", ".join(f"{n} {v}" for n, v in results[0]["settings"]["versions"].items())
    seeds = sorted({result["seed"] for result in results})
    cpu = sum(result["cpu_seconds"] for result in results)
    return (
        f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}. {found['cpu']}, "
        f"{found['threads']} thread(s); {cpu:.0f} CPU seconds in all; {versions}."
    )
