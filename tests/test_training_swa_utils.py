"""What torch's own tests expect of swa_utils, where the two are meant to agree; and where they are not, why.

Torch's expectations in our words, each beside torch's implementation. The differences are those listed in
docs/migrating/swa_utils.md.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import (
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

import swag
from swag import schedules
from swag.training.averages import RunningAverage
from swag.training.custom_average import CustomAverage
from swag.training.rules import EMA, Equal
from tests.cases import walk


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


def made(factory: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return factory()


def inputs(factory: Callable[[], nn.Module], *sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (8,) if factory is dense else (2, 4, 4)
    return [torch.randn(n, *shape, generator=generator) * 2 + 1 for n in sizes]


FACTORIES = pytest.mark.parametrize("factory", [dense, convolutional])


# Averages.


@FACTORIES
@pytest.mark.parametrize("rule", ["equal", "ema"])
@pytest.mark.parametrize("form", ["avg_fn", "multi_avg_fn"])
def test_the_same_average_after_each_of_ten_updates(
    factory: Callable[[], nn.Module], rule: str, form: str
) -> None:
    functions: dict[tuple[str, str], Any] = {
        ("equal", "avg_fn"): get_swa_avg_fn(),
        ("equal", "multi_avg_fn"): get_swa_multi_avg_fn(),
        ("ema", "avg_fn"): get_ema_avg_fn(0.9),
        ("ema", "multi_avg_fn"): get_ema_multi_avg_fn(0.9),
    }
    model = made(factory)
    peer = AveragedModel(model, **{form: functions[rule, form]})
    ours = RunningAverage(model, Equal() if rule == "equal" else EMA(0.9))
    for n, _ in enumerate(walk(model, 10), 1):
        peer.update_parameters(model)
        ours.collect(model)
        assert ours.n_collected == int(peer.n_averaged) == n
        torch.testing.assert_close(ours.mean, ours.layout.flatten(peer), rtol=1e-5, atol=1e-6)


def test_the_first_update_is_a_copy() -> None:
    model = made(dense)
    peer, ours = AveragedModel(model), RunningAverage(model, EMA(0.999))
    for _ in walk(model, 1):
        peer.update_parameters(model)
        ours.collect(model)
    assert torch.equal(ours.mean, ours.layout.flatten(model))
    assert torch.equal(ours.layout.flatten(peer), ours.mean)


def test_the_average_does_not_follow_the_model() -> None:
    model = made(dense)
    ours = RunningAverage(model)
    ours.collect(model)
    mean = ours.mean
    for _ in walk(model, 1):
        pass
    assert torch.equal(ours.mean, mean)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_averages_can_be_copied_and_pickled(copied: Callable[[Any], Any]) -> None:
    model = made(dense)
    ours = RunningAverage(model, EMA(0.9))
    for _ in walk(model, 3):
        ours.collect(model)
    other = copied(ours)
    for _ in walk(model, 1):
        ours.collect(model)
        other.collect(model)
    assert torch.equal(other.mean, ours.mean)


def test_a_state_goes_into_a_fresh_average_of_the_same_kind() -> None:
    model = made(dense)
    ours, peer = RunningAverage(model), AveragedModel(model)
    for _ in walk(model, 4):
        ours.collect(model)
        peer.update_parameters(model)
    fresh, fresh_peer = RunningAverage(made(dense)), AveragedModel(made(dense))
    fresh.load_state_dict(ours.state_dict())
    fresh_peer.load_state_dict(peer.state_dict())
    assert fresh.n_collected == int(fresh_peer.n_averaged) == 4
    assert torch.equal(fresh.mean, ours.mean)


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_a_decay_outside_the_range_is_a_value_error(decay: float) -> None:
    for make in (get_ema_avg_fn, EMA):
        with pytest.raises(ValueError):
            make(decay)


# Batch norm.


@FACTORIES
@pytest.mark.parametrize("kind", ["tensors", "lists", "tuples"])
def test_means_agree_on_full_batches_and_momentum_comes_back(
    factory: Callable[[], nn.Module], kind: str
) -> None:
    batches = inputs(factory, 40, 40, 40)
    loader: list[Any] = {
        "tensors": batches,
        "lists": [[b, torch.zeros(1)] for b in batches],
        "tuples": [(b, torch.zeros(1)) for b in batches],
    }[kind]
    ours, peer = made(factory).eval(), made(factory).eval()
    swag.refresh_batchnorm_(ours, loader)
    update_bn(loader, peer)
    torch.testing.assert_close(ours[1].running_mean, peer[1].running_mean, rtol=1e-5, atol=1e-6)
    assert ours[1].momentum == peer[1].momentum == made(factory)[1].momentum
    assert not ours.training and not peer.training
    assert int(ours[1].num_batches_tracked) == int(peer[1].num_batches_tracked) == 3


def test_a_model_without_batch_norm_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    swag.refresh_batchnorm_(model, [torch.ones(1, 2)])
    update_bn([torch.ones(1, 2)], model)


# SWALR and its place.


def test_swalr_is_torchs_own() -> None:
    assert schedules.SWALR is SWALR


# The differences of docs/migrating/swa_utils.md, each seen.


def test_difference_dtype() -> None:
    model = nn.Linear(1, 1, bias=False).bfloat16()
    ours, peer, seen = RunningAverage(model), AveragedModel(model), []
    for i in range(1000):
        nn.init.constant_(model.weight, 1 + i / 1000)
        ours.collect(model)
        peer.update_parameters(model)
        seen.append(model.weight.item())
    assert sum(seen) / 1000 == pytest.approx(1.50, abs=0.01)
    assert ours.mean.item() == pytest.approx(sum(seen) / 1000, rel=1e-6)
    assert peer.module.weight.item() == pytest.approx(1.0, abs=0.1)


def test_difference_frozen_parameters() -> None:
    model = made(dense)
    model[0].requires_grad_(False)
    assert RunningAverage(model).layout.size < sum(p.numel() for p in AveragedModel(model).parameters())


def test_difference_parameters_left_over() -> None:
    small, large = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    AveragedModel(small).update_parameters(large)  # torch takes no notice
    average = RunningAverage(large)
    with pytest.raises(swag.InputError, match="same architecture"):
        average.collect(small)


def test_difference_batch_norm_weighs_rows() -> None:
    batches = inputs(dense, 100, 4)
    batches[1] += 5
    ours, peer = made(dense), made(dense)
    swag.refresh_batchnorm_(ours, batches)
    update_bn(batches, peer)
    hidden = made(dense)[0](torch.cat(batches))
    torch.testing.assert_close(ours[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1].running_var, hidden.var(0), rtol=1e-4, atol=1e-5)
    assert (peer[1].running_mean - hidden.mean(0)).abs().max() > 0.5
    assert (peer[1].running_var / hidden.var(0)).min() < 0.9


def test_difference_an_empty_loader() -> None:
    ours, peer = made(dense), made(dense)
    for model in (ours, peer):
        model(inputs(dense, 50)[0])
    before = ours[1].running_mean.clone()
    with pytest.raises(swag.InputError, match="empty"):
        swag.refresh_batchnorm_(ours, [])
    update_bn([], peer)
    assert torch.equal(ours[1].running_mean, before)
    assert not bool(peer[1].running_mean.any())


def test_difference_nan() -> None:
    model = made(dense)
    ours, peer = CustomAverage(model, get_swa_avg_fn()), AveragedModel(model)
    for i, _ in enumerate(walk(model, 3)):
        if i == 1:
            good = copy.deepcopy(model.state_dict())
            nn.init.constant_(model[3].bias, float("nan"))
            with pytest.raises(swag.InputError):
                ours.collect(model)
            peer.update_parameters(model)
            model.load_state_dict(good)
        ours.collect(model)
        peer.update_parameters(model)
    assert bool(ours.mean.isfinite().all())
    assert not bool(peer.module[3].bias.isfinite().any())
