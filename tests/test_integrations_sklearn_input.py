"""What the scikit-learn estimators refuse, in which words, and that nothing fitted is lost by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from torch import nn

from swag.errors import InputError, StateError
from swag.integrations.sklearn import MultiSWAGClassifier, SWAGClassifier, SWAGRegressor
from swag.training import DivergedError

X, Y = load_iris(return_X_y=True)
FEW: dict[str, Any] = {"epochs": 6, "n_samples": 4, "hidden_layer_sizes": (4,), "random_state": 0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_samples": 0}, "n_samples: got 0; pass a whole number, 1 or more"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"epochs": 2.5}, "epochs: got 2.5"),
        ({"epochs": 1}, "epochs: 1 with swa_start=0.5 leave 1 for averaging"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"lr": 0.0}, "lr: got 0.0; pass a number > 0"),
        ({"lr": "fast"}, "lr: got 'fast'; pass a finite number"),
        ({"lr": float("nan")}, "lr: got nan"),
        ({"weight_decay": -1}, "weight_decay: got -1; pass a number ≥ 0"),
        ({"swa_start": 1.0}, "swa_start: got 1.0; pass a fraction"),
        ({"swa_lr": -0.1}, "swa_lr: got -0.1"),
        ({"rank": -1}, "rank: got -1"),
        ({"rank": 1}, "rank: one deviation has no covariance; pass 2 or more"),
        ({"scale": -1}, "scale: got -1; it multiplies the covariance"),
        ({"scale": "best"}, "scale: got 'best'"),
        ({"validation_fraction": 1.0}, "validation_fraction: got 1.0"),
        ({"n_iter_no_change": 0}, "n_iter_no_change: got 0"),
        ({"early_stopping": "yes"}, "early_stopping: got 'yes'; pass True or False"),
        ({"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes: got \(8, 0\)"),
        ({"hidden_layer_sizes": "8"}, "hidden_layer_sizes: got '8'"),
        ({"dtype": "float16"}, "dtype: got 'float16'; pass 'float32', 'float64'"),
        ({"device": "abacus"}, "device: 'abacus' cannot be used here"),
        ({"optimizer": "adam"}, "optimizer: got 'adam'; pass None for Adam"),
        ({"optimizer": torch.optim.LBFGS}, r"optimizer: calling it with \(parameters, lr=.* failed"),
        ({"module": "mlp"}, "module: got 'mlp'; pass a torch.nn.Module"),
        ({"module": nn.Linear(4, 2)}, r"module: gave \(3, 2\) for a batch of 3 rows, expected \(3, 3\)"),
        ({"module": nn.Linear(5, 3)}, "module: cannot take 4 features"),
        ({"module": lambda n: nn.Linear(n, 3)}, "module: calling it with .* failed"),
        ({"module": lambda n, m: None}, "module: returned a NoneType"),
        ({"module": lambda n, m: nn.Linear(n, m).requires_grad_(False)}, "module: has no parameter that"),
    ],
)
def test_parameters(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SWAGClassifier(**FEW | settings).fit(X, Y)


def test_two_snapshots_are_just_enough() -> None:
    assert SWAGClassifier(**FEW | {"epochs": 3}).fit(X, Y).n_collected_ == 2


def test_parameters_of_several_members() -> None:
    with pytest.raises(InputError, match="n_samples: got 4 for 5 members; pass at least one a member"):
        MultiSWAGClassifier(**FEW).fit(X, Y)
    with pytest.raises(InputError, match="n_members: got 0"):
        MultiSWAGClassifier(0, **FEW).fit(X, Y)
    with pytest.raises(InputError, match="n_jobs: got 0"):
        MultiSWAGClassifier(2, n_jobs=0, **FEW).fit(X, Y)
    with pytest.raises(InputError, match="module: got an instance, from whose weights every member"):
        MultiSWAGClassifier(2, module=nn.Linear(4, 3), **FEW).fit(X, Y)


def test_an_optimizer_that_belongs_to_another_network() -> None:
    used = torch.optim.SGD(nn.Linear(4, 3).parameters(), lr=0.1)
    with pytest.raises(InputError, match="optimizer: got an instance, which belongs to one network"):
        SWAGClassifier(optimizer=used, **FEW).fit(X, Y)


def test_tables() -> None:
    model = SWAGClassifier(**FEW)
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.where(X > 7, np.nan, X), Y)
    with pytest.raises(InputError, match=r"y: has one class, 0.0; a classifier needs rows of two classes"):
        model.fit(X, np.zeros(150))
    with pytest.raises(ValueError, match=r"every row weighs 0|at least one non-zero"):
        model.fit(X, Y, sample_weight=np.zeros(150))
    with pytest.raises(ValueError, match="Unknown label type"):
        model.fit(X, X[:, 0])
    with pytest.raises(ValueError, match="1d array"):
        SWAGRegressor(**FEW).fit(X, X[:, :2])
    with pytest.raises(InputError, match="noise_floor: got 0"):
        SWAGRegressor(noise_floor=0, **FEW).fit(X, X[:, 0])
    with pytest.raises(InputError, match="n_samples: got 0"):
        SWAGRegressor(**FEW).fit(X, X[:, 0]).sample_y(X, 0)


@pytest.mark.parametrize("n", [3, 6, 129])
def test_few_rows_are_enough(n: int) -> None:
    chosen = np.arange(0, 150, 150 // n)[:n]
    model = SWAGClassifier(**FEW).fit(X[chosen], Y[chosen])
    assert np.isfinite(model.predict_proba(X)).all()
    assert np.isfinite(SWAGRegressor(**FEW).fit(X[:1], X[:1, 0]).predict(X)).all()


def test_what_was_fitted_survives_a_failure() -> None:
    model = SWAGClassifier(**FEW).fit(X, Y)
    before = model.predict_proba(X)
    model.set_params(lr=1e30, optimizer=torch.optim.SGD)
    with pytest.raises(DivergedError, match=r"fit: the loss is .* in epoch .*; pass a smaller lr"):
        model.fit(X, Y)
    assert (model.predict_proba(X) == before).all()
    model.set_params(module=nn.Linear(4, 9))
    with pytest.raises(InputError, match="module: cannot take 3 features"):
        model.fit(X[:, :3], Y)
    assert model.n_features_in_ == 4 and model.classes_.tolist() == [0, 1, 2]
    assert (model.predict_proba(X) == before).all()


def test_partial_fit() -> None:
    model = SWAGClassifier(**FEW)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, Y)
    with pytest.raises(InputError, match="y: has the class 2, which is not among the 2 named"):
        model.partial_fit(X, Y, classes=[0, 1])
    assert not hasattr(model, "classes_")
    with pytest.raises(InputError, match=r"classes: got .* pass all the classes, two or more"):
        model.partial_fit(X[:50], Y[:50], classes=[0])
    model.partial_fit(X, Y, classes=[0, 1, 2])
    before = model.predict_proba(X)
    with pytest.raises(InputError, match="y: has the class 3"):
        model.partial_fit(X, Y + 3)
    with pytest.raises(ValueError, match="is not the same as on last call"):
        model.partial_fit(X, Y, classes=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :3], Y)
    assert (model.predict_proba(X) == before).all() and model.n_iter_ == 1
    with pytest.raises(InputError, match="scale: 'auto' is tuned on held-out rows"):
        SWAGClassifier(**FEW | {"scale": "auto"}).partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(InputError, match="early_stopping: partial_fit holds no rows out"):
        SWAGClassifier(early_stopping=True, **FEW).partial_fit(X, Y, classes=[0, 1, 2])
    tuned = SWAGClassifier(**FEW | {"scale": "auto"}).fit(X, Y)
    assert tuned.partial_fit(X, Y).n_iter_ == 7
    several = MultiSWAGClassifier(2, **FEW).fit(X, Y).set_params(n_members=3)
    with pytest.raises(StateError, match="n_members: is 3 now, and 2 were begun"):
        several.partial_fit(X, Y)


def test_a_partial_fit_that_diverges_changes_nothing() -> None:
    model = SWAGRegressor(**FEW).fit(X[:, 1:], X[:, 0])
    before, epoch = model.predict(X[:, 1:]), model.n_iter_
    with pytest.raises(DivergedError):
        model.partial_fit(1e200 * X[:, 1:], X[:, 0])
    assert (model.predict(X[:, 1:]) == before).all()
    model.partial_fit(X[:, 1:], X[:, 0])
    assert model.n_iter_ == epoch + 1 and np.isfinite(model.predict(X[:, 1:])).all()
