"""The results as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments import record
from experiments.record import markdown, spread
from experiments.tabular import adult, wine
from experiments.tabular import speed as speeds

NAMES = {
    "logistic": "logistic regression",
    "boosting": "gradient boosting",
    "mlp": "MLPClassifier",
    "ridge": "Bayesian ridge",
    "gp": "Gaussian process",
    "swa": "SWA (scale=0)",
    "swag": "SWAG",
    "multiswag": "MultiSWAG",
}


def tables(out: Path) -> str:
    """What the files of a folder hold: "" for none."""
    runs = [
        record.read(path, adult.KIND)
        for path in sorted(out.glob("adult-*.json"))
        if path.stem != "adult-search"
    ]
    wines = [record.read(path, wine.KIND) for path in sorted(out.glob("wine-*.json"))]
    parts = []
    if runs:
        parts.append(income(runs, record.read(out / "adult-search.json", adult.KIND)))
    if wines:
        parts.append(shifted(wines))
    if (out / "speed.json").exists():
        parts.append(speed(record.read(out / "speed.json", speeds.KIND)))
    return "\n\n".join(parts)


def income(runs: list[dict[str, Any]], search: dict[str, Any]) -> str:
    data = runs[0]["settings"]["plan"]["data"]
    rows = []
    for method in adult.METHODS:
        own = [run["scores"] for run in runs if run["settings"]["method"] == method]
        if not own:
            continue
        searched = search["found"].get(method)
        rows.append(
            [
                NAMES[method],
                with_error(own, "accuracy", 2, 100),
                with_error(own, "nll", 4),
                with_error(own, "brier", 4),
                with_error(own, "ece", 2, 100),
                spread([score["fit_seconds"] for score in own], 1),
                spread([score["predict_seconds"] for score in own], 2),
                f"{searched['seconds']:.0f}" if searched else "–",
            ]
        )
    head = [
        "method",
        "accuracy, %",
        "NLL",
        "Brier",
        "ECE, %",
        "fit, CPU s",
        "predict, CPU s",
        "search, CPU s",
    ]
    best = "; ".join(
        f"{NAMES[method]}: {', '.join(f'{k}={v}' for k, v in found['best'].items())}"
        for method, found in search["found"].items()
    )
    lines = [
        f"### {data}",
        markdown(head, rows),
        f"Chosen by {search['settings']['folds']}-fold cross-validation from seed 0: {best}.",
    ]
    return "\n\n".join([*lines, provenance(runs)])


def speed(result: dict[str, Any]) -> str:
    """CPU seconds of the same fits, and their ratio."""
    plan = result["settings"]
    rows = []
    for timed in result["timed"]:
        mlp, swag = timed["seconds"]["mlp"], timed["seconds"]["swag"]
        ratio = spread([ours / theirs for ours, theirs in zip(swag, mlp, strict=True)], 2)
        rows.append([f"{timed['rows']:,}", timed["dtype"], spread(mlp, 3), spread(swag, 3), ratio])
    settings = (
        f"{plan['epochs']} epochs, a hidden layer of {plan['hidden']}, batches of {plan['batch_size']}, "
        f"Adam; mean ± standard deviation of {plan['repeats']} fits, one thread. SWAG's time has the "
        "snapshots in it and the 30 weights drawn at the end."
    )
    head = ["rows", "dtype", "MLPClassifier, CPU s", "SWAGClassifier, CPU s", "ratio"]
    return "\n\n".join([f"### {plan['data']}: the time of a fit", markdown(head, rows), settings])


def shifted(runs: list[dict[str, Any]]) -> str:
    data = runs[0]["settings"]["plan"]["data"]
    near, far = ("red", "white") if data == "wine" else ("near", "far")
    rows = [row for run in runs for row in run["rows"]]
    regressions = []
    for method in wine.REGRESSORS:
        own = [row for row in rows if row["task"] == "regression" and row["method"] == method]
        cells = [NAMES[method]]
        for name, digits, factor in (("nll", 3, 1), ("rmse", 3, 1), ("coverage", 1, 100), ("std", 2, 1)):
            cells += [spread([row[part][name] * factor for row in own], digits) for part in ("near", "far")]
        regressions.append([*cells, spread([row["fit_seconds"] for row in own], 1)])
    head = ["method"]
    for name in ("NLL", "RMSE", "95 % coverage, %", "mean std"):
        head += [f"{name}, {near}", far]
    classes = []
    for method in wine.CLASSIFIERS:
        own = [row for row in rows if row["task"] == "classification" and row["method"] == method]
        cells = [NAMES[method]]
        for name, digits, factor in (("nll", 3, 1), ("accuracy", 1, 100), ("ece", 1, 100), ("entropy", 3, 1)):
            cells += [spread([row[part][name] * factor for row in own], digits) for part in ("near", "far")]
        classes.append(
            [*cells, spread([row["auroc"] for row in own], 2), spread([r["fit_seconds"] for r in own], 1)]
        )
    class_head = ["method"]
    for name in ("NLL", "accuracy, %", "ECE, %", "entropy"):
        class_head += [f"{name}, {near}", far]
    return "\n\n".join(
        [
            f"### {data}: learned on {near}, asked about {far}; regression",
            markdown([*head, "fit, CPU s"], regressions),
            f"### {data}: learned on {near}, asked about {far}; two classes",
            markdown([*class_head, f"AUROC of entropy, {far} against {near}", "fit, CPU s"], classes),
            provenance(runs),
        ]
    )


def with_error(scores: list[dict[str, float]], name: str, digits: int, factor: float = 1) -> str:
    """Mean ± standard deviation over seeds, and in brackets the standard error from the test rows."""
    error = factor * sum(score[f"{name}_error"] for score in scores) / len(scores)
    return f"{spread([factor * score[name] for score in scores], digits)} ({error:.{digits}f})"


def provenance(runs: list[dict[str, Any]]) -> str:
    environment = runs[0]["environment"]
    versions = record.versions(environment)
    seeds = ", ".join(map(str, sorted({run["settings"]["seed"] for run in runs})))
    spreads = f"Mean ± standard deviation over seeds {seeds}" if "," in seeds else f"Seed {seeds}"
    brackets = "; in brackets the standard error from the test rows" if "scores" in runs[0] else ""
    return f"{spreads}{brackets}. {environment['cpu']}, {environment['threads']} thread(s); {versions}."
