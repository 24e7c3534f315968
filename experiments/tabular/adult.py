"""Income: classifiers in pipelines, each with a small grid search, then from seeds. Times: CPU seconds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from experiments import record
from experiments.tabular.scores import classification
from experiments.tabular.sets import Table
from swag.integrations.sklearn import MultiSWAGClassifier, SWAGClassifier

KIND = "tabular-adult"
METHODS = ("logistic", "boosting", "mlp", "swa", "swag", "multiswag")


@dataclass(frozen=True)
class Plan:
    """What all networks share, and how they are searched for."""

    data: str = "adult"
    hidden: int = 100
    epochs: int = 30
    batch_size: int = 256
    members: int = 5
    folds: int = 3


QUICK = Plan(data="breast_cancer", hidden=16, epochs=8, batch_size=64, members=2, folds=2)


def columns(table: Table) -> ColumnTransformer:
    """Categories one-hot (those of fewer than 20 rows together), numbers standardised, all float32."""
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=20, sparse_output=False, dtype=np.float32
    )
    return ColumnTransformer(
        [("category", one_hot, table.categories), ("number", StandardScaler(), table.numbers)]
    )


def numbered(table: Table) -> ColumnTransformer:
    """For trees: categories as numbers that are not compared, which stand first."""
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return ColumnTransformer(
        [("category", ordinal, table.categories), ("number", "passthrough", table.numbers)]
    )


def pipeline(method: str, table: Table, plan: Plan, seed: int) -> tuple[Pipeline, dict[str, list[Any]]]:
    """The method's pipeline and the grid of its search."""
    if method == "boosting":
        trees = HistGradientBoostingClassifier(
            categorical_features=list(range(len(table.categories))), random_state=seed
        )
        return _named(numbered(table), trees), {"learning_rate": [0.05, 0.1], "max_leaf_nodes": [15, 31]}
    shape: dict[str, Any] = {
        "hidden_layer_sizes": (plan.hidden,),
        "batch_size": plan.batch_size,
        "random_state": seed,
    }
    ours: dict[str, Any] = shape | {
        "epochs": plan.epochs,
        "standardize": False,
        "dtype": "float32",
        "lr": 3e-3,
    }
    grid = {"weight_decay": [1e-4, 1e-3], "early_stopping": [False, True]}
    makers: dict[str, Callable[[], tuple[Any, dict[str, list[Any]]]]] = {
        "logistic": lambda: (LogisticRegression(max_iter=1000), {"C": [0.01, 0.1, 1.0, 10.0]}),
        "mlp": lambda: (
            MLPClassifier(max_iter=plan.epochs, **shape),
            {"alpha": [1e-4, 1e-1], "early_stopping": [False, True]},
        ),
        "swa": lambda: (SWAGClassifier(scale=0, **ours), grid),
        "swag": lambda: (SWAGClassifier(scale="auto", **ours), grid),
        "multiswag": lambda: (MultiSWAGClassifier(n_members=plan.members, scale="auto", **ours), grid),
    }
    return _named(columns(table), makers[method]()[0]), makers[method]()[1]


def search(table: Table, plan: Plan, out: Path) -> dict[str, dict[str, Any]]:
    """The best settings of every method by cross-validated NLL, from seed 0; MultiSWAG takes SWAG's."""
    path = out / "adult-search.json"
    found = record.read(path, KIND)["found"] if record.done(path, KIND, asdict(plan)) else {}
    for method in METHODS:
        if method in found or method == "multiswag":
            continue
        model, grid = pipeline(method, table, plan, 0)
        searched = GridSearchCV(
            model,
            {f"model__{name}": values for name, values in grid.items()},
            scoring="neg_log_loss",
            cv=plan.folds,
            refit=False,
        )
        began = time.process_time()
        with warnings.catch_warnings():  # the perceptron's, that it was stopped after so many epochs
            warnings.simplefilter("ignore")
            searched.fit(table.train, table.train_labels)
        found[method] = {
            "best": {k.removeprefix("model__"): v for k, v in searched.best_params_.items()},
            "nll": float(-searched.best_score_),
            "candidates": len(searched.cv_results_["params"]),
            "seconds": time.process_time() - began,
        }
        record.write(path, KIND, {"settings": asdict(plan), "found": found})
        print(f"adult {method}: searched in {found[method]['seconds']:.0f} s", flush=True)
    return found | {"multiswag": found["swag"]}


def run(method: str, seed: int, table: Table, plan: Plan, best: dict[str, Any], out: Path) -> None:
    """One method from one seed: fitted on all training rows, scored on the test rows."""
    path = out / f"adult-{method}-{seed}.json"
    settings = {"method": method, "seed": seed, "plan": asdict(plan), "best": best}
    if record.done(path, KIND, settings):
        return
    model, _ = pipeline(method, table, plan, seed)
    model.set_params(**{f"model__{name}": value for name, value in best.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.process_time()
        model.fit(table.train, table.train_labels)
        fitted = time.process_time()
    probs = model.predict_proba(table.test)
    found = classification(probs, table.test_labels)
    found |= {"fit_seconds": fitted - began, "predict_seconds": time.process_time() - fitted}
    last = model[-1]
    found |= {"epochs": int(last.n_iter_)} if method in ("mlp", "swa", "swag", "multiswag") else {}
    found |= {"scale": float(last.scale_)} if hasattr(last, "scale_") else {}
    record.write(path, KIND, {"settings": settings, "scores": found})
    print(f"adult {method} seed {seed}: NLL {found['nll']:.4f}, {fitted - began:.1f} s", flush=True)


def _named(transform: ColumnTransformer, model: Any) -> Pipeline:
    return Pipeline([("columns", transform), ("model", model)])
