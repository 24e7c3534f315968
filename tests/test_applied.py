"""Averages in a model for a while, and the model's own weights back bit for bit."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import swag
from swag.applied import applied
from swag.training.averages import RunningAverage, Swap
from tests.cases import CASES, Case, features, walk
from tests.untouched import assert_untouched, state


def batchnorm_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).train()


def loader() -> list[Tensor]:
    return [features(n, seed=n) for n in (30, 5)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_model_holds_the_mean_and_is_then_as_it_was(case: Case) -> None:
    model = case.build()
    collector = swag.Collector(model, rank=0)
    for _ in walk(model, 3):
        collector.collect(model)
    before = state(model)
    with collector.applied(model) as same:
        assert same is model
        theta = collector.layout.flatten(model)
        expected = torch.cat(
            [
                part.to(entry.dtype).to(theta.dtype).reshape(-1)
                for entry, part in zip(
                    collector.layout.entries,
                    collector.layout.unflatten(collector.mean).values(),
                    strict=True,
                )
            ]
        )
        assert torch.equal(theta, expected)
        model(features())
    assert_untouched(model, before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_back_after_an_exception(error: type[BaseException]) -> None:
    model = batchnorm_net()
    collector = swag.Collector(model, rank=2)
    for _ in walk(model, 3):
        collector.collect(model)
    before = state(model)
    with pytest.raises(error), collector.applied(model, bn_loader=loader()):
        raise error
    assert_untouched(model, before)


def test_whatever_the_block_did() -> None:
    """Weights trained, buffers moved, replaced and emptied: all back."""
    model = batchnorm_net()
    collector = swag.Collector(model, rank=0)
    for _ in walk(model, 3):
        collector.collect(model)
    before = state(model)
    with collector.applied(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        model(features(20)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        model[1].running_mean = torch.full((6,), 7.0)  # another tensor in its place
        model[1].num_batches_tracked = None
    assert_untouched(model, before)


def test_batch_norm_statistics_are_those_of_the_average() -> None:
    model = batchnorm_net()
    collector = swag.Collector(model, rank=0)
    for _ in walk(model, 3):
        collector.collect(model)
    before = state(model)
    with collector.applied(model, bn_loader=loader()):
        inputs = model[0](torch.cat(loader())).detach()
        torch.testing.assert_close(model[1].running_mean, inputs.mean(0))
        torch.testing.assert_close(model[1].running_var, inputs.var(0))
    assert_untouched(model, before)
    with collector.applied(model, bn_loader=[{"x": b} for b in loader()], forward=lambda m, b: m(b["x"])):
        torch.testing.assert_close(model[1].running_mean, inputs.mean(0))
    assert_untouched(model, before)


def test_a_refresh_that_fails_leaves_nothing_behind() -> None:
    model = batchnorm_net()
    collector = swag.Collector(model, rank=0)
    collector.collect(model)
    for _ in walk(model, 1):
        pass
    before = state(model)
    for bad in ([], iter(()), [torch.randn(3, 5)]):
        with pytest.raises((swag.InputError, RuntimeError)), collector.applied(model, bn_loader=bad):
            pytest.fail("the block was entered")
        assert_untouched(model, before)


def test_statistics_of_other_weights_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = batchnorm_net()
    collector = swag.Collector(model, rank=0)
    collector.collect(model)
    with caplog.at_level(logging.WARNING):
        with collector.applied(model, bn_loader=loader()):
            pass
        assert not caplog.text
        with collector.applied(model):
            pass
    assert "bn_loader" in caplog.text


def test_blocks_inside_blocks() -> None:
    model = nn.Linear(2, 1)
    one, two = swag.Collector(model, rank=0), RunningAverage(model)
    nn.init.constant_(model.weight, 1.0)
    one.collect(model)
    nn.init.constant_(model.weight, 2.0)
    two.collect(model)
    nn.init.constant_(model.weight, 3.0)
    seen = []
    with one.applied(model):
        seen.append(model.weight[0, 0].item())
        with two.applied(model):
            seen.append(model.weight[0, 0].item())
        seen.append(model.weight[0, 0].item())
    assert [*seen, model.weight[0, 0].item()] == [1.0, 2.0, 1.0, 3.0]


def test_an_optimizer_goes_on_as_if_nothing_had_been() -> None:
    def run(look: bool) -> dict[str, Any]:
        model = batchnorm_net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        collector = swag.Collector(model, rank=0)
        for i in range(8):
            optimizer.zero_grad()
            model(features(16, seed=i)).square().sum().backward()
            optimizer.step()
            collector.collect(model)
            if look:
                with collector.applied(model, bn_loader=loader()), torch.no_grad():
                    model(features())
        return {**model.state_dict(), "mean": collector.mean}

    plain, looked = run(False), run(True)
    assert all(torch.equal(plain[name], looked[name]) for name in plain)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_other_contexts(mode: Any) -> None:
    model = nn.Linear(2, 1)
    collector = swag.Collector(model, rank=0)
    collector.collect(model)
    nn.init.zeros_(model.weight)
    with mode(), collector.applied(model):
        assert float(model.weight.detach().abs().sum()) > 0
    assert float(model.weight.detach().abs().sum()) == 0
    model(torch.ones(1, 2)).sum().backward()


def test_before_any_snapshot_and_for_another_model() -> None:
    model = nn.Linear(2, 1)
    collector = swag.Collector(model, rank=0)
    with pytest.raises(swag.StateError, match="needs 1 snapshot"):
        collector.applied(model)
    collector.collect(model)
    other = nn.Linear(3, 1)
    before = state(other)
    with pytest.raises(swag.InputError, match="same architecture"), collector.applied(other):
        pass
    assert_untouched(other, before)
    with pytest.raises(swag.InputError, match="theta"), applied(model, collector.layout, torch.zeros(7)):
        pass


def test_swap_there_and_back() -> None:
    model = batchnorm_net()
    average = RunningAverage(model)
    swap = Swap(model, average)
    before = state(model)
    with pytest.raises(swag.StateError, match="no snapshot"):
        swap()
    assert not swap.swapped
    for _ in walk(model, 3):
        average.collect(model)
    before = state(model)
    swap()
    assert swap.swapped
    assert torch.equal(average.layout.flatten(model), average.mean)
    swag.refresh_batchnorm_(model, loader())
    swap()
    assert not swap.swapped
    assert_untouched(model, before)


def test_modes_come_back_too() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[1].eval()  # frozen
    before = [module.training for module in model.modules()]
    average = RunningAverage(model)
    average.collect(model)
    loader = [torch.randn(8, 3, generator=torch.Generator().manual_seed(0))]
    for loader_or_none in (loader, None):
        with average.applied(model, bn_loader=loader_or_none):
            model.eval()
        assert [module.training for module in model.modules()] == before
    with pytest.raises(RuntimeError), average.applied(model):
        model.eval()
        raise RuntimeError
    assert [module.training for module in model.modules()] == before
