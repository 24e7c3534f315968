"""The README's tables from the results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from experiments import record
from experiments.record import markdown
from swag.demo.words import STEPS

TITLES = {"digits": "Digits", "fashion-mnist": "Fashion-MNIST"}
LOWER = {"nll", "nll_temperature", "brier", "ece"}
COLUMNS = {
    "accuracy": "accuracy ↑",
    "nll": "NLL ↓",
    "nll_temperature": "NLL after temp. ↓",
    "brier": "Brier ↓",
    "ece": "ECE ↓",
    "auroc": "AUROC out of distribution ↑",
}


def sections(all_results: Sequence[dict[str, Any]]) -> str:
    """A section for each data set."""
    return "\n\n".join(
        f"### {TITLES[results['settings']['data']]}\n\n{tables(results)}" for results in all_results
    )


def tables(results: dict[str, Any]) -> str:
    """One data set: figures by method, and how often each step improved what it was meant to."""
    return f"{figures(results)}\n\n{steps(results)}\n\n{facts(results)}"


def figures(results: dict[str, Any]) -> str:
    """Mean ± standard deviation over seeds; a single method's figure for a seed is its members' mean."""
    runs = results["runs"]
    return markdown(
        ["method", *COLUMNS.values()],
        (
            [method, *(record.spread([_value(run, method, column) for run in runs], 3) for column in COLUMNS)]
            for method in runs[0]["figures"]
        ),
    )


def steps(results: dict[str, Any]) -> str:
    """Seeds in which a step improved a figure, and the mean difference."""
    runs, lines = results["runs"], []
    for method, before in STEPS:
        cells = []
        for column in COLUMNS:
            changes = [_value(run, method, column) - _value(run, before, column) for run in runs]
            better = sum(change < 0 if column in LOWER else change > 0 for change in changes)
            cells.append(f"{better} of {len(runs)} ({statistics.fmean(changes):+.3f})".replace("-", "−"))
        lines.append([f"{before} → {method}", *cells])
    return markdown(["step", *COLUMNS.values()], lines)


def facts(results: dict[str, Any]) -> str:
    """What ran, how long, and the weight decays chosen."""
    runs, settings, environment = (results[key] for key in ("runs", "settings", "environment"))
    chosen = {
        family: ", ".join(f"{run['weight_decays'][family]:g}" for run in runs)
        for family in ("SGD", "averaging")
    }
    cpu = [run["cpu_s"] for run in runs]
    return (
        f"Seeds {_range([run['seed'] for run in runs])}; {settings['members']} members, "
        f"{settings['epochs']} epochs, {settings['samples']} samples. Weight decay chosen, seed by seed: "
        f"{chosen['SGD']} for SGD, {chosen['averaging']} for averaging. CPU seconds a run: "
        f"{min(cpu):.0f} to {max(cpu):.0f}, on one of {environment['cores']} cores, with other work on the "
        f"machine. {environment['cpu']}; {record.versions(environment)}."
    )


def _value(run: dict[str, Any], method: str, column: str) -> float:
    row = run["figures"][method]
    key = next(key for key in row if key == column or (column == "auroc" and key.startswith("auroc_")))
    return statistics.fmean(row[key])


def _range(seeds: list[int]) -> str:
    whole = len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))
