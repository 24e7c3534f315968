"""The results as Markdown; intervals are over groups of seeds, which share no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import record
from experiments.record import markdown
from experiments.uncertainty.basins import BASINS
from experiments.uncertainty.basins import table as basins_table
from experiments.uncertainty.made_with import provenance, tuned
from experiments.uncertainty.study import KIND

Found = dict[str, dict[int, dict[str, Any]]]  # method → group → its file's content
# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
PAIRS = (
    ("SWA", "SGD"),
    ("SWAG-diag", "SWA"),
    ("SWAG", "SWA"),
    ("SWAG", "SGD"),
    ("MC dropout", "SGD"),
    ("last-layer Laplace, full", "SGD"),
    ("mean-field VI", "SGD"),
    ("cyclical SG-MCMC", "SGD"),
    ("SWAG", "MC dropout"),
    ("SWAG", "deep ensemble"),
    ("MultiSWA", "deep ensemble"),
    ("MultiSWAG", "deep ensemble"),
    ("MultiSWAG", "MultiSWA"),
)


def tables(out: Path) -> str:
    """All sections for which there are results."""
    contents = read(out)
    if not contents:
        return f"no results in {out}"
    ten, five = (by_method([c for c in contents if c["settings"]["task"] == t]) for t in ("ten", "five"))
    parts = []
    if ten:
        name = next(iter(next(iter(next(iter(ten.values())).values()))["scores"]["ood"]))
        parts += ["### Ten classes", scores(ten), "### Differences", differences(ten)]
        parts += ["### Corrupted images", shifted(ten)]
        parts += [f"### Out of distribution: {name}", foreign(ten, name)]
    if five:
        parts += [
            "### Out of distribution: five classes against the other five",
            foreign(five, "other five classes"),
        ]
    if (out / "basins.json").exists():
        parts += ["### One basin against several", basins_table(record.read(out / "basins.json", BASINS))]
    parts += ["### Settings", tuned(out, contents), provenance(out, contents)]
    return "\n\n".join(part for part in parts if part)


def read(out: Path) -> list[dict[str, Any]]:
    """The methods' files, in the order in which they were scored first."""
    paths = [p for p in sorted(out.glob("*-*.json")) if p.name.startswith(("ten-", "five-"))]
    contents = [record.read(path, KIND) for path in paths]
    return sorted(contents, key=lambda c: (c["settings"]["group"], order(c["settings"]["method"])))


def order(method: str) -> int:
    names = (
        "SGD", "SWA", "SWAG-diag", "SWAG", "MC dropout", "last-layer Laplace, full",
        "last-layer Laplace, KFAC", "last-layer Laplace, diagonal", "mean-field VI", "cyclical SG-MCMC",
        "deep ensemble", "MultiSWA", "MultiSWAG",
    )  # fmt: skip
    return names.index(method)


