"""`SWAOptimizer` against an average kept by hand in float64."""

from __future__ import annotations

import copy
import io
import logging
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

import swag
from swag import schedules
from swag.training.optimizer import SWAOptimizer

START, FREQ = 20, 3


def problem(
    *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    batches = []
    for _ in range(10):
        x = torch.randn(16, 4, generator=generator)
        batches.append((x.to(dtype), x.prod(1, keepdim=True).to(dtype)))
    return model.to(dtype), batches


BASES: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.002),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2, history_size=5),
}


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def train(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], opt: Optimizer, start: int, stop: int
) -> Iterator[int]:
    """Steps start + 1 … stop, by closures; yields each step's number after it."""
    for i in range(start, stop):
        x, y = batches[i % len(batches)]

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            opt.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss

        loss = opt.step(closure)
        assert isinstance(loss, Tensor) and loss.isfinite()
        yield i + 1


@pytest.mark.parametrize("name", BASES)
def test_the_average_is_that_kept_by_hand(name: str) -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES[name](model.parameters()), swa_start=START, swa_freq=FREQ)
    plain, _ = problem()
    base = BASES[name](plain.parameters())
    kept = []
    for i, _ in zip(train(model, batches, opt, 0, 200), train(plain, batches, base, 0, 200), strict=True):
        if i > START and i % FREQ == 0:
            kept.append(flat(model))
        assert opt.n_averaged == [len(kept)]
    assert len(kept) == 60
    iterate = flat(model)
    assert torch.equal(iterate, flat(plain)), "averaging must not change the training"
    truth = torch.stack(kept).mean(0)
    assert (truth - iterate).abs().max() > 1e-3, "a test that the iterate itself would pass"
    opt.swap_swa_sgd()
    torch.testing.assert_close(flat(model), truth, rtol=3e-7, atol=1.2e-7)
    torch.testing.assert_close(opt.swa(model).mean.double(), truth, rtol=3e-7, atol=1.2e-7)
    opt.swap_swa_sgd()
    assert torch.equal(flat(model), iterate)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("at", [10, 47])
def test_a_save_and_resume_changes_no_bit(name: str, at: int, tmp_path: Any) -> None:
    def build() -> tuple[nn.Module, list[tuple[Tensor, Tensor]], SWAOptimizer]:
        model, batches = problem()
        return model, batches, SWAOptimizer(BASES[name](model.parameters()), START, FREQ, 0.02)

    model, batches, opt = build()
    list(train(model, batches, opt, 0, at))
    torch.save({"model": model.state_dict(), "opt": opt.state_dict()}, tmp_path / "saved.pt")
    list(train(model, batches, opt, at, 70))

    again, batches, resumed = build()
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["opt"])
    assert resumed.n_steps == at
    list(train(again, batches, resumed, at, 70))
    assert torch.equal(flat(again), flat(model))
    assert resumed.n_averaged == opt.n_averaged
    assert torch.equal(resumed.swa(again).mean, opt.swa(model).mean)


def test_the_rate_is_swa_lr_for_every_step_after_the_start() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 5, 2, 0.01)
    used = []
    opt.base.register_step_pre_hook(lambda base, args, kwargs: used.append(base.param_groups[0]["lr"]))
    list(train(model, batches, opt, 0, 12))
    assert used == [0.05] * 5 + [0.01] * 7


def test_the_first_possible_step_is_step_one() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 0, 1)
    kept = [flat(model) for _ in train(model, batches, opt, 0, 4)]
    torch.testing.assert_close(
        opt.swa(model).mean.double(), torch.stack(kept).mean(0), rtol=3e-7, atol=1.2e-7
    )


def test_rates_by_group_and_as_tensors() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    base = torch.optim.SGD(
        [{"params": one.parameters()}, {"params": two.parameters(), "lr": torch.tensor(0.3)}], lr=0.1
    )
    opt = SWAOptimizer(base, 1, 1, [0.01, 0.02])
    held = base.param_groups[1]["lr"]
    for _ in range(2):
        opt.step()
    assert base.param_groups[0]["lr"] == 0.01
    assert base.param_groups[1]["lr"] is held and float(held) == pytest.approx(0.02)


