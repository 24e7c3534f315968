"""Learned on red wine, asked about white: what happens to likelihood, coverage and entropy."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import record
from experiments.tabular.scores import classification, gaussian, regression
from experiments.tabular.sets import Shift
from swag.integrations.sklearn import MultiSWAGClassifier, MultiSWAGRegressor, SWAGClassifier, SWAGRegressor
from swag.metrics import auroc

KIND = "tabular-wine"
REGRESSORS = ("ridge", "gp", "swa", "swag", "multiswag")
CLASSIFIERS = ("logistic", "boosting", "mlp", "swa", "swag", "multiswag")


@dataclass(frozen=True)
class Plan:
    """What all networks share."""

    data: str = "wine"
    hidden: int = 50
    epochs: int = 100
    batch_size: int = 64
    members: int = 5
    test_part: float = 0.2


QUICK = Plan(data="diabetes", hidden=16, epochs=10, members=2)


def regressor(method: str, plan: Plan, seed: int) -> Any:
    if method == "ridge":
        return make_pipeline(StandardScaler(), BayesianRidge())
    if method == "gp":
        kernel = ConstantKernel() * RBF(length_scale=3.0) + WhiteKernel(0.5)
        return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True))
    return _ours(method, SWAGRegressor, MultiSWAGRegressor, plan, seed)


def classifier(method: str, plan: Plan, seed: int) -> Any:
    if method == "logistic":
        return make_pipeline(StandardScaler(), LogisticRegression())
    if method == "boosting":
        return HistGradientBoostingClassifier(early_stopping=True, random_state=seed)
    if method == "mlp":
        mlp = MLPClassifier(
            (plan.hidden,),
            max_iter=plan.epochs,
            batch_size=plan.batch_size,
            early_stopping=True,
            random_state=seed,
        )
        return make_pipeline(StandardScaler(), mlp)
    return _ours(method, SWAGClassifier, MultiSWAGClassifier, plan, seed)


def run(seed: int, shift: Shift, plan: Plan, out: Path) -> None:
    """All methods on one random split of the near rows."""
    path = out / f"wine-{seed}.json"
    settings = {"seed": seed, "plan": asdict(plan)}
    if record.done(path, KIND, settings):
        return
    train, near = train_test_split(shift.near, test_size=plan.test_part, random_state=seed)
    rows: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bounds of the Gaussian process' kernel, epochs of the perceptron
        for method in REGRESSORS:
            began = time.process_time()
            model = regressor(method, plan, seed).fit(train[:, :-1], train[:, -1])
            row: dict[str, Any] = {"task": "regression", "method": method}
            row |= {"fit_seconds": time.process_time() - began}
            for name, part in (("near", near), ("far", shift.far)):
                row[name] = _regressed(model, part[:, :-1], part[:, -1])
            rows.append(row)
            print(f"wine {seed} {method}: NLL {row['near']['nll']:.3f}, {row['far']['nll']:.3f}", flush=True)
        for method in CLASSIFIERS:
            began = time.process_time()
            model = classifier(method, plan, seed).fit(train[:, :-1], _high(train, shift))
            row = {"task": "classification", "method": method, "fit_seconds": time.process_time() - began}
            entropies = []
            for name, part in (("near", near), ("far", shift.far)):
                probs = model.predict_proba(part[:, :-1]).astype(float)
                row[name] = classification(probs, _high(part, shift))
                entropies.append(-(probs * np.log(np.maximum(probs, 1e-300))).sum(1))
            row["auroc"] = float(auroc(*entropies))
            rows.append(row)
            print(f"wine {seed} {method}: NLL {row['near']['nll']:.3f}, {row['far']['nll']:.3f}", flush=True)
    record.write(path, KIND, {"settings": settings, "rows": rows})


def _regressed(model: Any, X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    mean, std = model.predict(X, return_std=True)
    if not hasattr(model, "predictive"):
        return regression(gaussian(mean, std, y), mean, std, y)
    found = model.predictive(X)
    parts = {"aleatoric": found.aleatoric, "epistemic": found.epistemic}
    scores = regression(found.log_prob(torch.from_numpy(y)).numpy(), mean, std, y)
    return scores | {f"{name}_std": float(part.sqrt().mean()) for name, part in parts.items()}


def _high(rows: np.ndarray, shift: Shift) -> np.ndarray:
    return (rows[:, -1] >= shift.threshold).astype(np.int64)


def _ours(method: str, one: type, several: type, plan: Plan, seed: int) -> Any:
    settings: dict[str, Any] = {
        "hidden_layer_sizes": (plan.hidden,),
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "lr": 3e-3,
        "early_stopping": True,
        "random_state": seed,
    }
    if method == "multiswag":
        return several(n_members=plan.members, scale="auto", **settings)
    return one(scale=0 if method == "swa" else "auto", **settings)
