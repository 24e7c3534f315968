"""Averages that torch and torchcontrib began go on here."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import swag
from swag.training.migrate import from_averaged_model, load_torchcontrib_
from swag.training.optimizer import SWAOptimizer
from swag.training.rules import EMA
from tests.cases import walk


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


@pytest.mark.parametrize("rule", [None, EMA(0.9)], ids=["equal", "ema"])
@pytest.mark.parametrize("source", ["object", "state", "compiled", "ddp_state"])
def test_an_averaged_model_goes_on(rule: Any, source: str) -> None:
    model = net()
    avg_fn = None if rule is None else get_ema_avg_fn(0.9)
    peer = AveragedModel(torch.compile(model) if source == "compiled" else model, avg_fn=avg_fn)
    for _ in walk(model, 5):
        peer.update_parameters(model)
    if source == "state":
        average = from_averaged_model(peer.state_dict(), model, rule=rule)
    elif source == "ddp_state":  # DistributedDataParallel puts another "module." before each name
        state = {
            name.replace("module.", "module.module."): value for name, value in peer.state_dict().items()
        }
        average = from_averaged_model(state, model, rule=rule)
    else:
        average = from_averaged_model(peer, rule=rule)
    assert average.n_collected == 5
    assert average.layout.names == ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias")
    assert torch.equal(average.mean, average.layout.flatten(peer))
    for _ in walk(model, 7, seed=1):
        average.collect(model)
        peer.update_parameters(model)
    assert average.n_collected == 12
    torch.testing.assert_close(average.mean, average.layout.flatten(peer), rtol=1e-5, atol=1e-6)


def test_an_averaged_model_without_an_average() -> None:
    model = net()
    average = from_averaged_model(AveragedModel(model))
    assert average.n_collected == 0
    for _ in walk(model, 1):
        average.collect(model)
    assert torch.equal(average.mean, average.layout.flatten(model))


def test_frozen_parameters_are_left_out_as_in_a_collector() -> None:
    model = net()
    model[0].requires_grad_(False)
    peer = AveragedModel(model)
    peer.update_parameters(model)
    assert from_averaged_model(peer).layout == swag.Collector(model).layout


def test_averaged_models_that_do_not_fit() -> None:
    model = net()
    peer = AveragedModel(model)
    peer.update_parameters(model)
    state = peer.state_dict()
    bad = {**state, "module.2.weight": torch.full((3, 5), math.nan)}
    for averaged, given, complaint in [
        (model, model, "averaged: pass"),
        (model.state_dict(), model, "averaged: pass"),
        (state, None, "model: a state_dict does not say"),
        (state, nn.Linear(8, 5), "'weight' is missing"),
        (state, nn.Sequential(nn.Linear(8, 6)), r"'0\.weight' has shape \(5, 8\), expected \(6, 8\)"),
        (bad, model, r"'2\.weight' holds NaN"),
    ]:
        with pytest.raises(swag.InputError, match=complaint):
            from_averaged_model(averaged, given)


# torchcontrib's own code fails on today's torch, so its states are made as its source makes them.


def torchcontrib_state(
    base: torch.optim.Optimizer, averages: list[tuple[int, int, list[Tensor]]], *, addresses: bool
) -> dict[str, Any]:
    """n_avg, step_counter and buffers of each group; `addresses` as torch before 1.7 filed parameters."""
    state = copy.deepcopy(base.state_dict())
    buffers: dict[int, dict[str, Tensor]] = {}
    renamed: dict[int, int] = {}
    for own, group, (n, steps, values) in zip(
        base.param_groups, state["param_groups"], averages, strict=True
    ):
        group |= {"n_avg": n, "step_counter": steps}
        for index, parameter in zip(group["params"], own["params"], strict=True):
            renamed[index] = id(parameter)
        for parameter, value in zip(own["params"], values, strict=True):
            buffers[id(parameter)] = {"swa_buffer": value}
        if addresses:
            group["params"] = [renamed[index] for index in group["params"]]
    opt_state = {renamed[k] if addresses else k: v for k, v in state["state"].items()}
    return {"opt_state": opt_state, "swa_state": buffers, "param_groups": state["param_groups"]}


def two_groups(lr: float = 0.1) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    groups = [{"params": list(part.parameters())} for part in model]
    return model, torch.optim.SGD(groups, lr=lr, momentum=0.9)


@pytest.mark.parametrize("addresses", [True, False])
def test_a_torchcontrib_state_goes_on(addresses: bool) -> None:
    model, base = two_groups()
    generator = torch.Generator().manual_seed(0)
    kept = []

    def step(optimizer: torch.optim.Optimizer, net: nn.Module) -> Tensor:
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        return torch.cat([p.detach().double().reshape(-1) for p in net.parameters()])

    for _ in range(10):
        kept.append(step(base, model))
    buffers = [[p.detach() * 0 for p in part.parameters()] for part in model]
    flat = torch.stack(kept[4:]).mean(0)
    at = 0
    for part in buffers:
        for i, value in enumerate(part):
            part[i] = flat[at : at + value.numel()].view(value.shape).float()
            at += value.numel()
    saved = torchcontrib_state(base, [(6, 10, buffers[0]), (6, 10, buffers[1])], addresses=addresses)

    fresh, again = two_groups(lr=0.7)
    fresh.load_state_dict(model.state_dict())
    optimizer = SWAOptimizer(again, swa_start=4, swa_freq=1)
    load_torchcontrib_(optimizer, saved)
    assert optimizer.n_steps == 10 and optimizer.n_averaged == [6, 6]
    assert again.param_groups[0]["lr"] == 0.1 and "n_avg" not in again.param_groups[0]
    for p, q in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(base.state[p]["momentum_buffer"], again.state[q]["momentum_buffer"])
    for _ in range(5):
        kept.append(step(optimizer, fresh))
    assert optimizer.n_averaged == [11, 11]
    torch.testing.assert_close(
        optimizer.swa(fresh).mean.double(), torch.stack(kept[4:]).mean(0), rtol=1e-6, atol=3e-7
    )


def test_a_group_that_torchcontrib_never_averaged() -> None:
    model, base = two_groups()
    values = [torch.full_like(p, 2.0).detach() for p in model[1].parameters()]
    state = copy.deepcopy(base.state_dict())
    state["param_groups"][0] |= {"n_avg": 0, "step_counter": 5}
    state["param_groups"][1] |= {"n_avg": 3, "step_counter": 5}
    swa = {id(p): {"swa_buffer": v} for p, v in zip(model[1].parameters(), values, strict=True)}
    saved = {"opt_state": state["state"], "swa_state": swa, "param_groups": state["param_groups"]}
    optimizer = SWAOptimizer(base)
    load_torchcontrib_(optimizer, saved)
    assert optimizer.n_averaged == [0, 3]
    optimizer.swap_swa_sgd()
    assert bool((model[1].weight == 2).all()) and not bool((model[0].weight == 2).any())


def test_torchcontrib_states_that_do_not_fit() -> None:
    model, base = two_groups()
    values = [[p.detach().clone() for p in part.parameters()] for part in model]
    good = torchcontrib_state(base, [(1, 1, values[0]), (1, 1, values[1])], addresses=False)
    optimizer = SWAOptimizer(base, 3, 1)
    swapped = {**good, "swa_state": dict(reversed(good["swa_state"].items()))}
    short = {**good, "swa_state": dict(list(good["swa_state"].items())[:3])}
    nans = copy.deepcopy(good)
    next(iter(nans["swa_state"].values()))["swa_buffer"].fill_(math.nan)
    for state, complaint in [
        (base.state_dict(), "state: lacks one of"),
        ({**good, "param_groups": good["param_groups"][:1]}, "state: has 1 groups"),
        (short, "lacks averages"),
        (swapped, "not shaped as"),
        (nans, "hold NaN"),
    ]:
        with pytest.raises(swag.InputError, match=complaint):
            load_torchcontrib_(optimizer, state)
        assert optimizer.n_averaged == [0, 0] and optimizer.n_steps == 0