def test_manual_mode_and_groups() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    base = torch.optim.SGD([{"params": one.parameters()}, {"params": two.parameters()}], lr=0.1)
    opt = SWAOptimizer(base)
    firsts, seconds = [], []
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        for parameter in [*one.parameters(), *two.parameters()]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        opt.step()
        opt.update_swa_group(opt.param_groups[0])
        firsts.append(flat(one))
        if i % 2:
            opt.update_swa_group(opt.param_groups[1])
            seconds.append(flat(two))
    assert opt.n_averaged == [6, 3]
    opt.update_swa()
    firsts.append(flat(one))
    seconds.append(flat(two))
    assert opt.n_averaged == [7, 4]
    opt.swap_swa_sgd()
    torch.testing.assert_close(flat(one), torch.stack(firsts).mean(0), rtol=3e-7, atol=1.2e-7)
    torch.testing.assert_close(flat(two), torch.stack(seconds).mean(0), rtol=3e-7, atol=1.2e-7)


def test_a_group_that_was_never_averaged_keeps_its_weights(caplog: pytest.LogCaptureFixture) -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    opt = SWAOptimizer(torch.optim.SGD([{"params": one.parameters()}, {"params": two.parameters()}], lr=0.1))
    opt.update_swa_group(opt.param_groups[1])
    mean, before = flat(two), flat(one)
    with torch.no_grad():
        two.weight.add_(1)
    with caplog.at_level(logging.WARNING):
        opt.swap_swa_sgd()
    assert "group 0 was never averaged" in caplog.text
    assert torch.equal(flat(two), mean) and torch.equal(flat(one), before)
    state = copy.deepcopy(opt.state_dict())
    assert torch.equal(opt.swa(nn.Sequential(one, two)).mean.double(), mean)
    opt.load_state_dict(state)
    opt.swap_swa_sgd()
    assert torch.equal(flat(one), before) and not torch.equal(flat(two), mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_averaged_in_float32_or_better(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.full((3,), 1.0, dtype=dtype))
    opt = SWAOptimizer(torch.optim.SGD([weight], lr=1.0), 0, 1)
    kept = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        weight.grad = torch.randn(3, generator=generator).to(dtype) * 0.1
        opt.step()
        kept.append(weight.detach().double().clone())
    truth = torch.stack(kept).mean(0)
    last = weight.detach().clone()
    mean = opt.swa(nn.ParameterList([weight])).mean
    assert mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(mean.double(), truth, rtol=1e-6, atol=1e-6)
    opt.swap_swa_sgd()
    assert torch.equal(weight.detach(), mean.to(dtype))
    opt.swap_swa_sgd()
    assert torch.equal(weight.detach(), last)
    assert torch.equal(opt.swa(nn.ParameterList([weight])).mean, mean), "rounding must not reach the average"


def test_small_moves_around_large_weights() -> None:
    """1 ± 1e-6 around 1000: a float32 mean of the weights themselves would be off by the moves."""
    weight = nn.Parameter(torch.full((50,), 1000.0, dtype=torch.float32))
    opt = SWAOptimizer(torch.optim.SGD([weight], lr=0.0), 0, 1)
    generator = torch.Generator().manual_seed(1)
    kept = []
    for _ in range(300):
        with torch.no_grad():
            weight.copy_(1000 + torch.randn(50, generator=generator) * 1e-3)
        opt.step()
        kept.append(weight.detach().double().clone())
    truth = torch.stack(kept).mean(0)
    mean = opt.swa(nn.ParameterList([weight])).mean
    assert (mean.double() - truth).abs().max() <= 3.1e-5  # half a unit of float32 at 1000


def test_saved_while_swapped() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 5, 1)
    list(train(model, batches, opt, 0, 12))
    iterate = flat(model)
    opt.swap_swa_sgd()
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "opt": opt.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    again, _ = problem(seed=3)
    resumed = SWAOptimizer(BASES["sgd"](again.parameters()), 5, 1)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["opt"])
    assert resumed.swapped
    resumed.swap_swa_sgd()
    assert torch.equal(flat(again), iterate)