def by_method(contents: Sequence[dict[str, Any]]) -> Found:
    found: Found = {}
    for content in contents:
        found.setdefault(content["settings"]["method"], {})[content["settings"]["group"]] = content
    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; NaN for one value."""
    mean, spread = record.mean_and_spread(values)
    n = len(values)
    return mean, STUDENT[n - 2] * spread / math.sqrt(n) if n > 1 else math.nan


def cell(values: Sequence[float], digits: int, *, sign: str = "") -> str:
    mean, half = interval(values)
    return f"{mean:{sign}.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def scores(found: Found) -> str:
    """On the test images as they are."""
    head = ["method", "groups", "accuracy, %", "NLL", "ECE, %", "Brier", "temperature"]
    head += ["NLL, scaled", "ECE, %, scaled", "Brier, scaled"]
    lines = []
    for method, groups in found.items():
        tests = [c["scores"]["test"] for c in groups.values()]
        lines.append([method, len(tests)] + [
            cell([factor * t[key] for t in tests], digits)
            for key, factor, digits in (("accuracy", 100, 2), ("nll", 1, 4), ("ece", 100, 2), ("brier", 1, 4))
        ] + [cell([c["scores"]["temperature"] for c in groups.values()], 2)] + [
            cell([factor * t[key] for t in tests], digits)
            for key, factor, digits in (("nll scaled", 1, 4), ("ece scaled", 100, 2), ("brier scaled", 1, 4))
        ])  # fmt: skip
    return markdown(head, lines)


def differences(found: Found) -> str:
    """Group by group, since two methods of one group share networks, or starts and order of batches."""
    columns: tuple[tuple[str, Callable[[dict[str, Any]], float], int], ...] = (
        ("accuracy, %", lambda s: 100 * s["test"]["accuracy"], 2),
        ("NLL", lambda s: s["test"]["nll"], 4),
        ("NLL, scaled", lambda s: s["test"]["nll scaled"], 4),
        ("ECE, %", lambda s: 100 * s["test"]["ece"], 2),
        ("NLL, corrupted", lambda s: corrupted_mean(s, "nll"), 4),
        ("ECE, %, corrupted", lambda s: 100 * corrupted_mean(s, "ece"), 2),
    )
    lines = []
    for mine, theirs in PAIRS:
        shared = sorted(found.get(mine, {}).keys() & found.get(theirs, {}).keys())
        if not shared:
            continue
        line = [f"{mine} − {theirs}"]
        for _, value, digits in columns:
            deltas = [value(found[mine][g]["scores"]) - value(found[theirs][g]["scores"]) for g in shared]
            line.append(
                f"{cell(deltas, digits, sign='+')} ({sum(d < 0 for d in deltas)} of {len(deltas)} lower)"
            )
        lines.append(line)
    return markdown(["difference", *(name for name, *_ in columns)], lines)


def corrupted_mean(scores: dict[str, Any], key: str) -> float:
    """Mean over corruptions and severities."""
    values = [level[key] for levels in scores["shift"].values() for level in levels]
    return sum(values) / len(values)


def kind_mean(scores: dict[str, Any], kind: str) -> float:
    """NLL, mean over the severities of one corruption."""
    levels = scores["shift"][kind]
    return float(sum(level["nll"] for level in levels) / len(levels))


def at_severity(scores: dict[str, Any], severity: int, key: str) -> float:
    """Mean over corruptions; severity 0 is the same images as they are."""
    if severity == 0:
        return float(scores["unshifted"][key])
    values = [levels[severity - 1][key] for levels in scores["shift"].values()]
    return sum(values) / len(values)


def shifted(found: Found) -> str:
    """Means over the five corruptions, by severity, then over all severities by corruption."""
    head = ["method", *(f"NLL, {s}" for s in range(6)), "ECE, %, 0", "ECE, %, 5", "ECE, %, mean"]
    head += ["NLL, mean", "NLL, mean, scaled", "accuracy, %, mean"]
    lines = []
    for method, groups in found.items():
        runs = [c["scores"] for c in groups.values()]
        line: list[str] = [method]
        line += [f"{interval([at_severity(s, k, 'nll') for s in runs])[0]:.3f}" for k in range(6)]
        line += [f"{interval([100 * at_severity(s, k, 'ece') for s in runs])[0]:.1f}" for k in (0, 5)]
        line += [cell([100 * corrupted_mean(s, "ece") for s in runs], 2)]
        line += [cell([corrupted_mean(s, key) for s in runs], 3) for key in ("nll", "nll scaled")]
        line += [cell([100 * corrupted_mean(s, "accuracy") for s in runs], 2)]
        lines.append(line)
    kinds = list(runs[0]["shift"])
    by_kind = [
        [
            method,
            *(
                f"{interval([kind_mean(c['scores'], kind) for c in groups.values()])[0]:.3f}"
                for kind in kinds
            ),
        ]
        for method, groups in found.items()
    ]
    second = markdown(["method", *(f"NLL, {kind}" for kind in kinds)], by_kind)
    return f"{markdown(head, lines)}\n\n{second}"


def foreign(found: Found, name: str) -> str:
    head = [
        "method",
        "AUROC, entropy",
        "AUROC, max. probability",
        "AUROC, mutual information",
        "AUPR",
        "FPR at 95 % TPR",
    ]
    head += ["symmetrised KL", "mean entropy, in / out", "test NLL"]
    lines = []
    for method, groups in found.items():
        runs = [c["scores"]["ood"][name] for c in groups.values()]
        line = [method]
        for key in (
            "auroc entropy",
            "auroc max probability",
            "auroc mutual information",
            "aupr entropy",
            "fpr entropy",
        ):
            line.append(cell([run[key] for run in runs], 3) if key in runs[0] else "")
        line.append(cell([run["symmetrised kl"] for run in runs], 2))
        line.append(
            " / ".join(f"{interval([run['mean entropy'][i] for run in runs])[0]:.2f}" for i in (0, 1))
        )
        line.append(cell([c["scores"]["test"]["nll"] for c in groups.values()], 4))
        lines.append(line)
    return markdown(head, lines)
