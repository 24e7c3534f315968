"""The scikit-learn estimators: what they compute, their randomness, their files, living with others."""

from __future__ import annotations

import copy
import io
import pickle
import random
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor, nn

import swag
from swag.integrations.sklearn import MultiSWAGClassifier, MultiSWAGRegressor, SWAGClassifier, SWAGRegressor
from swag.integrations.sklearn.rows import Rows, Standard, held_out, parts
from tests.checks import assert_close, assert_means

IRIS = load_iris(return_X_y=True)
FEW: dict[str, Any] = {
    "epochs": 8,
    "n_samples": 6,
    "hidden_layer_sizes": (8,),
    "lr": 0.04,
    "random_state": 0,
}


def wave(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """y = sin 3x + noise, in units far from one."""
    numbers = np.random.default_rng(seed)
    x = numbers.uniform(-1, 1, (n, 2))
    return x, 500 + 40 * (np.sin(3 * x[:, 0]) + 0.2 * numbers.normal(size=n))


class Dropping(nn.Module):
    """A network with batch norm and dropout, whose width is asked for."""

    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, n_outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def linear(n_features: int, n_outputs: int) -> nn.Module:
    return nn.Linear(n_features, n_outputs)


def by_hand(model: Any, X: np.ndarray) -> np.ndarray:
    """Outputs (S, N, C) of the members of a perceptron with one hidden layer, in plain NumPy."""
    z = (X - X.mean(0)) / X.std(0)
    found = []
    for theta in model.ensemble_.thetas.numpy():
        tensors = model.ensemble_.layout.unflatten(torch.from_numpy(theta))
        w1, b1, w2, b2 = (tensors[name].numpy() for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        found.append(np.maximum(z @ w1.T + b1, 0) @ w2.T + b2)
    return np.stack(found)


def test_probabilities_are_the_average_over_the_members() -> None:
    X, y = IRIS
    model = SWAGClassifier(**FEW).fit(X, y)
    logits = by_hand(model, X)
    probs = np.exp(logits - logits.max(2, keepdims=True))
    probs /= probs.sum(2, keepdims=True)
    assert len(logits) == 6
    assert_close(model.predict_proba(X), probs.mean(0), rtol=1e-10, scale=1.0)
    assert_close(model.predict_log_proba(X), np.log(probs.mean(0)), rtol=1e-8, scale=1.0)
    assert (model.predict(X) == probs.mean(0).argmax(1)).all()
    assert model.score(X, y) > 0.8


def test_mean_and_std_follow_the_law_of_total_variance_in_ys_unit() -> None:
    X, y = wave()
    model = SWAGRegressor(**FEW).fit(X, y)
    outputs = by_hand(model, X)
    means = outputs[:, :, 0] * y.std() + y.mean()
    variances = (np.log1p(np.exp(outputs[:, :, 1])) + 0.01**2) * y.var()
    mean, std = model.predict(X, return_std=True)
    assert_close(mean, means.mean(0), rtol=1e-10)
    assert_close(std, np.sqrt(variances.mean(0) + means.var(0)), rtol=1e-10)
    assert_close(model.predict(X), mean, rtol=0)
    found = model.predictive(X)
    assert_close(found.aleatoric, variances.mean(0), rtol=1e-10)
    assert_close(found.epistemic, means.var(0), rtol=1e-6)


def test_units_of_y_and_of_features_do_not_matter() -> None:
    X, y = wave()
    mean, std = SWAGRegressor(**FEW).fit(X, y).predict(X, return_std=True)
    other = SWAGRegressor(**FEW).fit(8 * X - 2, 4 * y + 16)
    other_mean, other_std = other.predict(8 * X - 2, return_std=True)
    assert_close(other_mean, 4 * mean + 16, rtol=1e-9)
    assert_close(other_std, 4 * std, rtol=1e-7)
    raw = SWAGRegressor(standardize=False, **FEW).fit(X, y)
    assert np.abs(raw.predict(X) - mean).mean() > y.std()


@pytest.mark.parametrize("names", [("no", "yes"), ("setosa", "versicolor", "virginica")])
def test_labels_of_any_kind(names: tuple[str, ...]) -> None:
    X, codes = IRIS
    X, codes = X[codes < len(names)], codes[codes < len(names)]
    y = np.array(names)[::-1][codes]  # not in the order of the alphabet
    model = SWAGClassifier(**FEW).fit(X, y)
    assert model.classes_.tolist() == sorted(names)
    assert model.predict_proba(X).shape == (len(X), len(names))
    assert (model.predict(X) == y).mean() > 0.8


def test_a_seed_says_everything_and_the_global_generators_are_left_alone() -> None:
    X, y = IRIS
    settings = FEW | {"module": Dropping, "random_state": 3}
    torch.manual_seed(0)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = SWAGClassifier(**settings).fit(X, y).predict_proba(X)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # type: ignore[index]
    torch.manual_seed(1)
    np.random.seed(1)
    assert (SWAGClassifier(**settings).fit(X, y).predict_proba(X) == first).all()
    other = SWAGClassifier(**settings | {"random_state": 4}).fit(X, y).predict_proba(X)
    assert np.abs(other - first).max() > 1e-3


def test_the_posterior_is_that_of_the_snapshots() -> None:
    X, y = IRIS
    model = SWAGClassifier(**FEW | {"epochs": 10, "swa_start": 0.5, "rank": 3, "scale": 1.0})
    snapshots = []
    for _ in range(10):
        model.partial_fit(X, y, classes=[0, 1, 2])
        snapshots.append(model.ensemble_.layout.flatten(model._runs[0].network))
    kept = torch.stack(snapshots[5:])
    assert model.n_collected_ == 5 and model.posterior_.rank == 3
    assert_close(model.posterior_.mean, kept.mean(0), rtol=1e-10, scale=1.0)
    assert_close(model.posterior_.cov_diag, kept.var(0, correction=0), rtol=1e-8, scale=1.0)


def test_rates_are_those_of_the_paper() -> None:
    run = SWAGClassifier(**FEW | {"epochs": 20, "lr": 0.1, "swa_lr": 0.02}).fit(*IRIS)._runs[0]
    rates = []
    for run.epoch in range(20):
        rates.append(run.rate)
    assert rates[:6] == [0.1] * 6 and rates[10:] == [0.02] * 10  # half the way, then down until 9 of 10
    assert rates[6:10] == pytest.approx([0.08, 0.06, 0.04, 0.02])
    at_once = SWAGClassifier(**FEW | {"swa_start": 0}).fit(*IRIS)
    assert at_once.n_collected_ == 8 and at_once._runs[0].rate == FEW["lr"]
    assert SWAGClassifier(**FEW).fit(*IRIS)._runs[0].rate == FEW["lr"] / 2


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"scale": 0}, swag.PointMass),
        ({"scale": 2.0}, swag.LowRankGaussian),
        ({"rank": 0}, swag.LowRankGaussian),
    ],
)
def test_scale_and_rank_choose_the_posterior(settings: dict[str, Any], kind: type) -> None:
    model = SWAGClassifier(**FEW | settings).fit(*IRIS)
    assert isinstance(model.posterior_, kind)
    if isinstance(model.posterior_, swag.LowRankGaussian):
        assert model.posterior_.scale == model.scale_ == settings.get("scale", 0.5)
        assert model.posterior_.rank == (0 if "rank" in settings else 4)  # four snapshots, not 20


