"""Averages that torch and torchcontrib began go on here."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import swag
from swag.errors import InputError
from swag.training.migrate import from_averaged_model, from_swa_gaussian, load_torchcontrib_
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


class PaperCode:
    """What the SWAG paper's code keeps: θ's mean, the mean of θ², and the last deviations, in its names."""

    def __init__(self, max_num_models: int | None) -> None:
        self.keep, self.n = max_num_models, 0
        self.kept: dict[str, list[Any]] = {}

    def collect(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            theta = parameter.detach()
            mean, square, rows = self.kept.get(name, [torch.zeros_like(theta), torch.zeros_like(theta), []])
            mean = mean * self.n / (self.n + 1.0) + theta / (self.n + 1.0)
            square = square * self.n / (self.n + 1.0) + theta**2 / (self.n + 1.0)
            rows = [*rows, (theta - mean).flatten()]
            if self.keep is not None and self.n + 1 > self.keep:
                rows = rows[1:]
            self.kept[name] = [mean, square, rows]
        self.n += 1

    def state(self) -> dict[str, Tensor]:
        state = {"n_models": torch.tensor([self.n])}
        for name, (mean, square, rows) in self.kept.items():
            state |= {f"base.{name}_mean": mean, f"base.{name}_sq_mean": square}
            if self.keep is not None:
                stacked = torch.stack(rows) if rows else torch.empty(0, mean.numel())
                state[f"base.{name}_cov_mat_sqrt"] = stacked
        return state | {"base.1.running_mean": torch.ones(5), "base.1.num_batches_tracked": torch.tensor(9)}


@pytest.mark.parametrize("n", [3, 6, 11])
def test_a_posterior_of_the_papers_code_goes_on(n: int) -> None:
    model, theirs = net(), PaperCode(max_num_models=6)
    ours = swag.Collector(model, rank=6)
    for _ in walk(model, n):
        theirs.collect(model)
        ours.collect(model)
    taken = from_swa_gaussian(theirs.state(), model, rank=6 if n <= 6 else None)
    assert (taken.n_collected, taken.rank) == (n, 6)
    for _ in range(2):
        mine, its = taken.swag(0.5), ours.swag(0.5)
        torch.testing.assert_close(mine.mean, its.mean, rtol=1e-5, atol=1e-6)
        # A difference of two numbers of about θ², each rounded n times to 2⁻²⁴ of itself.
        atol = 2 * n * 2.0**-24 * float(its.mean.square().max() + its.cov_diag.max())
        torch.testing.assert_close(mine.cov_diag, its.cov_diag, rtol=1e-5, atol=atol)
        torch.testing.assert_close(mine.cov_factor, its.cov_factor, rtol=1e-5, atol=1e-5)
        assert mine.n_collected == its.n_collected
        for _ in walk(model, 4, seed=1):
            taken.collect(model)
            ours.collect(model)


def test_the_rank_of_a_state_of_the_papers_code() -> None:
    model, full, diagonal = net(), PaperCode(max_num_models=4), PaperCode(max_num_models=None)
    for _ in walk(model, 4):
        full.collect(model)
        diagonal.collect(model)
    assert from_swa_gaussian(full.state(), model).rank == 20  # 4 of 4 rows: nobody knows where it would end
    assert from_swa_gaussian(full.state(), model, rank=2).deviations.shape == (2, 73)
    assert torch.equal(
        from_swa_gaussian(full.state(), model, rank=2).deviations,
        from_swa_gaussian(full.state(), model).deviations[2:],
    )
    alone = from_swa_gaussian(diagonal.state(), model)
    assert alone.rank == 0 and alone.swag_diag().cov_diag.min() > 0
    full.collect(model)
    with pytest.raises(
        InputError, match=r"rank: got 5, and of 5 snapshots 4 rows were kept; pass 4 or fewer"
    ):
        from_swa_gaussian(full.state(), model, rank=5)
    head = from_swa_gaussian(full.state(), model, select=["2"])
    assert head.layout.names == ("2.weight", "2.bias") and head.deviations.shape == (4, 18)
    assert from_swa_gaussian({"n_models": torch.tensor([0])}, model).n_collected == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [30, 200])
def test_variance_that_the_papers_code_lost_is_told(
    dtype: torch.dtype, n: int, caplog: pytest.LogCaptureFixture
) -> None:
    # The rounding of n steps has a standard deviation of about s = √n·eps/2 for weights around 1. Weights
    # whose variance is a 30th of s are lost, those with 30 s are not; a normal error is below 2 s in 97.7 %.
    s = 0.5 * n**0.5 * torch.finfo(dtype).eps
    for variance, low, high in ((s / 30, 0.9, 1.0), (30 * s, 0.0, 0.1)):
        model = nn.Linear(1000, 1, bias=False)
        generator = torch.Generator().manual_seed(0)
        theirs = PaperCode(max_num_models=None)
        for _ in range(n):
            with torch.no_grad():
                model.weight.copy_(1 + variance**0.5 * torch.randn(1, 1000, generator=generator))
            theirs.collect(copy.deepcopy(model).to(dtype))
        caplog.clear()
        from_swa_gaussian(theirs.state(), model)
        told = re.search(r"of about (\d+) of 1000 weights the variance", caplog.text)
        assert low <= (int(told.group(1)) if told else 0) / 1000 <= high


def test_variance_of_one_snapshot_is_nobodys_loss(caplog: pytest.LogCaptureFixture) -> None:
    model, theirs = net(), PaperCode(max_num_models=3)
    theirs.collect(model)
    assert from_swa_gaussian(theirs.state(), model).n_collected == 1
    assert not caplog.text


def test_states_of_the_papers_code_that_do_not_fit() -> None:
    model, theirs = net(), PaperCode(max_num_models=3)
    for _ in walk(model, 3):
        theirs.collect(model)
    state = theirs.state()
    for wrong in ({"state_dict": state}, {"n_models": torch.zeros(2)}, None):
        with pytest.raises(InputError, match="state: has no number 'n_models'"):
            from_swa_gaussian(wrong, model)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"state: '0.weight_cov_mat_sqrt' has shape \(3, 40\), expected \(3, 32\)"
    ):
        from_swa_gaussian(state, nn.Sequential(nn.Linear(8, 4)))
    with pytest.raises(InputError, match=r"state: '2\.bias_sq_mean' is missing"):
        from_swa_gaussian({k: v for k, v in state.items() if k != "base.2.bias_sq_mean"}, model)
    for part in ("mean", "cov_mat_sqrt"):
        bad = state | {f"base.2.bias_{part}": torch.full_like(state[f"base.2.bias_{part}"], math.nan)}
        with pytest.raises(InputError, match="NaN or infinite"):
            from_swa_gaussian(bad, model)
    with pytest.raises(InputError, match=r"has shape \(\), expected \(0, 40\)"):
        from_swa_gaussian(state | {"base.0.weight_cov_mat_sqrt": torch.tensor(1.0)}, model)
    with pytest.raises(InputError, match="state: has 3 rows of 2 snapshots"):
        from_swa_gaussian(state | {"n_models": torch.tensor([2])}, model)
    with pytest.raises(InputError, match="less than the square of the mean"):
        from_swa_gaussian(state | {"base.2.bias_sq_mean": torch.full((3,), -1.0)}, model)


@pytest.mark.parametrize(("before", "after"), [("n_models", "module.n_models"), ("base.", "base.module.")])
def test_a_state_from_inside_data_parallel(before: str, after: str) -> None:
    model, theirs = net(), PaperCode(max_num_models=3)
    for _ in walk(model, 3):
        theirs.collect(model)
    plain = from_swa_gaussian(theirs.state(), model)
    around = "module." if after.startswith("module.") else ""
    state = {
        around + (name if around else name.replace(before, after)): value
        for name, value in theirs.state().items()
    }
    wrapped = from_swa_gaussian(state, model)
    assert torch.equal(plain.mean, wrapped.mean) and torch.equal(plain.deviations, wrapped.deviations)
