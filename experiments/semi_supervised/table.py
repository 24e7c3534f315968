"""The results as Markdown."""

from __future__ import annotations

import math
from typing import Any

from experiments import record
from experiments.record import markdown, mean_and_spread
from experiments.semi_supervised.settings import SETTINGS
from experiments.semi_supervised.study import METHODS

NAMES = {"supervised": "labels alone", "pi": "Pi model", "teacher": "Mean Teacher"}
AVERAGES = {"sgd": "SGD", "swa": "SWA", "fast-swa": "fast-SWA", "teacher": "its teacher"}
PUBLISHED = (
    "published (Athiwaratkun et al. 2019): 95 % right, 5 % error, with fast-SWA, Mean Teacher and a larger "
    "Shake-Shake network"
)


def tables(results: list[dict[str, Any]]) -> str:
    """One section a setting, then what was chosen."""
    if not results:
        return "No results yet."
    sections = []
    for name in SETTINGS:
        own = [run for run in results if run["name"].startswith(f"{name}-")]
        runs = [run for run in own if "error" in run]
        if runs:
            sections.append(section(name, runs))
    choices = [run for run in results if "tried" in run]
    if choices:
        sections.append(chosen(choices))
    return "\n\n".join([*sections, provenance(results)])


def section(name: str, runs: list[dict[str, Any]]) -> str:
    setting = runs[0]["settings"]["setting"]
    what = f"{setting['labels']:,} labels, {setting['unlabelled']:,} rows without"
    domain = " of the second domain" if setting["second_domain"] else ""
    parts = [f"### {name}: {setting['data']}, {what}{domain}", errors(runs, "error")]
    if setting["second_domain"]:
        blur, noise = setting["second_domain"]
        parts += [
            "The same networks with batch-norm statistics of the target's unlabelled rows:",
            errors(runs, "error_target_statistics"),
            f"Second domain: blurred (a Gaussian of {blur:g} pixel), noise of standard deviation {noise:g} "
            "on pixels from 0 to 1, clipped.",
        ]
    if setting["data"] == "cifar10":
        parts.append(f"{PUBLISHED}.")
    return "\n\n".join(parts)


def errors(runs: list[dict[str, Any]], key: str) -> str:
    """Test error of every average, and its difference from SGD's seed by seed."""
    head = ["method", "seeds", *(f"{label}, %" for label in AVERAGES.values()), "SWA − SGD", "fast-SWA − SGD"]
    lines = []
    for method in METHODS:
        own = [run[key] for run in runs if run["settings"]["method"] == method]
        if not own:
            continue
        cells: list[object] = [NAMES[method], len(own)]
        for average in AVERAGES:
            found = [100 * run[average] for run in own if average in run]
            cells.append(interval(found) if found else "–")
        for average in ("swa", "fast-swa"):
            cells.append(interval([100 * (run[average] - run["sgd"]) for run in own], sign="+"))
        lines.append(cells)
    return markdown(head, lines)


def interval(values: list[float], sign: str = "") -> str:
    """Mean ± half of the 95 % interval of Student's t over seeds."""
    mean, sd = mean_and_spread(values)
    if len(values) == 1:
        return f"{mean:{sign}.2f}"
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return f"{mean:{sign}.2f} ± {half:.2f}"


def chosen(choices: list[dict[str, Any]]) -> str:
    lines = []
    for name in SETTINGS:
        for method in METHODS:
            for choice in choices:
                if choice["name"] == f"{name}-{method}-choice":
                    tried = ", ".join(
                        f"({row['rate']:g}, {row['weight']:g}): {100 * row['validation_error']:.2f}"
                        for row in choice["tried"]
                    )
                    best = choice["chosen"]
                    lines.append([name, NAMES[method], tried, f"({best['rate']:g}, {best['weight']:g})"])
    head = ["setting", "method", "(rate, weight): validation error, %", "chosen"]
    return "### Chosen on the validation part\n\n" + markdown(head, lines)


def provenance(results: list[dict[str, Any]]) -> str:
    runs = [run for run in results if "error" in run]
    environment = results[0]["environment"]
    versions = record.versions(environment)
    hardware = environment.get("device", environment["cpu"])
    seeds = ", ".join(map(str, sorted({run["settings"]["seed"] for run in runs})))
    minutes = sum(run["seconds"] for run in runs) / 60
    choosing = sum(run["seconds"] for run in results if "tried" in run) / 60
    steps = sorted({run["steps"] for run in runs})
    return (
        f"Mean ± half of a 95 % interval (Student's t) over seeds {seeds or '–'}; differences are taken seed "
        f"by seed. {' or '.join(f'{n:,}' for n in steps)} steps a run. {hardware}, {environment['threads']} "
        f"thread(s), {minutes:.0f} minutes of processor time for the runs and "
        f"{choosing:.0f} for the choice; {versions}."
    )