def test_as_many_calls_of_partial_fit_as_epochs_are_fit() -> None:
    X, y = IRIS
    settings = FEW | {"module": Dropping, "batch_size": 32}
    whole = SWAGClassifier(**settings).fit(X, y)
    parted = SWAGClassifier(**settings)
    for _ in range(8):
        parted.partial_fit(X, y, classes=[0, 1, 2])
    assert parted.loss_curve_ == whole.loss_curve_
    assert (parted.predict_proba(X) == whole.predict_proba(X)).all()
    before = parted.posterior_.mean
    parted.partial_fit(X[:40], y[:40])
    assert parted.n_iter_ == 9 and parted.n_collected_ == 5
    assert not torch.equal(before, parted.posterior_.mean)
    X, y = wave()
    regressor = SWAGRegressor(**FEW)
    for _ in range(8):
        regressor.partial_fit(X, y)
    assert_close(regressor.predict(X), SWAGRegressor(**FEW).fit(X, y).predict(X), rtol=0)


def test_partial_fit_goes_on_from_a_pickle_bit_for_bit() -> None:
    X, y = IRIS
    model = MultiSWAGClassifier(n_members=2, **FEW).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    for one in (model, again):
        one.partial_fit(X, y)
    assert (model.predict_proba(X) == again.predict_proba(X)).all()


