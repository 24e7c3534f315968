"""The tables of the README, from the results files alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from scipy import stats

from experiments import record

# How many evaluations at the end of training count.
LAST = 10
AVERAGES = {"swa": "SWA", "ema": "EMA"}
Results = list[dict[str, Any]]


def table(results: Results) -> str:
    """Returns, their steadiness, and where the average hurt; then what ran."""
    if not results:
        return "no results yet"
    by_task: dict[str, Results] = defaultdict(list)
    for result in results:
        by_task[f"{result['settings']['env']}, {result['settings']['algorithm']}"].append(result)
    parts = [
        f"Mean return of the last {LAST} evaluations:",
        _compared(by_task, level, ("higher", "**lower**")),
        f"Its standard deviation over the last {LAST} evaluations, less is steadier:",
        _compared(by_task, spread, ("steadier", "**less steady**")),
        "Runs by themselves, SWA against the current policy:",
        _counted(by_task),
        _ran(by_task),
    ]
    return "\n\n".join(parts)


def curve(result: dict[str, Any], policy: str) -> list[float]:
    """The mean returns of the last evaluations in which there was an average."""
    rows = [row for row in result["rows"] if "swa" in row["returns"]][-LAST:]
    return [statistics.fmean(row["returns"][policy]) for row in rows]


def level(result: dict[str, Any], policy: str) -> float:
    """The mean of the curve's end."""
    return statistics.fmean(curve(result, policy))


def spread(result: dict[str, Any], policy: str) -> float:
    """The standard deviation along the curve's end, of one run."""
    return statistics.stdev(curve(result, policy))


def half_width(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval of the mean; NaN for one value."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)


def interval(values: Sequence[float], sign: str = "") -> str:
    """Mean ± half width."""
    mean = format(statistics.fmean(values), f"{sign}.1f")
    return mean if len(values) < 2 else f"{mean} ± {half_width(values):.1f}"


def verdict(differences: Sequence[float], better: int, words: tuple[str, str]) -> str:
    """What the interval of paired differences says: beyond 0 or not. `better` is the good sign,
    `words` are for good and for bad."""
    if len(differences) < 2:
        return "one seed"
    mean, half = statistics.fmean(differences), half_width(differences)
    if abs(mean) <= half or mean == 0:
        return "not told apart"
    return words[mean * better < 0]


Measure = Callable[[dict[str, Any], str], float]


def _compared(by_task: dict[str, Results], measure: Measure, words: tuple[str, str]) -> str:
    better = 1 if measure is level else -1
    rows = []
    for name, results in by_task.items():
        current = [measure(result, "current") for result in results]
        row = [name, len(results), interval(current)]
        for policy in AVERAGES:
            own = [measure(result, policy) for result in results]
            differences = [a - b for a, b in zip(own, current, strict=True)]
            row += [interval(own), f"{interval(differences, '+')}: {verdict(differences, better, words)}"]
        rows.append(row)
    headers = ["task", "seeds", "current"]
    for title in AVERAGES.values():
        headers += [title, f"{title} − current, paired"]
    return record.markdown(headers, rows)


def _counted(by_task: dict[str, Results]) -> str:
    rows = []
    for name, results in by_task.items():
        pairs = [(level(result, "swa"), level(result, "current")) for result in results]
        wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        worst = min(pairs, key=lambda pair: pair[0] - pair[1])
        steadier = sum(spread(result, "swa") < spread(result, "current") for result in results)
        rows.append([name, wins, losses, f"{worst[1]:.1f} → {worst[0]:.1f}", f"{steadier} of {len(results)}"])
    headers = ["task", "runs with a higher return", "lower", "worst run, current → SWA", "steadier"]
    return record.markdown(headers, rows)


def _ran(by_task: dict[str, Results]) -> str:
    everything = [result for results in by_task.values() for result in results]
    trained = "; ".join(f"{name}: {rs[0]['settings']['timesteps']:,}" for name, rs in by_task.items())
    minutes = sum(result["seconds"] for result in everything) / 60
    first = everything[0]
    environment, packages = first["environment"], first["packages"]
    versions = ", ".join(f"{name} {v}" for name, v in {**environment["versions"], **packages}.items())
    return (
        f"Environment steps trained: {trained}. ± is half of Student's 95 % interval over seeds. "
        f"{minutes:.0f} minutes of one core in all; {environment['cpu']}, {environment['threads']} thread; "
        f"{versions}."
    )
