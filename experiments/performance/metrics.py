"""Scoring classifiers: ECE + NLL + Brier + accuracy in one pass, against one read of the probabilities.

    python -m experiments.performance --only metrics

Every figure of ours includes the checks: rows that sum to 1, signs, NaN, labels in range, ties. In each row
one class stands out by 0 to 20 nats from others that vary by 2, and labels are drawn from the probabilities,
so about 70 % are right. Peaks are measured in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from swag import metrics

from .memory import _CLEAR, _MALLOC, _STATUS, _Meter
from .results import Goal, Results, Settings, Table
from .timing import interleaved

READ, ALL, ECE = "one read (sum)", "swag, ECE + NLL + Brier + accuracy", "swag, ECE"
TORCHMETRICS, NETCAL = "torchmetrics, ECE", "netcal, ECE"
SIZES = {"full": [(1_000_000, 100), (50_000, 1_000)], "quick": [(100_000, 100), (10_000, 1_000)]}
_ROOT = Path(__file__).resolve().parents[2]


def run(settings: Settings) -> Results:
    """Times and memory of every size."""
    results = Results("metrics", settings)
    sizes = [(2_000, 100)] if settings.smoke else SIZES["quick" if settings.quick else "full"]
    columns = {f"{n:,} × {c:,}": (n, c) for n, c in sizes}
    table = Table(
        "Scores of N × C float32 probabilities, 15 bins",
        list(columns),
        limit=READ,
        note="In brackets: times one read. Ours include all checks of the input.",
    )
    skipped: list[str] = []
    for column, (n, n_classes) in columns.items():
        probs, labels = data(n, n_classes, settings.seed)
        calls = dict(scorers(probs, labels, skipped))
        roles = {READ: "limit", TORCHMETRICS: "peer", NETCAL: "peer"}
        for name, timing in interleaved(calls, repeats=settings.repeats, seconds=60).items():
            table.add(name, roles.get(name, "ours"), column, timing)
    results.tables = [table, _memory(columns, settings, skipped)]
    results.skipped = sorted(set(skipped))
    for column in columns:
        against = table.ratio(TORCHMETRICS, ALL, column)
        results.goals += [
            Goal.below(
                "metrics", f"all four scores against one read, {column}", table.ratio(ALL, READ, column), 2.5
            ),
            Goal.below("metrics-ece", f"ECE against one read, {column}", table.ratio(ECE, READ, column), 2),
            Goal.above("metrics-peer", f"torchmetrics' ECE against our four, {column}", against, 6),
        ]
    return results


def data(n: int, n_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 probabilities (N, C) and labels (N,) drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    probs, labels = torch.randn(n, n_classes, generator=generator), []
    for rows in probs.split(10_000):
        chosen = torch.randint(n_classes, (len(rows), 1), generator=generator)
        rows.mul_(2).scatter_add_(1, chosen, 20 * torch.rand(len(rows), 1, generator=generator))
        rows.copy_(rows.softmax(1))
        labels.append(torch.multinomial(rows, 1, generator=generator).squeeze(1))
    return probs, torch.cat(labels)


def scorers(
    probs: torch.Tensor, labels: torch.Tensor, skipped: list[str]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is timed, by name; peers that are not there are named in `skipped`."""
    yield READ, probs.sum
    yield ALL, lambda: metrics.classification_scores(probs, labels)
    yield ECE, lambda: metrics.ece(probs, labels)
    yield "swag, NLL", lambda: metrics.nll(probs, labels)
    try:
        from torchmetrics.functional.classification import multiclass_calibration_error
    except ImportError as error:
        skipped.append(f"torchmetrics: {error}")
    else:
        n_classes = probs.shape[1]
        yield (
            TORCHMETRICS,
            lambda: multiclass_calibration_error(probs, labels, num_classes=n_classes, n_bins=15),
        )
    try:
        from netcal.metrics import ECE as NetcalECE
    except ImportError as error:
        skipped.append(f"netcal: {error}")
    else:
        arrays = probs.numpy(), labels.numpy()
        yield NETCAL, lambda: NetcalECE(15).measure(*arrays)


def _memory(columns: dict[str, tuple[int, int]], settings: Settings, skipped: list[str]) -> Table:
    table = Table(
        "Peak memory of scoring, MiB above the probabilities and labels",
        list(columns),
        unit="",
        limit="the probabilities themselves",
    )
    if not (_STATUS.exists() and os.access(_CLEAR, os.W_OK)):
        skipped.append("memory of scoring: needs Linux's /proc/self/clear_refs")
        return table
    for column, (n, n_classes) in columns.items():
        table.add("the probabilities themselves", "limit", column, n * n_classes * 4 / 2**20)
        for name in (ALL, TORCHMETRICS, NETCAL):
            peak = _peak_in_a_child(name, n, n_classes, settings.seed)
            if peak is not None:
                table.add(name, "ours" if name == ALL else "peer", column, peak / 2**20)
    return table


def _peak_in_a_child(name: str, n: int, n_classes: int, seed: int) -> int | None:
    command = [
        sys.executable,
        "-m",
        "experiments.performance.metrics",
        name,
        str(n),
        str(n_classes),
        str(seed),
    ]
    environment = {**os.environ, **_MALLOC, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def _peak(name: str, n: int, n_classes: int, seed: int) -> int | None:
    warm = dict(scorers(*data(1_000, n_classes, seed), []))
    if name not in warm:
        return None
    warm[name]()  # loads code
    call = dict(scorers(*data(n, n_classes, seed), []))[name]
    meter = _Meter()
    call()
    return meter.read()["peak"]


if __name__ == "__main__":
    print(json.dumps({"peak": _peak(sys.argv[1], *map(int, sys.argv[2:]))}))
