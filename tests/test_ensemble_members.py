"""Who the members are: points, mixtures, separate models, and weights that find their place by name."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import swag
from swag.parameters import Layout
from tests.by_hand import CASE, RTOL, by_hand, draws, gaussian, softmax, trainable, training_batches
from tests.cases import CASES, Case, Tied, batchnorm_1d, features, plain
from tests.checks import assert_close
from tests.untouched import assert_untouched, state

# --- posteriors that are a few points --------------------------------------------------------------------


class Calls:
    """The default way of feeding a batch, counted."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, model: nn.Module, batch: Tensor) -> Tensor:
        self.n += 1
        return model(batch)


class OnlySamples:
    """A user's own posterior: nothing but what the protocol asks for."""

    def __init__(self, inner: swag.Posterior) -> None:
        self.layout, self.mean, self._inner = inner.layout, inner.mean, inner

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        return self._inner.sample(n_samples, generator=generator)


def points(n: int, model: nn.Module) -> list[swag.PointMass]:
    layout = Layout.of(model)
    thetas = draws(gaussian(model, std=0.5), n, 0)
    return [swag.PointMass(theta, layout=layout) for theta in thetas]


@pytest.mark.parametrize("kind", ["point", "mixture", "nested", "empirical"])
def test_points_are_predicted_once_with_the_average_of_many_samples(kind: str) -> None:
    model, x = batchnorm_1d(), features(7)
    three = points(3, model)
    posterior, n_points = {
        "point": (three[0], 1),
        "mixture": (swag.Mixture(three), 3),
        "nested": (swag.Mixture([swag.Mixture(three[:1]), swag.Mixture(three[1:2]), three[2]]), 3),
        "empirical": (swag.Empirical(torch.stack([p.mean for p in three]), three[0].layout), 3),
    }[kind]
    calls = Calls()
    ensemble = swag.Ensemble(
        model, posterior, 30, seed=0, bn_loader=training_batches(), forward=calls, keep_members=True
    )
    assert calls.n == n_points * len(training_batches())
    predictive = ensemble(x)
    assert calls.n == n_points * (1 + len(training_batches()))
    assert ensemble.n_samples == predictive.n_samples == n_points

    sampled = swag.Ensemble(model, OnlySamples(posterior), 30, seed=0, bn_loader=training_batches())
    assert sampled.n_samples == 30
    assert_close(predictive.probs, sampled(x).probs, rtol=RTOL, scale=1)
    assert_close(predictive.variance, sampled(x).variance, rtol=RTOL, scale=1)


def test_points_in_another_number_or_of_other_weights_are_sampled() -> None:
    model = plain()
    three = points(3, model)
    assert swag.Ensemble(model, swag.Mixture(three), 31, seed=0).n_samples == 31
    assert swag.Ensemble(model, swag.Mixture(three), 2, seed=0).n_samples == 2
    uneven = swag.Ensemble(model, swag.Mixture(three, [0.5, 0.25, 0.25]), 30, seed=0)
    assert uneven.n_samples == 30
    assert torch.equal(uneven.thetas, draws(swag.Mixture(three, [0.5, 0.25, 0.25]), 30, 0))


def test_multiswag() -> None:
    model, x = batchnorm_1d(), features(7)
    mixture = swag.Mixture([gaussian(CASE["batchnorm_1d"].build(seed), seed=seed) for seed in range(3)])
    ensemble = swag.Ensemble(model, mixture, 9, seed=4, bn_loader=training_batches())
    members = by_hand(CASE["batchnorm_1d"].build, draws(mixture, 9, 4), x, bn_loader=training_batches())
    assert_close(ensemble(x).probs, members.mean(0), rtol=RTOL, scale=1)


# --- separate models -------------------------------------------------------------------------------------