def test_early_stopping_begins_the_averaging_and_does_not_shorten_it() -> None:
    numbers = np.random.default_rng(0)
    X, y = numbers.normal(size=(60, 4)), numbers.integers(2, size=60)  # nothing to learn: overfits at once
    settings = FEW | {"epochs": 60, "lr": 0.05, "hidden_layer_sizes": (32,)}
    model = SWAGClassifier(early_stopping=True, n_iter_no_change=3, **settings).fit(X, y)
    assert model.swa_start_ < 30
    assert model.n_collected_ == 30 and model.n_iter_ == model.swa_start_ + 30
    assert len(model.validation_curve_) == model.n_iter_
    best = int(np.argmin(model.validation_curve_[: model.swa_start_])) + 1
    assert model.swa_start_ == best + 3
    patient = SWAGClassifier(early_stopping=True, n_iter_no_change=99, **settings).fit(X, y)
    assert patient.swa_start_ == 30 and patient.n_iter_ == 60


def test_scale_auto_has_the_least_nll_on_the_rows_held_out() -> None:
    X, y = IRIS
    model = SWAGClassifier(**FEW | {"scale": "auto", "validation_fraction": 0.3}).fit(X, y)
    _, held = held_out(len(y), 0.3, model._split_seed % (2**31 - 1), y)
    z = torch.from_numpy(Standard(*model._features).apply(X[held]))
    losses = {}
    for scale in (1 / 256, 1 / 2, 2.0, 16.0, model.scale_):
        posterior = model._runs[0].posterior(scale)
        ensemble = swag.Ensemble(model._runs[0].network, posterior, 6, seed=model._draw_seed)
        losses[scale] = swag.metrics.nll(ensemble(z).probs, torch.from_numpy(y[held]))
    assert min(losses, key=losses.__getitem__) == model.scale_
    assert model.posterior_.scale == model.scale_


def test_weights_are_repetitions() -> None:
    X, y = wave(30)
    weights = np.arange(30) % 3
    weighted = SWAGRegressor(**FEW).fit(X, y, sample_weight=weights)
    repeated = SWAGRegressor(**FEW).fit(X.repeat(weights, axis=0), y.repeat(weights))
    assert_close(weighted.predict(X), repeated.predict(X), rtol=1e-9)
    plain = SWAGRegressor(**FEW).fit(X, y)
    assert np.abs(plain.predict(X) - weighted.predict(X)).max() > 1e-3


def test_multiswag_is_a_mixture_of_what_swag_gives() -> None:
    X, y = wave()
    single = SWAGRegressor(**FEW).fit(X, y)
    several = MultiSWAGRegressor(n_members=3, **FEW).fit(X, y)
    assert len(several.posterior_.posteriors) == 3 and len(several.loss_curve_) == 3
    assert torch.equal(several.posterior_.posteriors[0].mean, single.posterior_.mean)
    assert not torch.equal(several.posterior_.posteriors[1].mean, single.posterior_.mean)
    far = np.full((1, 2), 20.0)
    assert several.predictive(far).epistemic > single.predictive(far).epistemic


def test_members_in_other_processes_are_the_same() -> None:
    X, y = IRIS
    alone = MultiSWAGClassifier(n_members=2, **FEW).fit(X, y).predict_proba(X)
    apart = MultiSWAGClassifier(n_members=2, n_jobs=2, **FEW).fit(X, y).predict_proba(X)
    assert_close(apart, alone, rtol=1e-6, scale=1.0)  # other processes may add in another order


@pytest.mark.parametrize(
    "make", [Dropping, linear, nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))]
)
def test_any_module(make: Any) -> None:
    X, y = IRIS
    before = copy.deepcopy(make.state_dict()) if isinstance(make, nn.Module) else {}
    model = SWAGClassifier(module=make, **FEW | {"batch_size": 149, "epochs": 20}).fit(X, y)
    assert model.score(X, y) > 0.7
    for name, value in before.items():
        assert torch.equal(make.state_dict()[name], value)  # the caller's is left alone
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict_proba(X) == model.predict_proba(X)).all()


def test_an_optimizer_and_a_dtype_of_ones_own() -> None:
    X, y = IRIS
    model = SWAGClassifier(optimizer=torch.optim.SGD, dtype="float32", **FEW | {"lr": 0.1}).fit(X, y)
    assert model.predict_proba(X).dtype == np.float32 and model.posterior_.mean.dtype == torch.float32
    assert isinstance(model._runs[0].optimizer, torch.optim.SGD)
    assert SWAGClassifier(**FEW).fit(X.astype(np.float32), y).predict_proba(X).dtype == np.float32
    assert SWAGClassifier(**FEW).fit(X, y).predict_proba(X).dtype == np.float64