def test_averaged_gives_the_iterates_back_after_an_exception() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["adam"](model.parameters()), 5, 1)
    list(train(model, batches, opt, 0, 12))
    iterate, mean = flat(model), opt.swa(model).mean
    with pytest.raises(ZeroDivisionError), opt.averaged():
        assert torch.equal(flat(model).float(), mean)
        _ = 1 / 0
    assert torch.equal(flat(model), iterate) and not opt.swapped
    with opt.averaged():
        opt.swap_swa_sgd()  # by hand, inside
    assert torch.equal(flat(model), iterate) and not opt.swapped


def test_bn_update_is_the_exact_refresh() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    opt = SWAOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 3, generator=generator) for n in (20, 3)]
    opt.bn_update(batches, model)
    inputs = model[0](torch.cat(batches)).detach()
    torch.testing.assert_close(model[1].running_mean, inputs.mean(0))
    torch.testing.assert_close(model[1].running_var, inputs.var(0))
    assert model.training
    opt.bn_update([{"x": b} for b in batches], model, forward=lambda m, b: m(b["x"]))


# What surrounds an optimizer.


@pytest.mark.parametrize("held", ["wrapper", "base"])
def test_schedulers_may_hold_either(held: str) -> None:
    model, batches = problem()
    base = BASES["sgd"](model.parameters())
    opt = SWAOptimizer(base)
    assert isinstance(opt, Optimizer)
    scheduler = CosineAnnealingLR(opt if held == "wrapper" else base, T_max=10)
    plain = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    reference = CosineAnnealingLR(plain, T_max=10)
    for _ in train(model, batches, opt, 0, 10):
        plain.step()
        scheduler.step()
        reference.step()
        assert opt.param_groups[0]["lr"] == base.param_groups[0]["lr"] == plain.param_groups[0]["lr"]


def test_a_schedule_and_collection_points_drive_manual_mode() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()))
    schedule = schedules.cyclical(opt, lr_max=0.05, lr_min=0.01, cycle=5)
    kept = []
    for _ in train(model, batches, opt, 0, 20):
        if schedule.is_collection_point():
            opt.update_swa()
            kept.append(flat(model))
        schedule.step()
    assert opt.n_averaged == [4]
    torch.testing.assert_close(
        opt.swa(model).mean.double(), torch.stack(kept).mean(0), rtol=3e-7, atol=1.2e-7
    )


@pytest.mark.parametrize("name", ["sgd", "adam_fused"])
def test_under_a_grad_scaler_skipped_steps_do_not_count(name: str) -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES[name](model.parameters()), 2, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    kept = []
    for i in range(12):
        x, y = batches[i % 10]
        opt.zero_grad()
        loss = F.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        if i in (4, 5):  # an overflow
            model[0].weight.grad[0, 0] = math.inf
        before = flat(model)
        scaler.step(opt)
        scaler.update()
        assert torch.equal(before, flat(model)) == (i in (4, 5))
        if i not in (4, 5) and opt.n_steps > 2:
            kept.append(flat(model))
    assert opt.n_steps == 10 and opt.n_averaged == [8]
    assert scaler.get_scale() == 2.0
    torch.testing.assert_close(
        opt.swa(model).mean.double(), torch.stack(kept).mean(0), rtol=3e-7, atol=1.2e-7
    )


def test_hooks_of_both_run() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 0, 1)
    seen: list[str] = []
    opt.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append(f"after {o.n_averaged[0]}"))
    opt.base.register_step_post_hook(lambda o, args, kwargs: seen.append("base"))
    opt.register_state_dict_post_hook(lambda o, state: {**state, "extra": 1})
    opt.register_load_state_dict_pre_hook(lambda o, state: state.pop("extra") and None)
    opt.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    list(train(model, batches, opt, 0, 1))
    state = opt.state_dict()
    assert state["extra"] == 1
    opt.load_state_dict(state)
    assert seen == ["before", "base", "after 1", "loaded"]


