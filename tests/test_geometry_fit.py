"""Training a curve: against a hand-written loop, on odd models, resumed, and on a problem with a barrier."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swag.errors import InputError, StateError
from swag.geometry import (
    Bezier,
    Curve,
    CurveFit,
    Measure,
    PolygonalChain,
    Scorer,
    evaluate_along,
    misclassified,
)
from swag.parameters import Layout
from tests.cases import CASES, WRAPPERS, Case, compiled_part, features
from tests.checks import assert_close
from tests.runs import seeded


def sgd(points: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(points, lr=0.05, momentum=0.9)


def batches(n: int = 4, rows: int = 6) -> list[tuple[Tensor, Tensor]]:
    return [(features(rows, seed=i), torch.arange(rows) % 3) for i in range(n)]


@pytest.mark.parametrize("basis", [Bezier(), PolygonalChain()], ids=repr)
def test_steps_equal_a_hand_written_loop(basis: Bezier | PolygonalChain) -> None:
    """The model's weights set one by one, its gradients carried over to the control points by hand."""
    case = next(case for case in CASES if case.name == "batchnorm_2d_3d")
    first, second = case.build(0).double(), case.build(1).double()
    curve = Curve.between(first, second, n_inner=2, basis=basis)
    fit = CurveFit(first, curve, F.cross_entropy, optimizer=sgd, weight_decay=0.01, seed=3)
    got = [fit.step((x.double(), y)) for x, y in batches()]

    model, layout = copy.deepcopy(first).train(), Layout.of(first)
    points = curve.points.clone()
    velocity = torch.zeros_like(points)
    generator, expected = seeded(3), []
    for x, y in batches():
        t = torch.rand(1, generator=generator, dtype=torch.float64)
        c = basis.coefficients(t, 4)[0]
        theta = sum(c[i] * points[i] for i in range(4))
        assert isinstance(theta, Tensor)
        layout.write_(model, theta)
        model.zero_grad()
        loss = F.cross_entropy(model(x.double()), y)
        loss.backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in layout.tensors(model)]) + 0.01 * theta  # type: ignore[union-attr]
        velocity = 0.9 * velocity + c[:, None] * gradient
        points[1:-1] -= 0.05 * velocity[1:-1]
        expected.append(float(loss.detach()))
    assert_close(got, expected, rtol=1e-9)
    assert_close(fit.curve.points, points, rtol=1e-9, scale=1.0)
    assert torch.equal(fit.curve.points[[0, -1]], curve.points[[0, -1]])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_odd_models(case: Case) -> None:
    first, second = case.build(0), case.build(0)
    with torch.no_grad():
        for parameter in second.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    before = copy.deepcopy(first.state_dict())
    curve = Curve.between(first, second)
    fit = CurveFit(first, curve, F.cross_entropy, optimizer=sgd)
    losses = fit.train(batches(), epochs=2)
    assert all(loss > 0 for loss in losses) and fit.n_steps == 8
    moved = (fit.curve.points - curve.points).abs().amax(1)
    assert moved[0] == 0 and moved[1] > 0 and moved[2] == 0
    for name, value in first.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in first.parameters())


@pytest.mark.parametrize(
    "make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.LBFGS, torch.optim.RMSprop]
)
def test_any_optimizer(make: Any) -> None:
    case = CASES[0]
    first, second = case.build(0), case.build(1)
    data = batches(1, 60)

    def run() -> tuple[CurveFit, float, float]:
        fit = CurveFit(
            first, Curve.between(first, second), F.cross_entropy, optimizer=lambda p: make(p, lr=0.03)
        )
        start = _mean_loss(fit.curve, first, data)
        for _ in range(8):
            fit.epoch(data)
        return fit, start, _mean_loss(fit.curve, first, data)

    (fit, start, end), (again, _, _) = run(), run()
    assert end < start - 0.01
    assert torch.equal(fit.curve.points, again.curve.points)