def test_drawn_values_have_the_predictives_moments() -> None:
    X, y = wave()
    model = SWAGRegressor(**FEW).fit(X, y)
    mean, std = model.predict(X[:5], return_std=True)
    draws = model.sample_y(X[:5], n_samples=4000, random_state=1)
    assert draws.shape == (5, 4000)
    assert_means(draws.T, mean)
    assert_means(np.square(draws.T - mean), std**2)
    assert (draws == model.sample_y(X[:5], n_samples=4000, random_state=1)).all()
    # One member a column: the rows of a column move together as the members do.
    members = model.predictive(X[:5]).member_means.numpy()
    expected = np.cov(members.T, bias=True)[0, 1]
    assert_means(((draws[0] - mean[0]) * (draws[1] - mean[1]))[:, None], np.array([expected]))


def test_drawn_labels_have_the_predictives_probabilities() -> None:
    X, codes = IRIS
    y = np.array(["a", "b", "c"])[codes]
    model = SWAGClassifier(**FEW).fit(X, y)
    draws = model.sample_y(X[::50], n_samples=1500, random_state=2)
    assert draws.shape == (3, 1500)
    shares = (draws.T[:, :, None] == model.classes_).astype(float)
    assert_means(shares, model.predict_proba(X[::50]))


def test_a_pipeline_in_a_grid_search_over_two_processes() -> None:
    X, codes = IRIS
    table = np.column_stack([X.astype(object), np.array(["red", "green"], dtype=object)[codes % 2]])
    columns = ColumnTransformer(
        [("c", OneHotEncoder(sparse_output=False), [4]), ("n", StandardScaler(), [0, 1, 2, 3])]
    )
    pipeline = make_pipeline(columns, SWAGClassifier(standardize=False, **FEW))
    grid = {"swagclassifier__lr": [1e-4, 0.05], "swagclassifier__scale": [0, 0.5]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, scoring="neg_log_loss").fit(table, codes)
    assert search.best_params_["swagclassifier__lr"] == 0.05
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(table, codes) > -0.5


def test_calibration_of_a_pipeline_on_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    X, codes = IRIS
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"]).assign(e=np.where(codes == 2, "wide", "narrow"))
    labels = pandas.Series(np.array(["x", "z", "y"])[codes], index=frame.index[::-1])
    columns = ColumnTransformer(
        [("e", OneHotEncoder(sparse_output=False), ["e"]), ("n", StandardScaler(), ["a", "b", "c", "d"])]
    ).set_output(transform="pandas")
    pipeline = make_pipeline(columns, SWAGClassifier(standardize=False, **FEW))
    calibrated = CalibratedClassifierCV(pipeline, cv=2).fit(frame, labels)
    assert calibrated.predict_proba(frame.iloc[:1]).shape == (1, 3)
    assert calibrated.classes_.tolist() == ["x", "y", "z"] and calibrated.score(frame, labels) > 0.7
    plain = SWAGClassifier(**FEW).fit(frame[["a", "b"]], labels)
    assert plain.feature_names_in_.tolist() == ["a", "b"] and plain.predict(frame[["a", "b"]][:1]) == ["x"]
    with pytest.raises(ValueError, match="feature names should match"):
        plain.predict(frame[["b", "a"]])


@pytest.mark.parametrize("estimator", [SWAGRegressor(**FEW), MultiSWAGRegressor(n_members=2, **FEW)])
def test_clone_copy_pickle_and_joblib(estimator: Any, tmp_path: Path) -> None:
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:100], y[:100]
    model = clone(estimator).fit(X, y)
    mean, std = model.predict(X, return_std=True)
    joblib.dump(model, tmp_path / "model.joblib")
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), joblib.load(tmp_path / "model.joblib")]
    for twin in copies:
        assert (twin.predict(X) == mean).all() and (twin.predict(X, return_std=True)[1] == std).all()
        assert torch.equal(twin.posterior_.mean, model.posterior_.mean)
        assert twin.loss_curve_ == model.loss_curve_
    fresh = clone(model)
    assert not hasattr(fresh, "posterior_") and fresh.get_params() == model.get_params()
    swag.save(tmp_path / "posterior.safetensors", model.posterior_)
    assert torch.equal(swag.load(tmp_path / "posterior.safetensors").mean, model.posterior_.mean)