def test_a_compiled_step_is_the_same_and_is_compiled_once() -> None:
    from torch._dynamo.testing import CompileCounter

    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 5, 2, 0.02)
    plain, _ = problem()
    reference = SWAOptimizer(BASES["sgd"](plain.parameters()), 5, 2, 0.02)
    counter = CompileCounter()
    step = torch.compile(lambda: opt.step(), backend=counter)
    for i in range(16):
        x, y = batches[i % 10]
        for net, o, take in ((model, opt, step), (plain, reference, reference.step)):
            o.zero_grad()
            F.mse_loss(net(x), y).backward()
            take()
    assert opt.n_averaged == reference.n_averaged == [6]
    torch.testing.assert_close(flat(model), flat(plain), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(opt.swa(model).mean, reference.swa(plain).mean, rtol=1e-6, atol=1e-7)
    # Once at the first rate and state, and again at most when momentum exists and when the rate changes.
    assert counter.frame_count <= 3


def test_a_compiled_model_is_averaged_under_its_names() -> None:
    model, batches = problem()
    compiled = torch.compile(model, backend="eager")
    opt = SWAOptimizer(BASES["sgd"](compiled.parameters()), 0, 1)
    list(train(compiled, batches, opt, 0, 3))
    assert opt.swa(compiled).layout == opt.swa(model).layout
    assert opt.swa(compiled).layout.names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_copies_go_on_alone() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 2, 1, 0.01)
    list(train(model, batches, opt, 0, 6))
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.base is not opt.base and other.n_averaged == [4] and other.n_steps == 6
        assert repr(other) == repr(opt)
        other.step()
        assert (other.n_steps, opt.n_steps) == (7, 6)


def test_the_base_alone_can_load_the_state() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 2, 1)
    list(train(model, batches, opt, 0, 6))
    plain = BASES["sgd"](copy.deepcopy(model).parameters())
    plain.load_state_dict(opt.state_dict())
    momenta = [plain.state[p]["momentum_buffer"] for p in plain.param_groups[0]["params"]]
    for mine, p in zip(momenta, model.parameters(), strict=True):
        assert torch.equal(mine, opt.state[p]["momentum_buffer"])


def test_param_names_name_the_bad_parameter() -> None:
    model, _ = problem()
    opt = SWAOptimizer(torch.optim.SGD(list(model.named_parameters()), lr=0.1))
    with torch.no_grad():
        model[2].weight[0, 3] = math.nan
    with pytest.raises(swag.InputError, match=r"'2\.weight' holds NaN"):
        opt.update_swa()


def test_the_posterior_predicts() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 2, 1)
    list(train(model, batches, opt, 0, 6))
    ensemble = swag.Ensemble(
        model, opt.swa(model), n_samples=1, likelihood=swag.HomoscedasticGaussian(0.1), seed=0
    )
    with opt.averaged(), torch.no_grad():
        expected = model(batches[0][0])[:, 0]
    torch.testing.assert_close(
        ensemble(batches[0][0]).mean.float().reshape(-1), expected, rtol=1e-5, atol=1e-6
    )


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"swa_freq": 5}, "swa_freq: got 5 without swa_start"),
        ({"swa_start": 5}, "swa_start: got 5 without swa_freq"),
        ({"swa_lr": 0.1}, "swa_lr: got 0.1 without swa_start"),
        ({"swa_start": -1, "swa_freq": 5}, "swa_start: got -1"),
        ({"swa_start": 1.5, "swa_freq": 5}, "swa_start: got 1.5"),
        ({"swa_start": 1, "swa_freq": 0}, "swa_freq: got 0"),
        ({"swa_start": True, "swa_freq": 1}, "swa_start: got True"),
        ({"swa_start": 1, "swa_freq": 1, "swa_lr": -0.1}, "swa_lr: got -0.1"),
        ({"swa_start": 1, "swa_freq": 1, "swa_lr": math.nan}, "swa_lr: got nan"),
        ({"swa_start": 1, "swa_freq": 1, "swa_lr": [0.1, 0.2]}, "swa_lr: has 2 rates for 1"),
    ],
)
def test_settings_that_do_not_go_together(arguments: dict[str, Any], complaint: str) -> None:
    base = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(swag.InputError, match=complaint):
        SWAOptimizer(base, **arguments)


