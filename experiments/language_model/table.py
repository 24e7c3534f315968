"""The results as Markdown."""

from __future__ import annotations

import math
from typing import Any

from scipy import stats

from experiments import record
from experiments.record import markdown, mean_and_spread, spread

REFERENCE = "rate falls to 0"
TITLES = {"sgd": "SGD", "adam": "Adam"}


def tables(results: list[dict[str, Any]]) -> str:
    """A section for each data set and optimizer."""
    sections = []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        settings = result["settings"]
        groups.setdefault((settings["recipe"]["data"], settings["optimizer"]), []).append(result)
    for (data, optimizer), runs in sorted(groups.items(), reverse=True):
        runs.sort(key=lambda run: run["settings"]["seed"])
        parts = [f"### {TITLES[optimizer]} on {data}", _scores(runs), verdict(runs), _facts(runs)]
        sections.append("\n\n".join(part for part in parts if part))
    return "\n\n".join([*sections, _provenance(results)])


def ratio_interval(ratios: list[float]) -> str:
    """The geometric mean of n paired ratios with its 95 % interval by Student's t on their logarithms."""
    mean = math.exp(mean_and_spread([math.log(ratio) for ratio in ratios])[0])
    if len(ratios) < 2:
        return f"{mean:.4f}"
    low, high = bounds(ratios)
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def bounds(ratios: list[float]) -> tuple[float, float]:
    """The ends of that interval; two ratios or more."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, sd = mean_and_spread(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * sd / math.sqrt(len(logs))
    return math.exp(mean - half), math.exp(mean + half)


def _ratios(runs: list[dict[str, Any]], method: str) -> list[float]:
    """Perplexity over the reference's, seed by seed."""
    return [math.exp(_row(run, method)["nll"] - _row(run, REFERENCE)["nll"]) for run in runs]


def verdict(runs: list[dict[str, Any]]) -> str:
    """Which methods' intervals lie wholly on one side of 1."""
    if len(runs) < 2:
        return ""
    found: dict[str, list[str]] = {"lower perplexity": [], "higher": [], "no difference to be seen": []}
    for method in [row["method"] for row in runs[0]["rows"] if row["method"] != REFERENCE]:
        low, high = bounds(_ratios(runs, method))
        word = "lower perplexity" if high < 1 else "higher" if low > 1 else "no difference to be seen"
        found[word].append(method)
    said = "; ".join(f"{word}: {', '.join(methods)}" for word, methods in found.items() if methods)
    return f"Against “{REFERENCE}”, by intervals on one side of 1: {said}."


def _scores(runs: list[dict[str, Any]]) -> str:
    lines = []
    for method in [row["method"] for row in runs[0]["rows"]]:
        rows = [_row(run, method) for run in runs]
        perplexity = spread([math.exp(row["nll"]) for row in rows], 2)
        ratio = "1"
        if method != REFERENCE:
            ratio = ratio_interval(_ratios(runs, method))
        speed = spread([row["words_per_second"] / 1000 for row in rows], 1)
        lines.append([method, rows[0]["networks"], len(rows), perplexity, ratio, speed])
    head = ["method", "networks", "seeds", "test perplexity", f"ratio to “{REFERENCE}” [95 %]"]
    return markdown([*head, "thousand words predicted a second"], lines)


def _facts(runs: list[dict[str, Any]]) -> str:
    settings = runs[0]["settings"]
    recipe = settings["recipe"]
    phases = ("common half", "rate falls", "rate stays, averages")
    lines = [
        ["rate", f"{dict(recipe['rates'])[settings['optimizer']]:g}"],
        ["training words, one half", f"{runs[0]['train_words']:,}"],
        ["test words", f"{runs[0]['rows'][0]['words']:,}"],
        ["test words read as <unk>, %".replace("<", "&lt;"), f"{100 * runs[0]['unknown_share']:.1f}"],
        ["parameters", f"{runs[0]['parameters']:,}"],
    ]
    for phase in phases:
        speeds = [run["train_words"] / run["seconds"][phase] / 1000 for run in runs]
        lines.append([f"thousand words trained on a second: {phase}", spread(speeds, 1)])
    by_seed = [
        ("snapshots in SWA", lambda run: run["averaged"]["SWA"]),
        ("steps in NT-ASGD's average (0: never triggered)", lambda run: run["averaged"]["NT-ASGD"]),
        ("SWAG's scale, by validation", lambda run: f"{run['scale']:g}"),
    ]
    for name, read in by_seed:
        lines.append([f"{name}, by seed", ", ".join(str(read(run)) for run in runs)])
    tried: dict[float, list[float]] = {}
    for run in runs:
        for point in run["tried"]:
            tried.setdefault(point["scale"], []).append(math.exp(point["nll"]))
    found = "; ".join(f"{scale:g}: {spread(values, 2)}" for scale, values in tried.items())
    lines.append(["validation perplexity of SWAG by scale", found])
    return markdown(["", ""], lines)


def _row(run: dict[str, Any], method: str) -> dict[str, Any]:
    return next(row for row in run["rows"] if row["method"] == method)


def _provenance(results: list[dict[str, Any]]) -> str:
    environment = results[0]["environment"]
    seconds = sum(sum(result["seconds"].values()) for result in results)
    versions = record.versions(environment)
    hardware = environment.get("device", environment["cpu"])
    kind = "seconds" if "device" in environment else "CPU seconds"
    seeds = ", ".join(map(str, sorted({result["settings"]["seed"] for result in results})))
    return (
        f"Mean ± standard deviation over seeds {seeds}; intervals by Student's t, paired by seed. "
        f"{hardware}, {environment['threads']} thread(s); {seconds:.0f} {kind} in all; {versions}."
    )
