"""The results as Markdown."""

from __future__ import annotations

from typing import Any

from experiments import record
from experiments.record import markdown, spread
from experiments.swap.recipes import RECIPES
from experiments.swap.study import METHODS, ON_ONE_WORKER

NAMES = {
    "small": "small batches",
    "short": "small batches, shorter",
    "large": "large batches",
    "swap": "SWAP",
}
PUBLISHED = "published (Gupta et al. 2020): 94 % in 27 s on 8 V100s"


def tables(results: list[dict[str, Any]]) -> str:
    """One section a recipe."""
    sections = []
    for name in RECIPES:
        runs = {
            (run["settings"]["method"], run["settings"]["seed"]): run
            for run in results
            if run["name"].startswith(f"{name}-")
        }
        if runs:
            sections.append(section(runs))
    return "\n\n".join(sections)


def section(runs: dict[tuple[str, int], dict[str, Any]]) -> str:
    recipe = next(iter(runs.values()))["settings"]["recipe"]
    seeds = sorted({seed for _, seed in runs})
    whole = [seed for seed in seeds if all((method, seed) in runs for method in METHODS)]
    lines = []
    for method in METHODS:
        own = [runs[method, seed] for seed in seeds if (method, seed) in runs]
        if own:
            lines.append(
                [
                    NAMES[method],
                    len(own),
                    spread([100 * run["accuracy"] for run in own], 2),
                    spread([run["elapsed"] for run in own], 1),
                    spread([run["busy"] for run in own], 1),
                    ratio(runs, whole, method),
                ]
            )
    head = ["method", "seeds", "test accuracy, %", "seconds", "seconds of work", "time / small batches'"]
    parts = [
        f"### {recipe['network']} on {recipe['data']}, {recipe['workers']} workers",
        markdown(head, lines),
    ]
    parts.append(targets(runs, whole, recipe))
    swaps = [run for (method, _), run in runs.items() if method == "swap"]
    if swaps:
        parts.append(inside(swaps))
    if recipe["data"] == "cifar10":
        parts.append(f"{PUBLISHED}.")
    return "\n\n".join([*(part for part in parts if part), provenance(list(runs.values()))])


def ratio(runs: dict[tuple[str, int], dict[str, Any]], seeds: list[int], method: str) -> str:
    """Seed by seed, since what one seed's methods share is the hour they were run in."""
    values = [runs[method, seed]["elapsed"] / runs["small", seed]["elapsed"] for seed in seeds]
    return spread(values, 2) if values else "–"


def targets(runs: dict[tuple[str, int], dict[str, Any]], seeds: list[int], recipe: dict[str, Any]) -> str:
    """When the test accuracy was first seen at a target: seconds, and as a part of small batches' time."""
    if not seeds:
        return ""
    lines = []
    for target in recipe["targets"]:
        cells = [f"{100 * target:g} %"]
        base = {seed: first(runs["small", seed], target) for seed in seeds}
        for method in METHODS:
            found = {seed: first(runs[method, seed], target) for seed in seeds}
            known = {seed: at for seed, at in found.items() if at is not None}
            ratios = [at / base[seed] for seed, at in known.items() if base[seed] is not None]
            parts = [f"{spread(list(known.values()), 1)} s"] if known else []
            parts += [f"× {spread(ratios, 2)}"] if ratios and method != "small" else []
            parts += (
                [f"not reached by {len(seeds) - len(known)} of {len(seeds)}"]
                if len(known) < len(seeds)
                else []
            )
            cells.append(", ".join(parts))
        lines.append(cells)
    return "Time to a test accuracy, and its ratio to small batches':\n\n" + markdown(
        ["target", *(NAMES[method] for method in METHODS)], lines
    )


def first(run: dict[str, Any], target: float) -> float | None:
    return next((seconds for seconds, found in run["curve"] if found >= target), None)


def inside(swaps: list[dict[str, Any]]) -> str:
    """SWAP's phases, and what its workers were before they were averaged."""
    seconds = [run["seconds"] for run in swaps]
    rows = [
        ["phase 1: epochs", spread([run["large_epochs"] for run in swaps], 1)],
        ["phase 1: seconds", spread([s["large"] for s in seconds], 1)],
        ["phase 2: seconds of the slowest worker", spread([max(s["small"]) for s in seconds], 1)],
        ["phase 3: seconds, with batch norm", spread([s["average"] for s in seconds], 2)],
        ["test accuracy of one worker, %", spread([100 * a for run in swaps for a in run["workers"]], 2)],
        ["test accuracy of the average, %", spread([100 * run["accuracy"] for run in swaps], 2)],
        ["test accuracy of the workers' ensemble, %", spread([100 * run["ensemble"] for run in swaps], 2)],
    ]
    return "Inside SWAP:\n\n" + markdown(["", "mean ± standard deviation"], rows)


def provenance(runs: list[dict[str, Any]]) -> str:
    environment = runs[0]["environment"]
    versions = record.versions(environment)
    hardware = environment.get("device", environment["cpu"])
    turns = {run["settings"]["workers"] for run in runs if run["settings"]["method"] not in ON_ONE_WORKER}
    how = {
        "in turn": "the workers took turns in one process (in the times phase 1 is divided by their number, "
        "and no messages are counted)",
        "processes": "a process for every worker",
    }
    seeds = ", ".join(map(str, sorted({run["settings"]["seed"] for run in runs})))
    return (
        f"Mean ± standard deviation over seeds {seeds}. {hardware}, {environment['threads']} thread(s) a "
        f"process; {' and '.join(how[turn] for turn in sorted(turns)) or 'one worker'}; {versions}."
    )