def test_from_models_is_the_average_of_the_models_with_their_own_buffers() -> None:
    models, x = [CASE["batchnorm_1d"].build(seed).train() for seed in range(3)], features(7)
    for seed, model in enumerate(models):
        model(features(30, seed=seed) * (seed + 1))
        model[0].requires_grad_(seed == 1)  # frozen or not, weights count
    before = [state(model) for model in models]
    ensemble = swag.Ensemble.from_models(models, keep_members=True)
    predictive = ensemble(x)
    for model, own in zip(models, before, strict=True):
        assert_untouched(model, own)
    expected = np.stack([softmax(copy.deepcopy(model).eval()(x)) for model in models])
    assert_close(predictive.member_probs, expected, rtol=RTOL, scale=1)
    assert_close(predictive.probs, expected.mean(0), rtol=RTOL, scale=1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_from_models_with_every_odd_model(case: Case) -> None:
    models, x = [case.build(seed) for seed in range(2)], features(7)
    for model in models:
        model.train()(features(30))
    predictive = swag.Ensemble.from_models(models)(x)
    with torch.no_grad():
        expected = np.stack([softmax(model.eval()(x)) for model in models])
    assert_close(predictive.probs, expected.mean(0), rtol=RTOL, scale=1)


class SharedBuffer(nn.Module):
    """One tensor registered as a buffer by two modules."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        for name in ("one", "two"):
            self.add_module(name, nn.Module())
        self.one.register_buffer("shift", torch.tensor([shift, 0.0, 0.0]))
        self.two.register_buffer("shift", self.one.shift, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.two.shift


def test_from_models_takes_buffers_under_all_their_names() -> None:
    models, x = [SharedBuffer(0.0), SharedBuffer(5.0)], features(7)
    expected = np.stack([softmax(model(x)) for model in models])
    predictive = swag.Ensemble.from_models(models, keep_members=True)(x)
    assert_close(predictive.member_probs, expected, rtol=RTOL, scale=1)


def test_from_models_wants_one_architecture() -> None:
    deeper = nn.Sequential(*plain(), nn.Linear(3, 3))
    wider = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    with pytest.raises(swag.InputError, match=r"models: the list is empty"):
        swag.Ensemble.from_models([])
    with pytest.raises(
        swag.InputError, match=r"models: number 1 has the parameter '3.weight', which number 0"
    ):
        swag.Ensemble.from_models([plain(), deeper])
    with pytest.raises(swag.InputError, match=r"models: number 1 does not fit number 0.*'3.weight'"):
        swag.Ensemble.from_models([deeper, plain()])
    with pytest.raises(swag.InputError, match=r"number 2 .*shape \(5, 8\), expected \(4, 8\)"):
        swag.Ensemble.from_models([plain(), plain(), wider])


# --- members ---------------------------------------------------------------------------------------------


def test_members_reproduce_their_predictions() -> None:
    model, x = batchnorm_1d(), features(7)
    ensemble = swag.Ensemble(
        model, gaussian(model), 3, seed=0, bn_loader=training_batches(), keep_members=True
    )
    predictive = ensemble(x)
    for index in range(3):
        member = ensemble.member(index)
        assert not any(module.training for module in member.modules())
        assert_close(softmax(member(x)), predictive.member_probs[index], rtol=RTOL, scale=1)
        assert torch.equal(Layout.of(model).flatten(member), ensemble.thetas[index])
    assert_close(
        swag.Ensemble.from_models([ensemble.member(index) for index in range(3)])(x).probs,
        predictive.probs,
        rtol=RTOL,
        scale=1,
    )


def test_members_are_copies() -> None:
    model, x = batchnorm_1d(), features(7)
    ensemble = swag.Ensemble(model, gaussian(model), 2, seed=0, bn_loader=training_batches())
    first = ensemble(x).probs
    member = ensemble.member(1).requires_grad_().train()
    optimizer = torch.optim.SGD(member.parameters(), lr=1.0)
    member(x).square().sum().backward()
    optimizer.step()
    assert torch.equal(ensemble(x).probs, first)


@pytest.mark.parametrize("index", [2, -1])
def test_there_is_no_such_member(index: int) -> None:
    model = plain()
    with pytest.raises(swag.InputError, match=rf"index: got {index}, .* members 0 to 1"):
        swag.Ensemble(model, gaussian(model), 2).member(index)


def test_tied_weights_stay_tied() -> None:
    model = Tied()
    member = swag.Ensemble(model, gaussian(model), 2, seed=0).member(1)
    assert member.decoder.weight is member.encoder.weight
    assert not torch.equal(member.encoder.weight, model.encoder.weight)


# --- a posterior meets a model by name -------------------------------------------------------------------


class Pair(nn.Module):
    """Two layers, declared in either order; they are used in one."""

    def __init__(self, order: tuple[str, str], *, extra: bool = False) -> None:
        super().__init__()
        layers = {"first": nn.Linear(8, 3), "second": nn.Linear(3, 3)}
        if extra:
            self.before = nn.Linear(2, 2)
        for name in order:
            self.add_module(name, layers[name])
        if extra:
            self.after = nn.Parameter(torch.ones(3))
            self.before.requires_grad_(False)
            self.after.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_parameters_declared_in_another_order() -> None:
    model, other, x = Pair(("first", "second")), Pair(("second", "first")), features(7)
    posterior = gaussian(model)
    assert trainable(model) != trainable(other)
    expected = swag.Ensemble(model, posterior, 4, seed=0)(x)
    assert torch.equal(swag.Ensemble(other, posterior, 4, seed=0)(x).probs, expected.probs)
    members = by_hand(lambda: Pair(("first", "second")), draws(posterior, 4, 0), x)
    assert_close(expected.probs, members.mean(0), rtol=RTOL, scale=1)


def test_further_parameters_of_the_model_stay_as_they_are() -> None:
    model, x = Pair(("first", "second")), features(7)
    larger = Pair(("second", "first"), extra=True)
    posterior = gaussian(model)
    ensemble = swag.Ensemble(larger, posterior, 4, seed=0)
    assert torch.equal(ensemble(x).probs, swag.Ensemble(model, posterior, 4, seed=0)(x).probs)
    assert torch.equal(ensemble.member(2).before.weight, larger.before.weight)


def test_a_part_of_the_model() -> None:
    model, x = plain(), features(7)
    layout = Layout.of(model, select=["2"])
    posterior = swag.LowRankGaussian(torch.zeros(15), torch.ones(15), torch.zeros(15, 0), layout=layout)
    predictive = swag.Ensemble(model, posterior, 4, seed=0)(x)
    members = by_hand(lambda: copy.deepcopy(model), draws(posterior, 4, 0), x, names=["2.weight", "2.bias"])
    assert_close(predictive.probs, members.mean(0), rtol=RTOL, scale=1)


def test_a_posterior_without_layout_fits_by_size() -> None:
    model, x = plain(), features(7)
    layout = Layout.of(model)
    theta = layout.flatten(model)
    with_layout = swag.Ensemble(model, swag.PointMass(theta, layout=layout))(x)
    assert torch.equal(swag.Ensemble(model, swag.PointMass(theta))(x).probs, with_layout.probs)
    with pytest.raises(swag.InputError, match=r"posterior: has D=50 and no layout.*D=51"):
        swag.Ensemble(model, swag.PointMass(theta[:-1]))
