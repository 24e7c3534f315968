"""The README's tables from a results file: `python experiments/demo/table.py results/digits.json`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from swag.demo.words import STEPS

LOWER = {"nll", "nll_temperature", "brier", "ece"}
COLUMNS = {
    "accuracy": "accuracy ↑",
    "nll": "NLL ↓",
    "nll_temperature": "NLL after temp. ↓",
    "brier": "Brier ↓",
    "ece": "ECE ↓",
    "auroc": "AUROC out of distribution ↑",
}


def tables(results: dict[str, Any]) -> str:
    """Figures by method, and how often each step improved what it was meant to."""
    return f"{figures(results)}\n\n{steps(results)}\n\n{facts(results)}"


def figures(results: dict[str, Any]) -> str:
    """Mean ± standard deviation over seeds; a single method's figure for a seed is its members' mean."""
    lines = [f"| method | {' | '.join(COLUMNS.values())} |", f"|---{'|---' * len(COLUMNS)}|"]
    for method in results["runs"][0]["figures"]:
        cells = [_spread([_value(run, method, column) for run in results["runs"]]) for column in COLUMNS]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def steps(results: dict[str, Any]) -> str:
    """Seeds in which a step improved a figure, and the mean difference."""
    lines = [f"| step | {' | '.join(COLUMNS.values())} |", f"|---{'|---' * len(COLUMNS)}|"]
    runs = results["runs"]
    for method, before in STEPS:
        cells = []
        for column in COLUMNS:
            changes = [_value(run, method, column) - _value(run, before, column) for run in runs]
            better = sum(change < 0 if column in LOWER else change > 0 for change in changes)
            cells.append(f"{better} of {len(runs)} ({statistics.fmean(changes):+.3f})".replace("-", "−"))
        lines.append(f"| {before} → {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def facts(results: dict[str, Any]) -> str:
    """What ran, how long, and the weight decays chosen."""
    runs = results["runs"]
    chosen = {
        family: ", ".join(f"{run['weight_decays'][family]:g}" for run in runs)
        for family in ("SGD", "averaging")
    }
    cpu = [run["cpu_s"] for run in runs]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    hardware = results["hardware"]
    return (
        f"Seeds {runs[0]['seed']} to {runs[-1]['seed']}; {results['members']} members, "
        f"{results['epochs']} epochs, {results['samples']} samples. Weight decay chosen, seed by seed: "
        f"{chosen['SGD']} for SGD, {chosen['averaging']} for averaging. CPU seconds a run: "
        f"{min(cpu):.0f} to {max(cpu):.0f}, on one of {hardware['cores']} cores, with other work on the "
        f"machine. {hardware['cpu']}; {versions}."
    )


def _value(run: dict[str, Any], method: str, column: str) -> float:
    row = run["figures"][method]
    key = next(key for key in row if key == column or (column == "auroc" and key.startswith("auroc_")))
    return statistics.fmean(row[key])


def _spread(values: list[float]) -> str:
    return (
        f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
        if len(values) > 1
        else f"{values[0]:.3f}"
    )


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
