"""The skorch callback: what it collects and when, and its predictions against the ensemble by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("skorch")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint, LoadInitState, LRScheduler

import swag
from swag.errors import InputError, StateError
from swag.integrations.skorch import SWAGCallback, callback_of, ensemble_log_likelihood
from tests.checks import assert_close

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4)).astype(np.float32)
LABELS = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(np.int64)
Y = X[:, :1] + 0.1 * rng.normal(size=(60, 1)).astype(np.float32)


class Network(nn.Module):
    def __init__(self, n_outputs: int = 2, norm: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Linear(8, n_outputs)
        )

    def forward(self, X: Tensor) -> Tensor:
        return self.layers(X)


class Probabilities(Network):
    def forward(self, X: Tensor) -> Tensor:
        return super().forward(X).softmax(-1)


class Seen(Callback):
    """Keeps the weights after every training batch, and the rates."""

    def initialize(self) -> Seen:
        self.thetas_: list[Tensor] = []
        self.rates_: list[float] = []
        return self

    def on_batch_end(self, net: Any, training: Any = None, **kwargs: Any) -> None:
        if training:
            self.thetas_.append(
                torch.nn.utils.parameters_to_vector(net.module_.parameters()).detach().clone()
            )
            self.rates_.append(net.optimizer_.param_groups[0]["lr"])


def classifier(*more: Any, module: Any = Network, **settings: Any) -> NeuralNetClassifier:
    torch.manual_seed(0)
    fixed = dict(criterion=nn.CrossEntropyLoss, max_epochs=8, lr=0.1, batch_size=16, verbose=0)
    callbacks = settings.pop("callbacks", [("swag", SWAGCallback(rank=3, swa_start=4, n_samples=6)), *more])
    return NeuralNetClassifier(module, callbacks=callbacks, **(fixed | settings))


# --- collecting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"swa_start": 4}, [4, 5, 6, 7]),  # epochs, from 0
        ({"swa_start": 0.5}, [4, 5, 6, 7]),
        ({"swa_start": 2, "every": 3}, [4, 7]),
        ({"swa_start": 0}, list(range(8))),
        ({"swa_start": 0.75, "every": 1}, [6, 7]),
    ],
)
def test_snapshots_are_those_of_the_epochs_asked_for(arguments: dict[str, Any], expected: list[int]) -> None:
    net = classifier(callbacks=[("swag", SWAGCallback(rank=3, **arguments)), ("seen", Seen())]).fit(X, LABELS)
    ends = torch.stack(dict(net.callbacks_)["seen"].thetas_).reshape(8, 3, -1)[:, -1]  # 48 rows, 3 batches
    callback = callback_of(net)
    assert callback.n_collected_ == len(expected)
    assert_close(callback.collector_.mean, ends[expected].mean(0), rtol=1e-5, scale=1.0)
    variance = ends[expected].double().var(0, unbiased=False)
    assert_close(callback.collector_.sq_dev / len(expected), variance, rtol=1e-4, scale=variance.max().item())
    assert net.history[:, "event_swag"] == [epoch in expected for epoch in range(8)]


def test_a_fraction_of_the_epochs_is_not_cut_by_rounding() -> None:
    """0.29 · 100 is 28.999…."""
    starts = {s: SWAGCallback(swa_start=s)._start(classifier(max_epochs=100)) for s in (0.29, 0.75, 29)}
    assert starts == {0.29: 29, 0.75: 75, 29: 29}


def test_by_steps_only_training_batches_count() -> None:
    callbacks = [("swag", SWAGCallback(swa_start=4, every_steps=5)), ("seen", Seen())]
    net = classifier(callbacks=callbacks).fit(X, LABELS)
    thetas = torch.stack(dict(net.callbacks_)["seen"].thetas_)[12:]  # from the fifth epoch on
    assert callback_of(net).n_collected_ == 2
    assert_close(callback_of(net).collector_.mean, thetas[[4, 9]].mean(0), rtol=1e-5, scale=1.0)


def test_the_rate_is_held_against_a_scheduler() -> None:
    scheduler = LRScheduler("CosineAnnealingLR", T_max=8)
    callbacks = [("swag", SWAGCallback(swa_start=4, swa_lr=0.03)), ("lr", scheduler), ("seen", Seen())]
    rates = dict(classifier(callbacks=callbacks).fit(X, LABELS).callbacks_)["seen"].rates_
    assert rates[12:] == [0.03] * 12
    assert rates[0] == 0.1 and 0.03 not in rates[:12]


def test_fit_begins_anew_and_partial_fit_goes_on() -> None:
    net = classifier().fit(X, LABELS)
    assert callback_of(net).n_collected_ == 4
    net.fit(X, LABELS)
    assert callback_of(net).n_collected_ == 4
    net.partial_fit(X, LABELS)
    assert callback_of(net).n_collected_ == 12


# --- prediction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [Network, Probabilities])
def test_predict_proba_is_the_average_over_members(module: Any) -> None:
    settings = {} if module is Network else {"criterion": nn.NLLLoss}
    net = classifier(module=module, **settings).fit(X, LABELS)
    callback, weights = callback_of(net), [p.detach().clone() for p in net.module_.parameters()]
    layout = callback.collector_.layout
    members = []
    for theta in callback.posterior_.sample(6, generator=torch.Generator().manual_seed(0)):
        other = pickle.loads(pickle.dumps(net.module_))
        layout.write_(other, theta)
        outputs = other.eval()(torch.from_numpy(X)).detach()
        members.append(outputs.softmax(1) if module is Network else outputs)
    got = callback.predict_proba(net, X)
    assert_close(got, torch.stack(members).mean(0), rtol=1e-5, scale=1.0)
    assert (callback.predict(net, X) == got.argmax(1)).all()
    assert all(torch.equal(a, b) for a, b in zip(weights, net.module_.parameters(), strict=True))
    assert callback.predictive(net, X).mutual_information.shape == (60,)
    expected = -swag.metrics.nll(got, LABELS)
    assert_close(ensemble_log_likelihood(net, X, LABELS), expected, rtol=1e-6)


def test_classes_are_numbers_of_outputs_though_some_were_never_seen() -> None:
    """As `net.predict` has it: skorch trains on y as it comes, and classes_ may be fewer, in any order."""
    two = classifier(module__n_outputs=3, classes=[2, 0]).fit(X, 2 * LABELS)  # no row is of class 1
    callback = callback_of(two)
    got = callback.predict(two, X)
    assert set(got) <= {0, 1, 2} and got.dtype == two.predict(X).dtype
    assert np.array_equal(got, callback.predict_proba(two, X).argmax(1))
    assert (got == 2 * LABELS).mean() > 0.8
    expected = -swag.metrics.nll(callback.predict_proba(two, X), 2 * LABELS)
    assert_close(ensemble_log_likelihood(two, X, 2 * LABELS), expected, rtol=1e-6)
    unseen = np.ones_like(LABELS)  # a class of the net, though of no training row: improbable, not refused
    assert ensemble_log_likelihood(two, X, unseen) < ensemble_log_likelihood(two, X, 2 * LABELS)
    for wrong, message in ((2 * LABELS + 1, "labels"), (LABELS + 0.5, "not whole")):
        with pytest.raises(InputError, match=message):
            ensemble_log_likelihood(two, X, wrong)


class Focal(nn.Module):
    """A criterion on logits that skorch does not know."""

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        chosen = logits.log_softmax(1).gather(1, y[:, None])
        return -((1 - chosen.exp()) ** 2 * chosen).mean()


def test_outputs_are_read_as_the_net_says_and_never_guessed() -> None:
    unknown = classifier(criterion=Focal).fit(X, LABELS)
    with pytest.raises(InputError, match=r"criterion: a Focal .*predict_nonlinearity"):
        callback_of(unknown).predict_proba(unknown, X)
    told = classifier(criterion=Focal, predict_nonlinearity=torch.nn.Softmax(-1)).fit(X, LABELS)
    likelihood = swag.Categorical()
    expected = callback_of(told).predictive(told, X, likelihood=likelihood).probs
    assert_close(callback_of(told).predict_proba(told, X), expected, rtol=1e-5, scale=1.0)
    # With the usual criterion, too, what the net was told goes first.
    sharper = classifier(predict_nonlinearity=lambda logits: (3 * logits).softmax(-1)).fit(X, LABELS)
    callback = callback_of(sharper)
    callback.scale = 0.0
    ours = classifier().fit(X, LABELS)
    with torch.no_grad():
        callback.collector_.layout.write_(ours.module_, callback.collector_.mean)
        expected = (3 * ours.module_(torch.from_numpy(X))).softmax(1)
    assert_close(callback.predict_proba(sharper, X), expected, rtol=1e-5, scale=1.0)


def test_a_binary_classifier_with_one_logit() -> None:
    torch.manual_seed(0)

    class One(Network):
        def forward(self, X: Tensor) -> Tensor:
            return super().forward(X)[:, 0]

    net = NeuralNetBinaryClassifier(
        One,
        module__n_outputs=1,
        max_epochs=20,
        lr=0.2,
        batch_size=8,
        verbose=0,
        callbacks=[("swag", SWAGCallback(swa_start=4))],
    ).fit(X, LABELS.astype(np.float32))
    probs = callback_of(net).predict_proba(net, X)
    assert probs.shape == (60, 2)
    callback = callback_of(net)
    thetas = callback.posterior_.sample(30, generator=torch.Generator().manual_seed(0))
    other, ones = pickle.loads(pickle.dumps(net.module_.layers)), []
    for theta in thetas:
        torch.nn.utils.vector_to_parameters(theta, other.parameters())
        ones.append(other.eval()(torch.from_numpy(X))[:, 0].sigmoid().detach())
    assert_close(probs[:, 1], torch.stack(ones).mean(0), rtol=1e-5, scale=1.0)
    assert (callback_of(net).predict(net, X) == LABELS).mean() > 0.8
    net.threshold = 0.9
    assert (callback_of(net).predict(net, X) == (probs[:, 1] > 0.9)).all()


def test_a_regressor_has_mean_and_spread() -> None:
    torch.manual_seed(0)
    net = NeuralNetRegressor(
        Network,
        module__n_outputs=1,
        max_epochs=20,
        lr=0.05,
        verbose=0,
        callbacks=[("swag", SWAGCallback(swa_start=10))],
    ).fit(X, Y)
    callback = callback_of(net)
    mean, std = callback.predict(net, X), callback.predict_std(net, X)
    assert mean.shape == std.shape == net.predict(X).shape == (60, 1)
    predictive = callback.predictive(net, X, likelihood=swag.HomoscedasticGaussian(0.01))
    assert_close(mean[:, 0], predictive.mean, rtol=1e-6, scale=1.0)
    assert_close(std[:, 0] ** 2 + 0.01, predictive.variance, rtol=1e-4)
    with pytest.raises(InputError, match="likelihood: a regressor"):
        callback.predictive(net, X)
    with pytest.raises(InputError, match="no classifier"):
        callback.predict_proba(net, X)


def test_several_outputs_of_a_regressor_are_refused() -> None:
    callbacks = [("swag", SWAGCallback(swa_start=1))]
    net = NeuralNetRegressor(Network, max_epochs=4, lr=0.01, verbose=0, callbacks=callbacks)
    net.fit(X, np.hstack([Y, Y]))
    with pytest.raises(InputError, match=r"takes means \(N,\) or \(N, 1\)"):
        callback_of(net).predict(net, X)


def test_batch_norm_statistics_come_from_the_training_data() -> None:
    net = classifier(module__norm=True, train_split=None).fit(X, LABELS)
    callback = callback_of(net)
    ensemble = swag.Ensemble(
        net.module_,
        callback.posterior_,
        6,
        seed=0,
        bn_loader=[torch.from_numpy(X)],
        forward=lambda m, x: m(x),
    )
    expected = ensemble(torch.from_numpy(X)).probs
    assert_close(callback.predict_proba(net, X), expected, rtol=1e-5, scale=1.0)
    loaded = pickle.loads(pickle.dumps(net))
    with pytest.raises(InputError, match="bn_loader"):
        callback_of(loaded).predict_proba(loaded, X)
    assert_close(callback_of(loaded).predict_proba(loaded, X, bn_data=X), expected, rtol=1e-5, scale=1.0)


# --- the ecosystem's ways --------------------------------------------------------------------------------


def test_a_pickled_net_predicts_the_same() -> None:
    net = classifier().fit(X, LABELS)
    loaded = pickle.loads(pickle.dumps(net))
    expected = callback_of(net).predict_proba(net, X)
    assert np.array_equal(callback_of(loaded).predict_proba(loaded, X), expected)
    loaded.partial_fit(X, LABELS)
    assert callback_of(loaded).n_collected_ == 12


class Stop(Callback):
    """Ends training at the start of an epoch, as a killed process does."""

    at = 7

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        if len(net.history) == self.at:
            raise RuntimeError("killed")


def test_a_killed_training_goes_on_from_skorchs_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = classifier().fit(X, LABELS)
    kept = Checkpoint(monitor=None, f_pickle="net.pkl", dirname=str(tmp_path))
    net = classifier(("kept", kept), ("stop", Stop()))
    with pytest.raises(RuntimeError, match="killed"):
        net.fit(X, LABELS)
    loaded = pickle.loads((tmp_path / "net.pkl").read_bytes())
    monkeypatch.setattr(Stop, "at", None)
    loaded.partial_fit(X, LABELS, epochs=8 - len(loaded.history))
    assert "not at hand" not in caplog.text
    ours, theirs = callback_of(loaded), callback_of(whole)
    for key in ("mean", "sq_dev", "deviations"):
        assert torch.equal(getattr(ours.collector_, key), getattr(theirs.collector_, key))
    assert ours.n_collected_ == theirs.n_collected_ == 4
    # skorch's other way keeps the weights and the history, not what was collected: that is said.
    resumed = classifier(("load", LoadInitState(kept)), max_epochs=1).fit(X, LABELS)
    assert len(resumed.history) == 9 and callback_of(resumed).n_collected_ == 1
    assert "has 4 epochs after swa_start whose snapshots are not at hand" in caplog.text


def test_save_params_and_a_collector_in_its_own_file(tmp_path: Path) -> None:
    net = classifier().fit(X, LABELS)
    net.save_params(f_params=tmp_path / "net.safetensors", use_safetensors=True)
    swag.save(tmp_path / "swag.safetensors", callback_of(net).collector_)
    fresh = classifier().initialize()
    fresh.load_params(f_params=tmp_path / "net.safetensors", use_safetensors=True)
    fresh.classes_inferred_ = net.classes_
    callback_of(fresh).collector_ = swag.load(tmp_path / "swag.safetensors")
    assert np.array_equal(callback_of(fresh).predict_proba(fresh, X), callback_of(net).predict_proba(net, X))


def test_arguments_are_parameters_of_the_net() -> None:
    net = classifier()
    assert clone(net).initialize().get_params()["callbacks__swag__rank"] == 3
    net.set_params(callbacks__swag__rank=5, callbacks__swag__swa_start=2)
    net.fit(X, LABELS)
    assert callback_of(net).collector_.rank == 5 and callback_of(net).n_collected_ == 6
    search = GridSearchCV(
        classifier(train_split=None, max_epochs=4),
        {"callbacks__swag__swa_start": [1, 2], "callbacks__swag__scale": [0.5]},
        scoring=ensemble_log_likelihood,
        cv=2,
        error_score="raise",
    ).fit(X, LABELS)
    best = search.best_estimator_
    assert callback_of(best).swa_start == search.best_params_["callbacks__swag__swa_start"]
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[1]


def test_in_a_pipeline_the_steps_before_come_first() -> None:
    pipeline = Pipeline([("scale", StandardScaler()), ("net", classifier())]).fit(5 * X, LABELS)
    callback, scaled = callback_of(pipeline), pipeline[:-1].transform(5 * X)
    expected = -swag.metrics.nll(callback.predict_proba(pipeline[-1], scaled), LABELS)
    assert_close(ensemble_log_likelihood(pipeline, 5 * X, LABELS), expected, rtol=1e-6)
    alone = Pipeline([("net", pipeline[-1])])
    assert_close(ensemble_log_likelihood(alone, scaled, LABELS), expected, rtol=1e-6)
    with pytest.raises(InputError, match="has no SWAGCallback"):
        callback_of(Pipeline([("scale", StandardScaler())]))


# --- bad input -------------------------------------------------------------------------------------------


def test_two_in_one_net_are_refused() -> None:
    net = classifier(callbacks=[("a", SWAGCallback()), ("b", SWAGCallback(rank=5))])
    with pytest.raises(InputError, match=r"2 SWAGCallbacks \(a, b\)"):
        net.fit(X, LABELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": -1}, "rank"),
        ({"swa_start": 1.5}, "swa_start"),
        ({"swa_start": -1}, "swa_start"),
        ({"swa_start": "late"}, "swa_start"),
        ({"every": 0}, "every"),
        ({"every_steps": 0}, "every_steps"),
        ({"swa_lr": 0.0}, "swa_lr"),
        ({"select": ["none.*"]}, "select"),
    ],
)
def test_bad_arguments_are_named_when_training_begins(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        classifier(callbacks=[("swag", SWAGCallback(**arguments))]).fit(X, LABELS)


def test_nothing_collected_yet() -> None:
    callback = SWAGCallback()
    assert not hasattr(callback, "posterior_") and callback.n_collected_ == 0
    net = classifier(callbacks=[("swag", SWAGCallback(swa_start=7))]).fit(X, LABELS)
    with pytest.raises(StateError, match="there are 1"):
        callback_of(net).predict_proba(net, X)
    with pytest.raises(InputError, match="has no SWAGCallback"):
        callback_of(classifier(callbacks=None).initialize())


def test_a_net_of_another_architecture_is_refused() -> None:
    net = classifier().fit(X, LABELS)

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, X: Tensor) -> Tensor:
            return self.head(X)

    other = classifier(module=Other, max_epochs=1).fit(X, LABELS)
    with pytest.raises(InputError, match="no parameter 'layers"):
        callback_of(net).predict_proba(other, X)
    with pytest.raises(InputError, match="net: got"):
        callback_of(net).predict_proba(net.module_, X)


def test_a_rank_that_changed_meanwhile_is_refused() -> None:
    net = classifier().fit(X, LABELS)
    callback_of(net).rank = 7
    with pytest.raises(InputError, match="rank: is 7, but 3"):
        net.partial_fit(X, LABELS)