def test_a_copy_goes_by_the_parameters_it_was_fitted_with() -> None:
    X, y = IRIS
    model = SWAGClassifier(**FEW).fit(X, y)
    expected = model.predict_proba(X)
    model.set_params(hidden_layer_sizes=(3, 3), epochs=2)
    assert (pickle.loads(pickle.dumps(model)).predict_proba(X) == expected).all()


def test_fitted_on_a_device_that_is_not_here(caplog: pytest.LogCaptureFixture) -> None:
    X, y = IRIS
    model = SWAGClassifier(**FEW).fit(X, y)
    expected = model.predict_proba(X)
    model.device = model._fit_params["device"] = "elsewhere"
    again = pickle.loads(pickle.dumps(model))
    assert "fitted on 'elsewhere', which is not here" in caplog.text
    assert (again.predict_proba(X) == expected).all()
    with pytest.raises(swag.errors.InputError, match="device: 'elsewhere' cannot be used here"):
        again.partial_fit(X, y)
    assert again.set_params(device="cpu").partial_fit(X, y).n_iter_ == 9


@pytest.mark.parametrize("kind", [SWAGClassifier, MultiSWAGClassifier])
def test_skops_needs_to_trust_nothing_but_the_estimator(kind: Any) -> None:
    skops = pytest.importorskip("skops.io")
    X, y = IRIS
    model = kind(**FEW).fit(X, y)
    data = skops.dumps(model)
    unknown = skops.get_untrusted_types(data=data)
    assert unknown == [f"swag.integrations.sklearn.classifier.{kind.__name__}"]
    loaded = skops.loads(data, trusted=unknown)
    assert (loaded.predict_proba(X) == model.predict_proba(X)).all()
    for one in (loaded, model):
        one.partial_fit(X, y)
    assert (loaded.predict_proba(X) == model.predict_proba(X)).all()


def test_a_lone_last_row_joins_the_batch_before_it() -> None:
    sizes = [[len(part) for part in parts(torch.arange(n), 4)] for n in (3, 4, 5, 8, 9, 10)]
    assert sizes == [[3], [4], [5], [4, 4], [4, 5], [4, 4, 2]]
    assert [len(part) for part in parts(torch.arange(3), 1)] == [1, 1, 1]
    rows = Rows(torch.arange(9.0)[:, None], torch.zeros(9), None)
    assert torch.equal(torch.cat(rows.batches(4)), rows.x)


def test_standardisation_is_weighted_and_leaves_constant_columns() -> None:
    numbers = np.random.default_rng(0)
    values, weights = numbers.normal(3, 2, (20, 3)), numbers.integers(1, 4, 20)
    values[:, 2] = 1e6 + 0.1
    found = Standard.of(values, weights.astype(float))
    repeated = values.repeat(weights, axis=0)
    assert_close(found.mean, repeated.mean(0), rtol=1e-12)
    assert_close(found.std[:2], repeated.std(0)[:2], rtol=1e-12)
    assert found.std[2] == 1.0


def test_rows_held_out_are_shared_by_class_where_that_is_possible() -> None:
    labels = np.array([0] * 80 + [1] * 20)
    train, held = held_out(100, 0.2, 0, labels)
    assert sorted([*train, *held]) == list(range(100)) and labels[held].sum() == 4
    lonely = np.array([0] * 9 + [1])
    assert len(held_out(10, 0.2, 0, lonely)[1]) == 2


def test_it_generalises() -> None:
    X, y = load_diabetes(return_X_y=True)
    near, far, y_near, y_far = train_test_split(X, y, random_state=0)
    model = SWAGRegressor(epochs=40, weight_decay=1e-2, lr=3e-3, random_state=0).fit(near, y_near)
    mean, std = model.predict(far, return_std=True)
    assert model.score(far, y_far) > 0.3
    assert 0.8 < (np.abs(y_far - mean) < 1.96 * std).mean() <= 1.0


def test_pickles_hold_no_torch_objects() -> None:
    names: list[tuple[str, str]] = []

    class Watching(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            names.append((module, name))
            return super().find_class(module, name)

    Watching(io.BytesIO(pickle.dumps(SWAGClassifier(**FEW).fit(*IRIS)))).load()
    assert names and not [module for module, _ in names if module.startswith("torch")]
