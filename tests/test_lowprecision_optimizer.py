"""SWALP's step: the published order, exact resume, and the theorem that it passes below the grid's gap."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import swag
from swag.errors import InputError
from swag.lowprecision import BlockFloatingPoint, FixedPoint, LowPrecisionOptimizer, Precision, low_precision
from tests.runs import seeded

EIGHT = BlockFloatingPoint(8, dim=0)


def vector(n: int = 5) -> nn.Parameter:
    return nn.Parameter(torch.randn(n, generator=seeded(3)))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


# --- the step ----------------------------------------------------------------------------------------


def test_the_published_order_to_nearest() -> None:
    """g ← Q_G(g); v ← ρv + g; w_acc ← Q_acc(w_acc − αv); w ← Q_W(w_acc); v ← Q_M(v), written out."""
    q_w, q_g, q_m, q_a = (FixedPoint(wl, fl, "nearest") for wl, fl in ((6, 3), (6, 2), (7, 3), (12, 9)))
    w = vector()
    start = w.detach().clone()
    optimizer = LowPrecisionOptimizer(sgd([w]), weights=q_w, gradients=q_g, momentum=q_m, accumulators=q_a)
    acc = q_a(start)
    expected, velocity = q_w(acc), None
    assert torch.equal(w.detach(), expected)
    for step in range(6):
        g = torch.randn(5, generator=seeded(step))
        w.grad = g.clone()
        optimizer.step()
        rounded = q_g(g)
        velocity = rounded if velocity is None else 0.9 * velocity + rounded
        acc = q_a(acc - 0.1 * velocity)
        expected, velocity = q_w(acc), q_m(velocity)
        assert torch.equal(w.detach(), expected)
        assert torch.equal(optimizer.state[w]["momentum_buffer"], velocity)


def test_without_accumulators_the_weights_are_stepped() -> None:
    q_w = FixedPoint(8, 3, "nearest")
    w = nn.Parameter(torch.tensor([0.5]))
    optimizer = LowPrecisionOptimizer(torch.optim.SGD([w], lr=1.0), weights=q_w)
    for _ in range(10):
        w.grad = torch.tensor([0.05])  # less than half a step: to nearest, nothing ever moves
        optimizer.step()
    assert w.item() == 0.5
    accumulating = LowPrecisionOptimizer(
        torch.optim.SGD([w], lr=1.0), weights=q_w, accumulators=FixedPoint(16, 12)
    )
    for _ in range(10):
        w.grad = torch.tensor([0.05])
        accumulating.step()
    assert w.item() == pytest.approx(0.0, abs=0.07)


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    sgd,
    lambda p: torch.optim.SGD(p, lr=0.1, nesterov=True, momentum=0.9, weight_decay=1e-3),
    lambda p: torch.optim.Adam(p, lr=0.05),
    lambda p: torch.optim.AdamW(p, lr=0.05),
    lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.5),
    lambda p: torch.optim.Adagrad(p, lr=0.3),
    lambda p: torch.optim.NAdam(p, lr=0.05),
    lambda p: torch.optim.Rprop(p, lr=0.05),
    lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda make: type(make([vector()])).__name__)
def test_any_optimizer_learns_and_stays_on_the_grid(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x = torch.randn(64, 4)
    y = x @ torch.randn(4, 3)
    optimizer = LowPrecisionOptimizer(
        make(model.parameters()), weights=EIGHT, accumulators=BlockFloatingPoint(16, dim=0), seed=0
    )

    def closure() -> Tensor:
        assert torch.equal(EIGHT.to_nearest()(model.weight), model.weight)  # evaluated in low precision
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(40):
        assert optimizer.step(closure).isfinite()
        assert torch.equal(EIGHT.to_nearest()(model.weight), model.weight)
    assert closure().item() < 0.2 * first


def test_schedulers_work_on_it_and_on_its_base() -> None:
    for use in (lambda o: o, lambda o: o.base):
        w = vector()
        optimizer = LowPrecisionOptimizer(sgd([w]), weights=EIGHT)
        schedule = torch.optim.lr_scheduler.StepLR(use(optimizer), 1, gamma=0.5)
        w.grad = torch.ones(5)
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == optimizer.base.param_groups[0]["lr"] == 0.05
    optimizer.load_state_dict(optimizer.state_dict())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, 10)
    assert optimizer.base.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_skipped_parameters_and_later_groups() -> None:
    kept, w, later = vector(), vector(), vector()
    before = kept.detach().clone()
    grid = FixedPoint(4, 1)
    optimizer = LowPrecisionOptimizer(sgd([kept, w]), weights=grid, gradients=grid, skip=[kept])
    assert torch.equal(kept, before) and not torch.equal(w, before)
    optimizer.add_param_group({"params": [later], "lr": 0.5})
    assert torch.equal(grid(later), later) and len(optimizer.base.param_groups) == 2
    kept.grad = torch.full((5,), 0.3)
    optimizer.step()
    torch.testing.assert_close(kept.detach(), before - 0.1 * kept.grad)


# --- resuming ------------------------------------------------------------------------------------------


def train(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, steps: range) -> None:
    for step in steps:
        x = torch.randn(16, 6, generator=seeded(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x.sum(1) > 0).long()).backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("accumulators", [None, BlockFloatingPoint(16, dim=0)], ids=["none", "16 bits"])
def test_resuming_is_exact(accumulators: BlockFloatingPoint | None, tmp_path: Any) -> None:
    """Six steps, a file, six more: bit for bit the twelve steps without a stop, averages included."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    precision = replace(Precision.block(6), accumulators=accumulators)

    def made(seed: int) -> tuple[nn.Module, LowPrecisionOptimizer, Any, swag.Collector]:
        model, optimizer = low_precision(base, sgd, precision, seed=seed)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5)
        return model.train(), optimizer, schedule, swag.Collector(model, 2)

    straight = made(0)
    train(*straight[:3], range(6))
    straight[3].collect(straight[0])
    torch.save([part.state_dict() for part in straight], tmp_path / "state.pt")
    train(*straight[:3], range(6, 12))
    straight[3].collect(straight[0])

    resumed = made(99)
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*resumed[:3], range(6, 12))
    resumed[3].collect(resumed[0])
    for a, b in zip(straight[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(straight[3].mean, resumed[3].mean)
    assert resumed[3].swag().sample(2).shape == (2, resumed[3].layout.size)


def test_a_deep_copy_goes_on_alone() -> None:
    model = nn.Linear(3, 2)
    optimizer = LowPrecisionOptimizer(sgd(model.parameters()), weights=EIGHT, skip=[model.bias], seed=0)
    both = copy.deepcopy((model, optimizer))
    for net, opt in ((model, optimizer), both):
        for _ in range(3):
            net.zero_grad()
            net(torch.ones(4, 3)).square().sum().backward()
            opt.step()
    assert torch.equal(model.weight, both[0].weight) and torch.equal(model.bias, both[0].bias)
    assert not torch.equal(EIGHT.to_nearest()(model.bias), model.bias)


def test_a_copy_under_a_scheduler_steps_itself() -> None:
    """Schedulers put a `step` of the original on the object, which a copy must not take along."""
    model = nn.Linear(3, 2)
    optimizer = LowPrecisionOptimizer(sgd(model.parameters()), weights=EIGHT, seed=0)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    before = model.weight.detach().clone()
    net, copied = copy.deepcopy((model, optimizer))
    restored = pickle.loads(pickle.dumps((model, optimizer)))
    for own, opt in ((net, copied), restored):
        own(torch.ones(4, 3)).square().sum().backward()
        opt.step()
        assert torch.equal(model.weight, before) and not torch.equal(own.weight, before)
        assert opt.param_groups is opt.base.param_groups


def test_a_gradient_scaler_skips_and_goes_on() -> None:
    model, optimizer = low_precision(nn.Linear(3, 2), sgd, Precision.block(8), seed=0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-60)
    moved = []
    for _ in range(3):
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        loss = 1e9 * model(torch.ones(4, 3)).square().sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        moved.append(not torch.equal(before, model.weight))
    assert moved == [False, True, True] and optimizer.state_dict()["low_precision"]["n_steps"] == 2


def test_states_of_others_are_refused() -> None:
    optimizer = LowPrecisionOptimizer(sgd([vector()]), weights=EIGHT, accumulators=BlockFloatingPoint(16))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(InputError, match="state_dict: has no state of a LowPrecisionOptimizer"):
        optimizer.load_state_dict(sgd([vector()]).state_dict())
    other = LowPrecisionOptimizer(sgd([vector(4)]), weights=EIGHT, accumulators=BlockFloatingPoint(16))
    with pytest.raises(InputError, match="state_dict: its accumulators are of other parameters"):
        optimizer.load_state_dict(other.state_dict())
    assert str(optimizer.state_dict()) == str(before)


# --- theorems ------------------------------------------------------------------------------------------


def noisy_quadratic(delta_bits: int, steps: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """f(w) = ½·Σ hᵢ(wᵢ − w*ᵢ)² with gradient noise 0.1, minimum w* between the points of the grid.

    Returns w* and its distance's mean square for the last iterates of LP-SGD, SWALP's error, the grid's gap.
    """
    generator = seeded(seed)
    dim, delta = 256, 2.0**-delta_bits
    minimum = (
        torch.randint(-8, 8, (dim,), generator=generator) + 0.5
    ) * delta  # as far from the grid as can be
    h = torch.linspace(0.5, 2.0, dim)
    w = nn.Parameter(torch.zeros(dim))
    optimizer = LowPrecisionOptimizer(
        torch.optim.SGD([w], lr=0.05), weights=FixedPoint(10, delta_bits), seed=seed
    )
    collector = swag.Collector(nn.ParameterList([w]), rank=0)
    holder = nn.ParameterList([w])
    distances = []
    for step in range(steps):
        w.grad = h * (w.detach() - minimum) + 0.1 * delta * torch.randn(dim, generator=generator)
        optimizer.step()
        if step >= steps // 5:
            collector.collect(holder)
            distances.append((w.detach() - minimum).square().mean())
    return torch.stack(distances).mean(), (collector.mean - minimum).square().mean(), delta**2 / 4


def test_swalp_passes_below_the_gap_where_low_precision_sgd_stalls() -> None:
    """LP-SGD's noise ball is at least the grid's gap (δ/2)² wide; the average's error is a tenth of that."""
    for bits in (2, 5):
        stalled, averaged, gap = noisy_quadratic(bits, steps=600, seed=bits)
        assert stalled >= gap
        assert averaged < 0.1 * gap


def test_the_averages_error_falls_with_the_number_of_iterates() -> None:
    """As 1/T: five times the steps, about a fifth of the mean square (within a factor of two)."""
    short = np.mean([noisy_quadratic(3, 200, seed)[1].item() for seed in range(2)])
    long = np.mean([noisy_quadratic(3, 1000, seed)[1].item() for seed in range(2)])
    assert 2.5 < short / long < 10


def test_steps_smaller_than_the_grid_move_weights_on_average() -> None:
    """A step c inside one cell of the grid moves w by δ with probability c/δ: the mean is kept."""
    delta, c, n = 2.0**-3, 0.03, 20_000
    w = nn.Parameter(torch.zeros(n))
    optimizer = LowPrecisionOptimizer(torch.optim.SGD([w], lr=1.0), weights=FixedPoint(8, 3), seed=0)
    w.grad = torch.full((n,), -c)
    optimizer.step()
    p = c / delta
    assert abs(w.mean().item() - c) < 5 * delta * math.sqrt(p * (1 - p) / n)
    assert set(w.detach().unique().tolist()) == {0.0, delta}


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_changes_nothing(bad: float) -> None:
    a, b = vector(), vector(3)
    optimizer = LowPrecisionOptimizer(sgd([a, b]), weights=EIGHT, gradients=EIGHT, seed=0)
    a.grad, b.grad = torch.ones(5), torch.tensor([1.0, bad, 0.0])
    before = [p.detach().clone() for p in (a, b, a.grad)]
    with pytest.raises(InputError, match=r"gradients: that of parameter 1 \(shape \(3,\)\) holds NaN or inf"):
        optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip((a, b, a.grad), before, strict=True))
    assert optimizer.state_dict()["low_precision"]["n_steps"] == 0
    unrounded = LowPrecisionOptimizer(sgd([a, b]), weights=EIGHT)  # gradients without a format
    with pytest.raises(InputError, match="gradients: that of parameter 1"):
        unrounded.step()
    assert all(torch.equal(x, y) for x, y in zip((a, b), before, strict=False))

    def closure() -> Tensor:
        b.grad = torch.full((3,), bad)
        return b.sum()

    accumulating = LowPrecisionOptimizer(
        torch.optim.LBFGS([a, b]), weights=EIGHT, gradients=EIGHT, accumulators=BlockFloatingPoint(16)
    )
    before = [p.detach().clone() for p in (a, b)]
    with pytest.raises(InputError, match="gradients: that of parameter 1"):
        accumulating.step(closure)
    assert all(torch.equal(x, y) for x, y in zip((a, b), before, strict=True))


def test_a_step_that_overflows_is_named() -> None:
    a, b = vector(), vector(3)
    optimizer = LowPrecisionOptimizer(torch.optim.SGD([a, b], lr=1e30), weights=EIGHT)
    a.grad, b.grad = torch.zeros(5), torch.full((3,), 1e30)
    with pytest.raises(InputError, match=r"weights: the step took parameter 1 \(shape \(3,\)\) out of range"):
        optimizer.step()


@pytest.mark.parametrize("bad", [torch.tensor([1.0, math.nan]), torch.ones(2, dtype=torch.bfloat16)])
def test_weights_that_cannot_be_rounded_leave_all_as_they_are(bad: Tensor) -> None:
    first, second = vector(), nn.Parameter(bad)
    before = first.detach().clone()
    with pytest.raises(InputError, match=r"weights: parameter 1 \(shape \(2,\)\)"):
        LowPrecisionOptimizer(sgd([first, second]), weights=FixedPoint(12, 1))
    assert torch.equal(first, before)


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="base: got a Linear; pass a torch optimizer"):
        LowPrecisionOptimizer(nn.Linear(1, 1), weights=EIGHT)
    with pytest.raises(InputError, match="weights: got None, as all other formats"):
        LowPrecisionOptimizer(sgd([vector()]))
    with pytest.raises(InputError, match="accumulators: got a format without one for the weights"):
        LowPrecisionOptimizer(sgd([vector()]), accumulators=EIGHT)
    with pytest.raises(InputError, match="gradients: got 8; pass a format"):
        LowPrecisionOptimizer(sgd([vector()]), gradients=8)
    with pytest.raises(InputError, match="precision: got 8; pass a Precision"):
        low_precision(nn.Linear(1, 1), sgd, 8)
    model = nn.Linear(1, 1)
    for bad, message in (
        (sgd(model.parameters()), "got a SGD; pass a function such as"),
        (lambda parameters: None, "gave a NoneType; it has to return a torch optimizer"),
        (lambda parameters: sgd(model.parameters()), "gave an optimizer of none of the parameters"),
    ):
        with pytest.raises(InputError, match=f"make_optimizer: {message}"):
            low_precision(model, bad, Precision.block(8))
    with pytest.raises(InputError, match="model: has no layer to quantise"):
        low_precision(nn.BatchNorm1d(3), sgd, Precision.block(8))
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = LowPrecisionOptimizer(torch.optim.SGD(embedding.parameters(), lr=0.1), gradients=EIGHT)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="gradients: that of parameter 0 is sparse"):
        optimizer.step()