def test_what_is_no_optimizer() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(swag.InputError, match="base: got a Linear"):
        SWAOptimizer(model)  # type: ignore[arg-type]
    with pytest.raises(swag.InputError, match="base: got a SWAOptimizer"):
        SWAOptimizer(SWAOptimizer(torch.optim.SGD(model.parameters(), lr=0.1)))


def test_a_swap_before_any_average() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 5, 1)
    list(train(model, batches, opt, 0, 5))
    before = flat(model)
    with pytest.raises(swag.StateError, match="nothing was averaged yet"):
        opt.swap_swa_sgd()
    with pytest.raises(swag.StateError, match="nothing was averaged yet"), opt.averaged():
        pass
    with pytest.raises(swag.StateError, match="nothing was averaged yet"):
        opt.swa(model)
    assert torch.equal(flat(model), before) and not opt.swapped


def test_no_step_and_no_average_while_swapped() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 0, 1)
    list(train(model, batches, opt, 0, 3))
    opt.swap_swa_sgd()
    before = flat(model)
    for call in (opt.step, opt.update_swa, opt.reset_swa, lambda: opt.update_swa_group(opt.param_groups[0])):
        with pytest.raises(swag.StateError, match="swap_swa_sgd"):
            call()
    assert torch.equal(flat(model), before) and opt.n_steps == 3


def test_parameters_added_after_averaging_began() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 2, 1)
    late, later = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    opt.add_param_group({"params": [late]})
    list(train(model, batches, opt, 0, 4))
    assert opt.n_averaged == [2, 2]
    with pytest.raises(swag.StateError, match=r"averaging has begun.*reset_swa"):
        opt.add_param_group({"params": [later]})
    assert len(opt.param_groups) == 2
    opt.base.add_param_group({"params": [later]})  # behind the wrapper's back
    with pytest.raises(swag.StateError, match="averaging began with"):
        opt.update_swa()
    assert opt.n_averaged == [2, 2]
    opt.reset_swa()
    opt.update_swa()
    assert opt.n_averaged == [1, 1, 1] and opt.n_steps == 4


def test_a_group_without_a_rate() -> None:
    opt = SWAOptimizer(
        torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]}] * 1, lr=0.1), 1, 1, [0.05]
    )
    opt.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})  # one rate is for all
    two = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=0.1)
    opt = SWAOptimizer(two, 1, 1, [0.05, 0.06])
    with pytest.raises(swag.InputError, match="swa_lr: has 2 rates for 3"):
        opt.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert len(two.param_groups) == 2


def test_weights_that_are_not_finite_do_not_reach_the_average() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 2, 1)
    list(train(model, batches, opt, 0, 6))
    mean = opt.swa(model).mean
    model[0].bias.grad[1] = math.nan
    with pytest.raises(swag.InputError, match=r"\['params'\]\[1\]' holds NaN"):
        opt.step()
    assert opt.n_steps == 7 and opt.n_averaged == [4]
    assert torch.equal(opt.swa(model).mean, mean)


def test_a_group_of_another_optimizer() -> None:
    opt = SWAOptimizer(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    with pytest.raises(swag.InputError, match="group: is none of"):
        opt.update_swa_group(dict(opt.param_groups[0]))


def test_a_model_of_other_parameters() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 0, 1)
    list(train(model, batches, opt, 0, 1))
    with pytest.raises(swag.InputError, match="model: holds none"):
        opt.swa(nn.Linear(4, 8))


def test_complex_parameters_are_refused_before_anything_changes() -> None:
    opt = SWAOptimizer(torch.optim.SGD([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], lr=0.1))
    with pytest.raises(swag.InputError, match="complex64"):
        opt.update_swa()
    assert opt.n_averaged == [0]


