"""The small parts of `swag.training`: points, losses, batches' rows, random states, what import costs."""

from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import swag.training
from swag import InputError
from swag.geometry.scoring import check_rereadable
from swag.training import DivergedError
from swag.training import losses as losses_module
from swag.training.losses import EpochLosses
from swag.training.objective import moved, n_rows, second
from swag.training.points import Points, exact
from swag.training.random_states import generators_of, lent_to, put_random_states_, random_states, tell_epoch
from swag.training.settings import rereadable
from swag.training.statistics import StatisticsAside
from tests.training_cases import batches, network, same, shuffled, task


@pytest.mark.parametrize("every", [0.1, 0.3, 1 / 3, 0.75, 1, 2.5])
def test_points_lie_where_a_list_of_them_says(every: float) -> None:
    step = exact("every", every)
    points = Points(first=2 + step, every=step, most=9)
    listed = [2 + step * k for k in range(1, 10)]
    for position in [Fraction(k, 60) for k in range(0, 1200, 7)] + listed:
        assert points.passed(position) == sum(point <= position for point in listed)


def test_a_tenth_is_a_tenth() -> None:
    assert exact("x", 0.1) == Fraction(1, 10) and exact("x", np.float32(0.1)) == Fraction(1, 10)
    points = Points(Fraction(0), exact("x", 0.1))
    assert points.passed(Fraction(3, 10)) == 4  # 0.1·3 > 0.3 in binary
    for value in (math.nan, math.inf, "1", None, True):
        with pytest.raises(InputError, match="x"):
            exact("x", value)


def test_losses_are_weighted_by_rows() -> None:
    losses = EpochLosses(1)
    losses.add(1, torch.tensor(2.0), 3)
    losses.add(2, torch.tensor(5.0), 1)
    assert losses.mean == pytest.approx(11 / 4) and losses.n_rows == 4
    assert math.isnan(EpochLosses(1).mean)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_stop_at_the_first_bad_one(bad: float) -> None:
    losses = EpochLosses(3)
    losses.add(10, torch.tensor(1.0), 1)
    with pytest.raises(DivergedError, match=r"step 11 \(epoch 3\)") as caught:
        losses.add(11, torch.tensor(bad), 1)
    assert caught.value.step == 11 and not math.isfinite(caught.value.loss)


def test_on_an_accelerator_losses_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Tensor):
        """A tensor that says it is on an accelerator."""

        device = SimpleNamespace(type="cuda")  # type: ignore[assignment]

    reads = 0
    stack = torch.stack

    def counted(values: list[Tensor]) -> Tensor:
        nonlocal reads
        reads += 1
        return stack([value.as_subclass(Tensor) for value in values])

    monkeypatch.setattr(losses_module.torch, "stack", counted)
    losses = EpochLosses(1)
    for step in range(1, 131):
        losses.add(step, torch.tensor(float(step)).as_subclass(Elsewhere), 1)
    assert reads == 2 and losses.mean == pytest.approx(65.5) and reads == 3
    losses.add(131, torch.tensor(math.nan).as_subclass(Elsewhere), 1)
    losses.add(132, torch.tensor(math.nan).as_subclass(Elsewhere), 1)
    with pytest.raises(DivergedError, match="step 131 "):
        losses.settle()


def test_rows_and_targets_of_batches() -> None:
    x, y = torch.zeros(4, 2), torch.ones(4)
    assert [n_rows(batch) for batch in (x, (x, y), ["a", x], {"id": "a", "x": x}, 3, torch.tensor(1.0))] == [
        4,
        4,
        4,
        4,
        1,
        1,
    ]
    assert second((x, y)) is y and second({"x": x, "labels": y}) is y
    for batch in (x, (x,), {"x": x}):
        with pytest.raises(InputError, match="target="):
            second(batch)
    nested = moved({"a": (x, [y]), "b": "text"}, torch.device("meta"))
    assert nested["a"][1][0].device.type == "meta" and nested["b"] == "text"


def test_a_loaders_generators_are_found_once_each() -> None:
    data = TensorDataset(torch.zeros(4))
    one, two, three = (torch.Generator() for _ in range(3))
    loader = DataLoader(data, batch_size=2, shuffle=True, generator=one)
    assert generators_of(loader) == [one]
    data.generator = three  # type: ignore[attr-defined]
    loader = DataLoader(data, batch_size=2, sampler=RandomSampler(data, generator=two), generator=one)
    assert generators_of(loader) == [one, two, three]
    assert generators_of([data]) == []


def test_samplers_are_told_the_epoch() -> None:
    sampler = torch.utils.data.DistributedSampler([0] * 8, num_replicas=2, rank=0)  # type: ignore[arg-type, var-annotated]
    tell_epoch(DataLoader(TensorDataset(torch.zeros(8)), sampler=sampler), 5)
    assert sampler.epoch == 5
    tell_epoch([1], 5)


def test_random_states_come_back_and_can_be_lent() -> None:
    def draw() -> tuple[float, float, float, float]:
        return torch.rand(1).item(), random.random(), np.random.rand(), np.random.standard_normal()

    random.gauss(0, 1)  # leaves a second number in waiting
    np.random.standard_normal()
    states = random_states(torch.device("cpu"))
    first = draw()
    put_random_states_(states, torch.device("cpu"))
    assert draw() == first
    put_random_states_(states, torch.device("cpu"))
    with lent_to(3, torch.device("cpu")):
        inside = draw()
    assert draw() == first and inside != first
    with pytest.raises(ZeroDivisionError), lent_to(3, torch.device("cpu")):
        assert draw() == inside
        raise ZeroDivisionError


def test_the_names_are_there_and_nothing_loads_before_its_time() -> None:
    for name in swag.training.__all__:
        assert getattr(swag.training, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        swag.training.nothing  # noqa: B018
    code = "import sys, swag.training; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_looking_whether_a_loader_can_be_read_again_draws_no_random_number() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for check in (lambda loader: rereadable(loader, 2), lambda loader: check_rereadable("loader", loader)):
        check(shuffled())
        assert torch.equal(torch.get_rng_state(), before)
        with pytest.raises(InputError, match="is an iterator"):
            check(iter(batches()))


def test_statistics_go_back_to_where_they_were_kept() -> None:
    model = network()
    aside = StatisticsAside(model, torch.device("cpu"))
    x, _ = task()
    for _ in range(2):  # the second time into the same memory
        model(x)
        before = copy.deepcopy(model[1].state_dict())
        aside.keep()
        model(x * float("nan"))
        aside.put_back()
        same(dict(model[1].state_dict()), dict(before))
