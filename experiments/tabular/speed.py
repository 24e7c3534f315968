"""What a fit costs beside scikit-learn's MLPClassifier: the same network, rows, batches, epochs, and Adam."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier

from experiments import record
from experiments.tabular.adult import columns
from experiments.tabular.sets import Table
from swag.integrations.sklearn import SWAGClassifier

KIND = "tabular-speed"


@dataclass(frozen=True)
class Plan:
    """What is timed: the first `rows` of the table for each of these, `repeats` times in turn."""

    data: str = "adult"
    rows: tuple[int, ...] = (500, 5_000, 30_000)
    epochs: int = 10
    hidden: int = 100
    batch_size: int = 200
    repeats: int = 3


QUICK = Plan(data="breast_cancer", rows=(200, 400), epochs=4, hidden=16, repeats=2)


def run(table: Table, plan: Plan, out: Path) -> None:
    """CPU seconds of fits, one after the other in turn, so that a busy machine is unjust to neither."""
    path = out / "speed.json"
    if record.done(path, KIND, asdict(plan)):
        return
    whole = columns(table).fit_transform(table.train)
    rows = []
    for n in plan.rows:
        for dtype in ("float32", "float64"):
            X, y = whole[:n].astype(dtype), table.train_labels[:n]
            shape = {"hidden_layer_sizes": (plan.hidden,), "batch_size": plan.batch_size, "random_state": 0}
            makers = {
                "mlp": lambda shape=shape: MLPClassifier(
                    max_iter=plan.epochs, tol=0, n_iter_no_change=plan.epochs + 1, **shape
                ),
                "swag": lambda shape=shape: SWAGClassifier(epochs=plan.epochs, standardize=False, **shape),
            }
            seconds: dict[str, list[float]] = {name: [] for name in makers}
            for _ in range(plan.repeats + 1):
                for name, make in makers.items():
                    seconds[name].append(_seconds(make(), X, y))
            # The first of each was to warm up.
            rows.append({"rows": n, "dtype": dtype, "seconds": {k: v[1:] for k, v in seconds.items()}})
    record.write(path, KIND, {"settings": asdict(plan), "timed": rows})
    print(f"speed: {len(rows)} settings timed", flush=True)


def _seconds(model: MLPClassifier | SWAGClassifier, X: np.ndarray, y: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.process_time()
        model.fit(X, y)
        return time.process_time() - began