def test_states_that_do_not_fit_change_nothing() -> None:
    model, batches = problem()
    opt = SWAOptimizer(BASES["sgd"](model.parameters()), 2, 1)
    list(train(model, batches, opt, 0, 6))
    good = opt.state_dict()
    mean = opt.swa(model).mean

    def broken(**changes: Any) -> dict[str, Any]:
        entry = {**good["swa"]["averages"][0], **changes}
        return {**good, "swa": {**good["swa"], "averages": [entry]}}

    other = SWAOptimizer(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), 0, 1)
    other.step()
    for state, complaint in [
        (opt.base.state_dict(), "has no averages of this library"),
        ({**good, "swa": {**good["swa"], "version": 99}}, "has no averages of this library"),
        ({**good, "swa": {**good["swa"], "n_steps": -1}}, "'n_steps' is -1"),
        ({**good, "swa": {**good["swa"], "averages": []}}, "averages of 0 groups"),
        (broken(n=None), "'n' is None"),
        (broken(origin=torch.zeros(3)), "'origin' should be"),
        (broken(offset_mean=torch.full_like(mean, math.nan)), "'offset_mean' holds NaN"),
        (broken(aside=torch.zeros(3)), "'aside' does not fit"),
        (other.state_dict(), "'origin' should be"),
        ({"opt_state": {}, "swa_state": {}, "param_groups": []}, "load_torchcontrib_"),
    ]:
        with pytest.raises(swag.InputError, match=complaint):
            opt.load_state_dict(state)
        assert torch.equal(opt.swa(model).mean, mean) and opt.n_steps == 6
    groups = [{**good["param_groups"][0], "params": [0, 1]}]
    with pytest.raises(ValueError, match="parameter group"):  # torch's own
        opt.load_state_dict({**good, "param_groups": groups})
    assert opt.n_averaged == [4]


def test_a_scaler_must_get_the_wrapper_for_unscaling_and_stepping() -> None:
    """As the docstring says: with the base for one of the two the gradients are unscaled twice, or not."""

    def run(unscaled: str, stepped: str) -> tuple[torch.Tensor, list[int]]:
        weight = nn.Parameter(torch.tensor([1.0]))
        base = torch.optim.SGD([weight], lr=0.5)
        given = {"base": base, "wrapper": SWAOptimizer(base, 0, 1)}
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for _ in range(3):
            base.zero_grad()
            scaler.scale((weight**2).sum()).backward()
            scaler.unscale_(given[unscaled])
            torch.nn.utils.clip_grad_norm_([weight], 0.6)
            scaler.step(given[stepped])
            scaler.update()
        return weight.detach().clone(), given["wrapper"].n_averaged  # type: ignore[attr-defined]

    expected = torch.tensor([1.0])
    for _ in range(3):
        expected = expected - 0.5 * (2 * expected).clamp(max=0.6)
    weight, averaged = run("wrapper", "wrapper")
    torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
    assert averaged == [3]
    assert run("base", "base")[1] == [0]  # steps that are not averaged
    assert not torch.allclose(run("base", "wrapper")[0], expected)


def test_an_empty_group_is_exchanged_with_the_others() -> None:
    weight = nn.Parameter(torch.ones(2))
    base = torch.optim.SGD([{"params": [weight]}, {"params": []}], lr=0.5)
    optimizer = SWAOptimizer(base, 0, 1)
    for _ in range(3):
        weight.grad = torch.ones(2)
        optimizer.step()
    optimizer.swap_swa_sgd()
    assert weight.tolist() == [0.0, 0.0] and optimizer.n_averaged == [3, 3]
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.swap_swa_sgd()
    assert weight.tolist() == [-0.5, -0.5]


def test_torchcontribs_names_and_arguments() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = SWAOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    assert optimizer.optimizer is optimizer.base
    loader = [torch.randn(8, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    optimizer.bn_update(loader, model)
    expected = model[1].running_mean.clone()
    for call in (
        lambda: optimizer.bn_update(loader, model, None),
        lambda: optimizer.bn_update(loader, model, device="cpu"),
    ):
        model[1].reset_running_stats()
        call()
        assert torch.equal(model[1].running_mean, expected)
