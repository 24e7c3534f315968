"""Results files as Markdown: a table a set beside the published figures, and comparisons split by split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import record
from experiments.uci import published
from experiments.uci.methods import METHODS
from experiments.uci.scores import paired

COLUMNS = ("log_likelihood", "log_likelihood_gaussian", "rmse", "coverage95", "crps")
HEADERS = ("log-likelihood ↑", "… of the matched Gaussian ↑", "RMSE ↓", "95 % coverage", "CRPS ↓")
# Pairs whose difference is the question.
STEPS = (
    ("SGD", "SWAG"),
    ("SGD", "PCA+ESS"),
    ("SWA", "SWAG"),
    ("SGD", "DeepEnsemble"),
    ("DeepEnsemble", "MultiSWAG"),
)

Scores = dict[str, dict[int, dict[str, float]]]


def tables(paths: Sequence[Path], kind: str, root: Path | None) -> str:
    """Everything the README shows of these files; MC dropout's figures are read below `root`."""
    return "\n\n".join(_one(record.read(path, kind), root) for path in paths)


def by_method(rows: Sequence[dict[str, Any]]) -> Scores:
    """scores[method][split], methods in the order of the tables."""
    found: Scores = {method: {} for method in METHODS}
    for row in rows:
        found.setdefault(row["method"], {})[row["split"]] = row
    return {method: dict(sorted(splits.items())) for method, splits in found.items() if splits}


def _one(content: dict[str, Any], root: Path | None) -> str:
    name, scores = content["set"], by_method(content["rows"])
    parts = [f"### {name}", _figures(name, scores, root)]
    steps = _steps(name, scores, root)
    if steps:
        parts.append(steps)
    parts.append(_facts(content, scores))
    return "\n\n".join(parts)


def _figures(name: str, scores: Scores, root: Path | None) -> str:
    rows: list[list[str]] = []
    for method, splits in scores.items():
        rows.append([method, *(spread([row[c] for row in splits.values()]) for c in COLUMNS)])
    for method, figure in published.SUBSPACE.get(name, {}).items():
        rows.append([f"*{method}, published*", "", *_printed(figure), ""])
    if name in published.ENSEMBLES:
        rows.append(["*deep ensemble (5), published*", "", *_printed(published.ENSEMBLES[name]), ""])
    dropout = published.mc_dropout(root, name)
    if dropout:
        rows.append(
            ["*MC dropout, published*", spread(dropout.log_likelihood), "", spread(dropout.rmse), "", ""]
        )
    return record.markdown(["method", *HEADERS], rows)


def _printed(figure: published.Published) -> list[str]:
    def cell(value: tuple[float, float | None]) -> str:
        mean, sd = value
        return f"{mean:.2f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"

    return [
        minus(cell(figure.log_likelihood)),
        minus(cell(figure.rmse)),
        "" if figure.coverage is None else f"{figure.coverage:.3f}",
    ]


def _steps(name: str, scores: Scores, root: Path | None) -> str:
    rows = []
    for before, after in STEPS:
        if before in scores and after in scores:
            rows.append(
                [f"{before} → {after}", *_difference(_column(scores[before]), _column(scores[after]))]
            )
    dropout = published.mc_dropout(root, name)
    if dropout:
        theirs = dict(enumerate(dropout.log_likelihood))
        for method in ("SWAG", "PCA+ESS", "MultiSWAG", "DeepEnsemble"):
            if method in scores:
                rows.append(
                    [f"*MC dropout, published* → {method}", *_difference(theirs, _column(scores[method]))]
                )
    rows = [row for row in rows if row[1]]
    headers = [
        "log-likelihood, split by split",
        "mean difference ± standard error",
        "splits where it is higher",
    ]
    return record.markdown(headers, rows) if rows else ""


def _column(splits: dict[int, dict[str, float]]) -> dict[int, float]:
    return {number: row["log_likelihood"] for number, row in splits.items()}


def _difference(before: dict[int, float], after: dict[int, float]) -> list[str]:
    common = sorted(set(before) & set(after))
    if len(common) < 2:
        return ["", ""]
    mean, error, higher, equal = paired([after[number] - before[number] for number in common])
    among = f"{higher} of {len(common)}" + (f", {equal} equal" if equal else "")
    return [minus(f"{mean:+.3f} ± {error:.3f}"), among]


def _facts(content: dict[str, Any], scores: Scores) -> str:
    recipe, environment = content["settings"]["recipe"], content["environment"]
    plan = recipe["plan"]
    counts = sorted({len(splits) for splits in scores.values()})
    versions = environment["versions"]
    return (
        f"{' or '.join(map(str, counts))} of {content['n_splits']} splits; {plan['epochs']} epochs in "
        f"batches of {plan['batch']}, snapshots from epoch {plan['collect_from']} every "
        f"{plan['collect_every']}; "
        f"{len(recipe['rates']) * len(recipe['weight_decays'])} pairs of rate and weight decay on "
        f"{recipe['folds']} × {recipe['validation']:.0%} of the training rows. {content['seconds']:.0f} s, "
        f"of which {content['cpu_seconds']:.0f} CPU s, {environment['threads']} thread(s) of "
        f"{environment['cores']} cores; {environment['cpu']}; torch {versions['torch']}."
    )


def spread(values: Sequence[float]) -> str:
    """mean ± sample standard deviation."""
    return minus(record.spread(values, 3))


def minus(text: str) -> str:
    return text.replace("-", "−")
