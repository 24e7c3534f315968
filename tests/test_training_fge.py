"""`swag.training.fge` against a loop written out by hand, and `Snapshots`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from swag import InputError, StateError
from swag.training import Snapshots, fge
from tests.training_cases import N, batches, linear, network, same, task


def triangle(epoch: float, high: float, low: float, cycle: float) -> float:
    """Garipov et al. 2018, equation 4."""
    t = epoch % cycle / cycle
    return high * (1 - 2 * t) + low * 2 * t if t < 0.5 else high * (2 * t - 1) + low * (2 - 2 * t)


@pytest.mark.parametrize(
    ("cycle", "n_snapshots", "steps"),
    [(2, 3, [4, 12, 20]), (1, 2, [2, 6]), (0.5, 5, [1, 3, 5, 7, 9]), (4, 1, [8]), (1.5, 2, [3, 9])],
)
def test_equals_the_loop_by_hand(cycle: float, n_snapshots: int, steps: list[int]) -> None:
    """Four steps an epoch; snapshots after the steps at which (k + ½) cycles are over."""
    run = fge(
        network(),
        batches(),
        F.cross_entropy,
        lr_max=0.2,
        lr_min=0.02,
        cycle=cycle,
        n_snapshots=n_snapshots,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=9.0, momentum=0.9),
    )
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0, momentum=0.9)
    expected: list[Tensor] = []
    for step in range(steps[-1]):
        x, y = batches()[step % 4]
        optimizer.param_groups[0]["lr"] = triangle(step / 4, 0.2, 0.02, cycle)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if step + 1 in steps:
            expected.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert run.posterior.samples.shape == (n_snapshots, len(expected[0]))
    torch.testing.assert_close(run.posterior.samples, torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert len(run.history) == -(-steps[-1] // 4)  # no epoch after the one with the last snapshot


def test_the_ensemble_is_the_mean_of_its_members() -> None:
    settings: dict[str, Any] = {"lr_max": 0.2, "lr_min": 0.02, "cycle": 2, "n_snapshots": 3}
    run = fge(linear(dtype=torch.float32), batches(), F.cross_entropy, **settings)
    x, _ = task()
    members = []
    for theta in run.posterior.samples:
        member = linear(dtype=torch.float32)
        run.snapshots.layout.write_(member, theta)
        members.append(member(x).softmax(1))
    assert (members[0] - members[2]).abs().max() > 1e-3
    torch.testing.assert_close(run.ensemble()(x).probs, torch.stack(members).mean(0), rtol=1e-5, atol=1e-6)
    with_norm = fge(network(), batches(), F.cross_entropy, **settings)
    assert with_norm.ensemble().predict(batches()).probs.shape == (N, 3)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"lr_max": 0.01}, "lr_max"),
        ({"lr_max": "high"}, "lr_max"),
        ({"lr_min": 0.0}, "lr_max > lr_min > 0"),
        ({"lr_min": float("nan")}, "lr_min"),
        ({"cycle": 0}, "cycle"),
        ({"cycle": 0.25}, "two steps"),
        ({"n_snapshots": 0}, "n_snapshots"),
        ({"train_loader": iter(batches())}, "train_loader"),
        ({"train_loader": (batch for batch in ())}, "train_loader"),
        ({"validation": []}, "validation"),
    ],
)
def test_refuses(arguments: dict[str, Any], names: str) -> None:
    given: dict[str, Any] = {
        "train_loader": batches(),
        "lr_max": 0.1,
        "lr_min": 0.01,
        "cycle": 2,
        "n_snapshots": 2,
        **arguments,
    }
    model = network()
    with pytest.raises(InputError, match=names):
        fge(model, given.pop("train_loader"), F.cross_entropy, **given)
    same(model.state_dict(), network().state_dict())


def test_snapshots_are_copies_in_order_and_come_back_from_a_state() -> None:
    model = linear()
    snapshots = Snapshots(model)
    with pytest.raises(StateError, match="no snapshot"):
        snapshots.empirical()
    for value in (1.0, 2.0, 3.0):
        torch.nn.init.constant_(model.weight, value)
        snapshots.collect(model)
    assert snapshots.thetas[:, 0].tolist() == [1.0, 2.0, 3.0] and snapshots.n_collected == 3
    assert snapshots.thetas.dtype == torch.float64
    other = Snapshots(linear(seed=3))
    other.load_state_dict(snapshots.state_dict())
    assert torch.equal(other.thetas, snapshots.thetas)
    assert other.empirical().layout == snapshots.layout
    other.collect(model)
    assert (other.n_collected, snapshots.n_collected) == (4, 3)


def test_snapshots_refuse_what_does_not_fit_and_stay_as_they_are() -> None:
    model = linear()
    snapshots = Snapshots(model)
    snapshots.collect(model)
    state = snapshots.state_dict()
    with torch.no_grad():
        model.bias[1] = float("inf")
    for call, names in (
        (lambda: snapshots.collect(model), "'bias'"),
        (lambda: snapshots.collect(network()), "no parameter"),
        (lambda: snapshots.load_state_dict({}), "state"),
        (lambda: snapshots.load_state_dict(Snapshots(network()).state_dict()), "another model"),
        (lambda: snapshots.load_state_dict({**state, "thetas": [torch.zeros(3)]}), "shape"),
    ):
        with pytest.raises(InputError, match=names):
            call()
        assert torch.equal(snapshots.thetas, state["thetas"][0][None])
