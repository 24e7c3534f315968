"""The user's model and posterior, bit for bit as they were, whatever is done with the ensemble."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import swag
from swag.parameters import Layout
from tests.by_hand import CASE, gaussian, training_batches
from tests.cases import batchnorm_1d, features, plain
from tests.untouched import assert_untouched, state


def lived_in(case: str = "batchnorm_1d") -> nn.Module:
    """A model in the middle of training: gradients, statistics, mixed modes, a frozen bias."""
    model = CASE[case].build().train()
    model(features(9)).square().sum().backward()
    list(model.parameters())[-1].requires_grad_(False)
    next(module for module in model.modules() if isinstance(module, nn.ReLU)).eval()
    return model


class Stop(Exception):
    pass


def stopping(batches: Iterable[Tensor], error: type[BaseException] = Stop) -> Iterator[Tensor]:
    yield from batches
    raise error


class Counted:
    """A forward that fails at the n-th call."""

    def __init__(self, n: int, error: type[BaseException] = Stop) -> None:
        self.left, self.error = n, error

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return model(batch)


@pytest.mark.parametrize("case", ["batchnorm_1d", "batchnorm_2d_3d", "shared_batchnorm"])
def test_the_users_model_is_bit_identical_after_everything(case: str) -> None:
    model = CASE[case].build().train()
    model(features(9)).square().sum().backward()
    model.eval()
    list(model.modules())[1].train()
    next(model.parameters()).requires_grad_(False)
    before = state(model)
    ensemble = swag.Ensemble(model, gaussian(model), 3, bn_loader=training_batches())
    assert_untouched(model, before)
    ensemble(features())
    ensemble.predict([features(), features()])
    ensemble.member(0).train()(features(5))
    swag.Ensemble.from_models([model, model])(features())
    assert_untouched(model, before)


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_the_users_model_is_bit_identical_after_failures(error: type[BaseException]) -> None:
    model = lived_in()
    posterior, before = gaussian(model), state(model)
    with pytest.raises(error):
        swag.Ensemble(model, posterior, 3, bn_loader=stopping(training_batches(), error))
    assert_untouched(model, before)
    with pytest.raises(error):
        swag.Ensemble(model, posterior, 3, bn_loader=training_batches(), forward=Counted(5, error))
    assert_untouched(model, before)

    bn_passes = 3 * len(training_batches())
    ensemble = swag.Ensemble(
        model, posterior, 3, seed=0, bn_loader=training_batches(), forward=Counted(bn_passes + 2, error)
    )
    with pytest.raises(error):
        ensemble(features())
    assert_untouched(model, before)
    with pytest.raises(error):
        ensemble.predict(stopping([features()], error))
    assert_untouched(model, before)
    # And the ensemble goes on as if nothing had happened.
    fresh = swag.Ensemble(model, posterior, 3, seed=0, bn_loader=training_batches())
    assert torch.equal(ensemble(features()).probs, fresh(features()).probs)


class Fails(nn.Module):
    """A model whose own forward fails on a NaN, having already computed something."""

    def __init__(self) -> None:
        super().__init__()
        self.body = batchnorm_1d()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if x.isnan().any():
            raise Stop
        return y


def test_the_users_model_is_bit_identical_when_its_own_forward_raises() -> None:
    model = Fails().train()
    model(features(9)).sum().backward()
    before = state(model)
    bad = torch.full((3, 8), torch.nan)
    with pytest.raises(Stop):
        swag.Ensemble(model, gaussian(model), 3, bn_loader=[features(), bad])
    assert_untouched(model, before)
    ensemble = swag.Ensemble(model, gaussian(model), 3, bn_loader=training_batches())
    for call in (lambda: ensemble(bad), lambda: ensemble.predict([features(), bad])):
        with pytest.raises(Stop):
            call()
        assert_untouched(model, before)


def test_training_goes_on_and_the_ensemble_does_not_notice() -> None:
    model, x = batchnorm_1d().train(), features(7)
    posterior = gaussian(model)
    ensemble = swag.Ensemble(model, posterior, 3, bn_loader=training_batches())
    deep, first = swag.Ensemble.from_models([model, model]), ensemble(x).probs
    first_deep = deep(x).probs
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = copy.deepcopy(model.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(ensemble(x).probs, first)
    assert torch.equal(deep(x).probs, first_deep)


@pytest.mark.parametrize("kind", ["point", "empirical", "gaussian"])
def test_posteriors_are_neither_written_nor_followed(kind: str) -> None:
    model, x = plain(), features(7)
    layout = Layout.of(model)
    theta = layout.flatten(model)
    tensors = {
        "point": [theta],
        "empirical": [torch.stack([theta, -theta])],
        "gaussian": [theta, torch.full_like(theta, 0.1), torch.ones(len(theta), 2)],
    }[kind]
    posterior: swag.Posterior = {
        "point": lambda: swag.PointMass(theta, layout=layout),
        "empirical": lambda: swag.Empirical(tensors[0], layout),
        "gaussian": lambda: swag.LowRankGaussian(*tensors, layout=layout),
    }[kind]()
    before = [tensor.clone() for tensor in tensors]
    ensemble = swag.Ensemble(model, posterior, 2, seed=0)
    first = ensemble(x).probs
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(tensors, before, strict=True))
    for tensor in tensors:
        tensor.zero_()
    assert torch.equal(ensemble(x).probs, first)
