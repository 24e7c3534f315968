"""The table of the CIFAR results beside the published figures."""

from __future__ import annotations

from typing import Any

from experiments import record

# Test NLL on CIFAR-100: Maddox et al. 2019, arXiv:1902.02476, table 4.
PUBLISHED = {
    "vgg16": {"SGD": 1.73, "SWA": 1.28, "SWAG": 0.95, "SWAG-diag": 1.02},
    "preresnet164": {"SGD": 0.95, "SWA": 0.74, "SWAG": 0.71, "SWAG-diag": 0.68},
    "wrn28-10": {"SGD": 0.80, "SWA": 0.67, "SWAG": 0.60, "SWAG-diag": 0.62},
}
HEADERS = (
    "method",
    "accuracy, % ↑",
    "NLL ↓",
    "published NLL ↓",
    "NLL after temperature, cross-fitted ↓",
    "ECE, % ↓",
)


def tables(results: list[dict[str, Any]]) -> str:
    """One table a network; means ± standard deviations where there are several seeds."""
    texts = []
    for name in PUBLISHED:
        runs = [result for result in results if result["name"] == name]
        if runs:
            texts.append(_table(name, runs))
    return "\n\n".join(texts)


def _table(name: str, runs: list[dict[str, Any]]) -> str:
    first = runs[0]
    settings, environment = first["settings"], first["environment"]
    data = settings["recipe"]["data"]
    rows = []
    for method in runs[0]["methods"]:
        of = {score: [run["methods"][method][score] for run in runs] for score in runs[0]["methods"][method]}
        rows.append(
            (
                method,
                record.spread([100 * value for value in of["accuracy"]], 2),
                record.spread(of["nll"], 3),
                f"{PUBLISHED[name][method]:.2f}" if data == "cifar100" else "",
                record.spread(of["nll_after_temperature"], 3),
                record.spread([100 * value for value in of["ece"]], 2),
            )
        )
    epochs, published = settings["recipe"]["epochs"], settings["published_epochs"]
    cut = "" if epochs == published else f", CUT DOWN from {published}"
    where = environment.get("device", environment["cpu"])
    seconds = sum(run["seconds"] for run in runs) / len(runs)
    note = f"{len(runs)} seed(s); {epochs} epochs{cut}; data: {data}; {seconds:.0f} s a seed on {where}."
    return f"### {name}\n\n{record.markdown(HEADERS, rows)}\n\n{note}"