def _mean_loss(curve: Curve, model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    scorer = Scorer(model, {"loss": Measure(F.cross_entropy, data)}, bn_loader=data)
    return float(evaluate_along(curve, scorer, [0.1 * i for i in range(11)]).values["loss"].mean())


def test_a_resumed_fit_equals_one_that_was_not_stopped() -> None:
    case = next(case for case in CASES if case.name == "batchnorm_1d")
    first, second = case.build(0).eval(), case.build(1).eval()
    first[3].p = second[3].p = 0.0  # dropout draws from torch's global generator
    curve = Curve.between(first, second)
    whole = CurveFit(first, curve, F.cross_entropy, optimizer=sgd, seed=1)
    whole.train(batches(), epochs=3)
    part = CurveFit(first, curve, F.cross_entropy, optimizer=sgd, seed=1)
    part.train(batches(), epochs=1)
    state = copy.deepcopy(part.state_dict())
    resumed = CurveFit(first, curve, F.cross_entropy, optimizer=sgd, seed=77)
    resumed.load_state_dict(state)
    assert resumed.n_steps == 4
    resumed.train(batches(), epochs=2)
    assert torch.equal(resumed.curve.points, whole.curve.points)


def test_a_state_of_something_else_is_refused() -> None:
    def fit(model: nn.Module, **settings: Any) -> CurveFit:
        return CurveFit(model, Curve.between(model, model, **settings), F.cross_entropy, optimizer=sgd)

    fits = fit(nn.Linear(8, 3))
    before = fits.curve.points
    for other in (
        fit(nn.Linear(8, 4)),
        fit(nn.Linear(8, 3), n_inner=2),
        fit(nn.Linear(8, 3), basis=PolygonalChain()),
    ):
        with pytest.raises(InputError, match=r"^state: "):
            fits.load_state_dict(other.state_dict())
    with pytest.raises(InputError, match="state: expected a dict"):
        fits.load_state_dict({})
    assert torch.equal(fits.curve.points, before)


@pytest.mark.parametrize("wrap", ["compiled part", "DataParallel"])
def test_wrapped_models(wrap: str) -> None:
    model = compiled_part() if wrap == "compiled part" else CASES[0].build()
    curve = Curve.between(model, Layout.of(model).flatten(model) + 1, layout=Layout.of(model))
    wrapped = WRAPPERS[wrap](model) if wrap in WRAPPERS else model
    fit = CurveFit(wrapped, curve, F.cross_entropy, optimizer=sgd)
    plain = CASES[0].build()
    same = CurveFit(plain, curve, F.cross_entropy, optimizer=sgd)
    assert fit.step(batches()[0]) == pytest.approx(same.step(batches()[0]), rel=1e-6)


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    first, second = nn.Linear(8, 3), nn.Linear(8, 3)
    fit = CurveFit(first, Curve.between(first, second), F.cross_entropy, optimizer=sgd)
    fit.step(batches()[0])
    state = copy.deepcopy(fit.state_dict())
    with pytest.raises(StateError, match="loss: nan at step 2, t = "):
        fit.step((torch.full((6, 8), torch.nan), torch.arange(6) % 3))
    assert torch.equal(fit.curve.points, state["points"])
    assert torch.equal(fit.state_dict()["generator"], state["generator"]) and fit.n_steps == 1


def test_the_barrier_between_two_nets_goes_away() -> None:
    """Two copies of one trained net, hidden units exchanged: as good as each other, bad in between."""
    generator = seeded(0)
    angle = torch.rand(300, generator=generator) * 6.28
    radius = torch.cat([torch.ones(150), 2.2 * torch.ones(150)]) + 0.15 * torch.randn(
        300, generator=generator
    )
    x, y = torch.stack([radius * angle.cos(), radius * angle.sin()], 1), torch.arange(300) // 150
    data = [(x, y)]
    first = nn.Sequential(nn.Linear(2, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))
    optimizer = torch.optim.Adam(first.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(first(x), y).backward()
        optimizer.step()
    second = copy.deepcopy(first)
    order = torch.randperm(24, generator=generator)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(second[1], name).copy_(getattr(first[1], name)[order])
        second[0].weight.copy_(first[0].weight[order])
        second[3].weight.copy_(first[3].weight[:, order])
    measures = {"loss": Measure(F.cross_entropy, data), "error": Measure(misclassified, data)}
    scorer = Scorer(first, measures, bn_loader=data)
    t = [i / 10 for i in range(11)]
    line = Curve.between(first, second)
    before = evaluate_along(line, scorer, t)
    assert before.values["error"][[0, -1]].max() < 0.03
    assert before.values["loss"][0] == pytest.approx(before.values["loss"][-1], rel=1e-4)
    fit = CurveFit(first, line, F.cross_entropy, optimizer=lambda p: torch.optim.Adam(p, lr=0.03))
    for _ in range(150):
        fit.epoch(data)
    after = evaluate_along(fit.curve, scorer, t)
    assert before.barrier("loss") > 0.1
    assert after.barrier("loss") < 0.4 * before.barrier("loss")
    assert fit.curve.length > line.length


def test_batches_of_dicts_and_other_shapes() -> None:
    model = nn.Linear(8, 3)
    curve = Curve.between(model, model)
    fit = CurveFit(
        model,
        curve,
        F.cross_entropy,
        optimizer=sgd,
        forward=lambda model, batch: model(batch["x"]),
    )
    assert fit.step({"x": features(6), "labels": torch.arange(6) % 3}) > 0
    with pytest.raises(InputError, match="batch: cannot find the targets in a dict"):
        fit.step({"x": features(6)})
    with pytest.raises(InputError, match="batch: cannot find the targets in a Tensor"):
        CurveFit(model, curve, F.cross_entropy, optimizer=sgd).step(features(6))


def test_modes_follow_the_users() -> None:
    """Batch norm frozen in a model in train mode uses its statistics; a model wholly in eval mode trains."""
    seen: list[bool] = []

    def forward(model: nn.Module, batch: Any) -> Tensor:
        seen.append(model[1].training)  # type: ignore[index]
        return model(batch[0])

    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[1].eval()
    CurveFit(model, Curve.between(model, model), F.cross_entropy, optimizer=sgd, forward=forward).step(
        batches()[0]
    )
    model.eval()
    CurveFit(model, Curve.between(model, model), F.cross_entropy, optimizer=sgd, forward=forward).step(
        batches()[0]
    )
    assert seen == [False, True]
    assert not model.training


def test_bad_input() -> None:
    model = nn.Linear(8, 3)
    curve = Curve.between(model, model)
    with pytest.raises(InputError, match="no inner point"):
        CurveFit(model, Curve.between(model, model, n_inner=0), F.cross_entropy, optimizer=sgd)
    with pytest.raises(InputError, match="weight_decay: got -1"):
        CurveFit(model, curve, F.cross_entropy, optimizer=sgd, weight_decay=-1)
    with pytest.raises(InputError, match="model: parameter 'weight' has shape"):
        CurveFit(nn.Linear(8, 4), curve, F.cross_entropy, optimizer=sgd)
    with pytest.raises(InputError, match="curve: has D=5"):
        CurveFit(model, Curve(torch.zeros(3, 5)), F.cross_entropy, optimizer=sgd)
    with pytest.raises(InputError, match="curve: got a Linear"):
        CurveFit(model, model, F.cross_entropy, optimizer=sgd)  # type: ignore[arg-type]
    fit = CurveFit(model, curve, lambda outputs, y: outputs, optimizer=sgd)
    with pytest.raises(InputError, match=r"loss: returned \(6, 3\)"):
        fit.step(batches()[0])
    with pytest.raises(InputError, match="loader: is empty"):
        fit.epoch([])
    with pytest.raises(InputError, match="epochs: got 0"):
        fit.train(batches(), 0)
