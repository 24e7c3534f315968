"""Every schedule equals its formula at every step, alone and inside torch's own machinery."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

import swag
from swag import schedules
from swag.schedules import Schedule, rates

LR = 0.2


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def optimizer(*lrs: float) -> SGD:
    """One group a rate, each with one weight that has a gradient."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in lrs or (LR,)]
    return SGD(groups, lr=1.0)


def rates_of(opt: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in opt.param_groups]


# The formulas as the papers write them, by hand and apart from the library's.
def swa_paper(e: float) -> float:
    t, ratio = e / 20, 0.05 / LR
    factor = 1.0 if t <= 0.5 else ratio if t > 0.9 else 1.0 - (1.0 - ratio) * (t - 0.5) / 0.4
    return LR * factor


def saw_tooth(e: int) -> float:
    i = e + 1  # the paper counts from 1
    t = ((i - 1) % 5 + 1) / 5
    return (1 - t) * 0.5 + t * 0.1


def triangle(e: float) -> float:
    epoch, share = int(e), e - int(e)
    t = ((epoch % 4) + share) / 4
    return 0.5 * (1 - 2 * t) + 0.1 * 2 * t if t < 0.5 else 0.5 * (2 * t - 1) + 0.1 * (2 - 2 * t)


def fast(e: float) -> float:
    while e >= 180:
        e -= 30
    return LR * 0.5 * (1 + math.cos(math.pi * e / 210))


MADE: dict[str, Callable[[torch.optim.Optimizer], Schedule]] = {
    "swa_paper": lambda o: schedules.swa_paper(o, swa_start=20, swa_lr=0.05),
    "constant": lambda o: schedules.constant(o, lr=0.07),
    "cyclical": lambda o: schedules.cyclical(o, lr_max=0.5, lr_min=0.1, cycle=5),
    "cyclical_cosine": lambda o: schedules.cyclical_cosine(o, lr_max=0.5, lr_min=0.1, cycle=5),
    "fge_triangle": lambda o: schedules.fge_triangle(o, lr_max=0.5, lr_min=0.1, cycle=4),
    "fast_swa": lambda o: schedules.fast_swa(o),
    "cosine": lambda o: schedules.cosine(o, epochs=400),
}
BY_HAND: dict[str, Callable[[int], float]] = {
    "swa_paper": swa_paper,
    "constant": lambda e: 0.07,
    "cyclical": saw_tooth,
    "cyclical_cosine": lambda e: 0.1 + 0.4 * 0.5 * (1 + math.cos(math.pi * (e % 5 + 1) / 5)),
    "fge_triangle": triangle,
    "fast_swa": fast,
    "cosine": lambda e: LR * 0.5 * (1 + math.cos(math.pi * e / 400)),
}
# Where the length of a step matters: the share of the cycle that is over after it.
IN_FRACTIONS: dict[str, Callable[[float, float], float]] = {
    "cyclical": lambda e, step: 0.5 - 0.4 * min(1.0, (e % 5 + step) / 5),
    "cyclical_cosine": lambda e, step: (
        0.1 + 0.4 * 0.5 * (1 + math.cos(math.pi * min(1.0, (e % 5 + step) / 5)))
    ),
}
# The epochs whose rate is the lowest of its cycle, by hand.
POINTS: dict[str, Callable[[int], bool]] = {
    "swa_paper": lambda e: e >= 20,
    "constant": lambda e: True,
    "cyclical": lambda e: e % 5 == 4,
    "cyclical_cosine": lambda e: e % 5 == 4,
    "fge_triangle": lambda e: e % 4 == 2,
    "fast_swa": lambda e: e >= 179 and e % 30 == 29,
    "cosine": lambda e: e == 400,
}


@pytest.mark.parametrize("name", MADE)
def test_every_step_is_the_formulas(name: str) -> None:
    opt = optimizer()
    schedule = MADE[name](opt)
    for epoch in range(300):
        assert rates_of(opt)[0] == pytest.approx(BY_HAND[name](epoch), rel=1e-12, abs=1e-15), epoch
        assert schedule.get_last_lr() == rates_of(opt)
        assert schedule.is_collection_point() == POINTS[name](epoch), epoch
        opt.step()
        schedule.step()


@pytest.mark.parametrize("name", ["cyclical", "cyclical_cosine", "fge_triangle", "fast_swa"])
def test_collection_points_are_where_the_rate_is_lowest(name: str) -> None:
    opt = optimizer()
    schedule = MADE[name](opt)
    seen = []
    for _ in range(240):
        seen.append((rates_of(opt)[0], schedule.is_collection_point()))
        opt.step()
        schedule.step()
    cycle = {"fge_triangle": 4, "fast_swa": 30}.get(name, 5)
    for start in range(180, 240, cycle):
        piece = seen[start : start + cycle]
        assert sum(point for _, point in piece) == 1
        assert all(rate == min(r for r, _ in piece) for rate, point in piece if point)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("batches", [3, 7, 10])
def test_fractional_epochs(name: str, batches: int) -> None:
    """step(epoch) sets the formula's rate at that epoch, whatever the order; each cycle has one point.

    The length of a step is not said anywhere: it follows from the calls, from the second one on.
    """
    opt = optimizer()
    schedule = MADE[name](opt)
    points = []
    for epoch in range(220):
        for batch in range(batches):
            position = epoch + batch / batches
            schedule.step(position)
            opt.step()
            assert schedule.last_epoch == position
            assert rates_of(opt) == schedule.rates(position)
            if schedule.is_collection_point():
                points.append(position)
            expected = IN_FRACTIONS.get(name, lambda e, _: BY_HAND[name](e))
            step = 1 / batches if position else 0.0
            assert rates_of(opt)[0] == pytest.approx(expected(position, step), rel=1e-9), position
    # The lowest rate is that of the last step, but for the triangle, which has it in mid-cycle.
    late = 0 if name in ("fge_triangle", "cosine") else 1 - 1 / batches
    assert points == pytest.approx([e + late for e in range(220) if POINTS[name](e)], abs=1e-9)
    schedule.step(0.5)  # back
    assert rates_of(opt) == schedule.rates(0.5)


@pytest.mark.parametrize("make", [schedules.cyclical, schedules.cyclical_cosine])
@pytest.mark.parametrize("batches", [1, 3, 7])
def test_cyclical_by_the_batch_ends_each_cycle_at_the_lowest_rate(
    make: Callable[..., Schedule], batches: int
) -> None:
    opt = optimizer()
    schedule = make(opt, lr_max=0.5, lr_min=0.1, cycle=4, steps_per_epoch=batches)
    seen = []
    for i in range(12 * batches):
        schedule.step(i / batches)
        opt.step()
        seen.append(rates_of(opt)[0])
        assert schedule.is_collection_point() == ((i + 1) % (4 * batches) == 0)
    t = [(i % (4 * batches) + 1) / (4 * batches) for i in range(12 * batches)]
    if make is schedules.cyclical:
        assert seen == pytest.approx([(1 - s) * 0.5 + s * 0.1 for s in t], rel=1e-9)
    assert min(seen) == pytest.approx(0.1, rel=1e-9)


@pytest.mark.parametrize("make", [schedules.cyclical, schedules.cyclical_cosine])
@pytest.mark.parametrize("cycle", [1, 2, 0.5])
def test_cyclical_by_the_batch_needs_no_word_about_it(make: Callable[..., Schedule], cycle: float) -> None:
    """The pinned call: each cycle comes down to lr_min in its last batch and nowhere else is flat."""
    opt, told = optimizer(), optimizer()
    schedule = make(opt, lr_max=0.5, lr_min=0.1, cycle=cycle)
    reference = make(told, lr_max=0.5, lr_min=0.1, cycle=cycle, steps_per_epoch=4)
    seen, expected, points = [], [], []
    for i in range(24):
        schedule.step(i // 4 + i % 4 / 4)
        reference.step(i // 4 + i % 4 / 4)
        opt.step(), told.step()
        seen.append(rates_of(opt)[0])
        expected.append(rates_of(told)[0])
        points.append(schedule.is_collection_point())
    assert seen[1:] == expected[1:] and seen[0] == 0.5
    n = int(4 * cycle)
    assert points == [i % n == n - 1 for i in range(24)]
    assert [i for i, rate in enumerate(seen) if rate == 0.1] == [i for i in range(24) if i % n == n - 1]


def test_how_many_steps_there_are_can_be_said_before_the_first() -> None:
    opt = optimizer()
    schedule = schedules.cyclical(opt, lr_max=0.5, lr_min=0.1, cycle=2)
    assert rates_of(opt) == pytest.approx([0.3]) and schedule.rates(1) == pytest.approx([0.1])
    schedule.stepped(4)
    assert rates_of(opt) == schedule.get_last_lr() == pytest.approx([0.45])
    assert schedule.rates(1.75) == [0.1] and schedule.rates(1) == pytest.approx([0.25])
    given = schedules.cyclical(opt, lr_max=0.5, lr_min=0.1, cycle=2, steps_per_epoch=2)
    given.stepped(4)
    assert rates_of(opt) == pytest.approx([0.4])  # the length it was made with stays
    with pytest.raises(swag.InputError, match="steps_per_epoch: got 0"):
        schedule.stepped(0)


def test_a_cycle_shorter_than_the_steps_is_an_error_and_not_a_flat_rate() -> None:
    opt = optimizer()
    schedule = schedules.cyclical(opt, lr_max=0.5, lr_min=0.1, cycle=0.5)
    before = schedule.state_dict()
    for call in (schedule.step, lambda: schedule.step(1), lambda: schedule.stepped(1)):
        with pytest.raises(swag.InputError, match=r"cycle: got 0\.5, which is shorter than a step of 1"):
            call()
    assert schedule.state_dict() == before


@pytest.mark.parametrize("epochs", [range(6), [0, 1.0, 2.0, 3.0, 4.0, 5.0], [np.int64(e) for e in range(6)]])
def test_whole_epochs_asked_for_one_after_another_are_steps_of_one_epoch(epochs: Any) -> None:
    opt = optimizer()
    schedule = MADE["cyclical"](opt)
    for epoch in epochs:
        schedule.step(epoch)
        opt.step()
        assert rates_of(opt)[0] == pytest.approx(saw_tooth(int(epoch)), rel=1e-12)
        assert schedule.is_collection_point() == (epoch == 4)


@pytest.mark.parametrize("name", ["constant", "swa_paper"])
def test_a_constant_rate_by_the_batch_collects_after_whole_epochs_of_it(name: str) -> None:
    opt = optimizer()
    schedule = MADE[name](opt)
    points = []
    for i in range(23 * 4):
        schedule.step(i // 4 + i % 4 / 4)
        opt.step()
        if schedule.is_collection_point():
            points.append(i)
    start = 20 if name == "swa_paper" else 0
    assert points == [4 * epoch + 3 for epoch in range(start, 23)]


def test_the_cosine_form_is_torchs_one_step_later() -> None:
    ours, theirs = optimizer(), optimizer(0.5)
    schedule = schedules.cyclical_cosine(ours, lr_max=0.5, lr_min=0.1, cycle=5)
    peer = CosineAnnealingWarmRestarts(theirs, T_0=5, eta_min=0.1)
    for epoch in range(15):
        theirs.step()
        peer.step()
        if (epoch + 1) % 5:
            assert rates_of(ours) == pytest.approx(rates_of(theirs), rel=1e-12)
        ours.step()
        schedule.step()


@pytest.mark.parametrize("cycle", [3, 5])
def test_an_odd_triangle_by_the_epoch_has_one_point_a_cycle(cycle: int) -> None:
    """The middle is never hit; the first step after it counts."""
    opt = optimizer()
    schedule = schedules.fge_triangle(opt, lr_max=0.5, lr_min=0.1, cycle=cycle)
    points = []
    for epoch in range(4 * cycle):
        if schedule.is_collection_point():
            points.append(epoch)
        opt.step()
        schedule.step()
    assert points == [k * cycle + cycle // 2 + 1 for k in range(4)]


def test_fast_swa_collects_every_few_epochs() -> None:
    opt = optimizer()
    schedule = schedules.fast_swa(opt, every=3)
    points = []
    for epoch in range(240):
        if schedule.is_collection_point():
            points.append(epoch)
        opt.step()
        schedule.step()
    assert points == list(range(150, 240, 3))


def test_fast_swa_several_times_an_epoch() -> None:
    opt = optimizer()
    schedule = schedules.fast_swa(opt, every=0.25)
    n = 0
    for i in range(148 * 8, 160 * 8):
        schedule.step(i / 8)
        n += schedule.is_collection_point()
    assert n == 40


def test_a_jump_counts_only_where_it_lands_on_a_point() -> None:
    schedule = MADE["fge_triangle"](optimizer())
    schedule.step(5.0)
    assert not schedule.is_collection_point()
    schedule.step(22.0)
    assert schedule.is_collection_point()
    schedule.step(2.0)  # backwards
    assert schedule.is_collection_point()


@pytest.mark.parametrize("epoch", [Fraction(5, 2), np.float64(2.5), np.int64(2), 2])
def test_epochs_of_other_kinds_of_number(epoch: Any) -> None:
    schedule = MADE["fge_triangle"](optimizer())
    schedule.step(epoch)
    assert schedule.get_last_lr() == schedule.rates(float(epoch))
    assert json.loads(json.dumps(schedule.state_dict()))["last_epoch"] == epoch


def test_rates_by_group() -> None:
    opt = optimizer(0.1, 0.4)
    schedules.swa_paper(opt, swa_start=10, swa_lr=[0.01, 0.2]).step(7)
    assert rates_of(opt) == pytest.approx([0.055, 0.3])
    schedules.cyclical(opt, lr_max=[0.5, 1.0], lr_min=0.1, cycle=2).step(1)
    assert rates_of(opt) == pytest.approx([0.1, 0.1])
    schedules.fge_triangle(opt, lr_max=[0.5, 1.0], lr_min=[0.1, 0.2], cycle=2).step(0.5)
    assert rates_of(opt) == pytest.approx([0.3, 0.6])
    schedules.constant(opt, lr=[0.3, 0.6]).step(1)
    assert rates_of(opt) == [0.3, 0.6]


def test_rates_that_are_tensors_stay_the_same_tensors() -> None:
    lr = torch.tensor(0.1, dtype=torch.float64)
    opt = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr, capturable=False, foreach=False)
    schedule = schedules.swa_paper(opt, swa_start=10, swa_lr=0.05)
    held = opt.param_groups[0]["lr"]
    schedule.step(7)
    assert opt.param_groups[0]["lr"] is held
    assert float(held) == pytest.approx(0.075)
    opt.step()
    schedule.step()
    assert opt.param_groups[0]["lr"] is held and float(held) == pytest.approx(0.0625)
    json.dumps(schedule.state_dict())


@pytest.mark.parametrize("name", MADE)
def test_a_state_through_json_goes_on_exactly(name: str) -> None:
    def run(opt: SGD, schedule: Schedule, start: int, stop: int) -> list[tuple[float, bool]]:
        seen = []
        for i in range(start, stop):
            opt.step()
            schedule.step(i / 3) if i % 2 else schedule.step()
            seen.append((rates_of(opt)[0], schedule.is_collection_point()))
        return seen

    opt = optimizer()
    schedule = MADE[name](opt)
    run(opt, schedule, 0, 9)
    state = json.loads(json.dumps({"opt": opt.state_dict(), "schedule": schedule.state_dict()}))
    expected = run(opt, schedule, 9, 60)

    fresh = optimizer()
    again = MADE[name](fresh)
    fresh.load_state_dict(state["opt"])
    again.load_state_dict(state["schedule"])
    assert again.state_dict() == state["schedule"]
    assert run(fresh, again, 9, 60) == expected


def test_a_state_brings_its_rates_along_as_torchs_do() -> None:
    one = schedules.cyclical(optimizer(), lr_max=0.5, lr_min=0.1, cycle=5)
    other = schedules.cyclical(optimizer(), lr_max=0.9, lr_min=0.2, cycle=3)
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    assert other.rates(4) == one.rates(4)


@pytest.mark.parametrize("name", MADE)
def test_inside_sequential_lr(name: str) -> None:
    """After three epochs of torch's warm-up ours begins at its own epoch 0; states go on exactly."""

    def build() -> tuple[SGD, SequentialLR, Schedule]:
        opt = optimizer()
        first: LRScheduler = LinearLR(opt, start_factor=0.1, total_iters=3)
        ours = MADE[name](opt)
        return opt, SequentialLR(opt, [first, ours], milestones=[3]), ours

    def run(opt: SGD, joined: SequentialLR, ours: Schedule, n: int) -> list[tuple[float, bool]]:
        seen = []
        for _ in range(n):
            seen.append((rates_of(opt)[0], ours.is_collection_point()))
            opt.step()
            joined.step()
        return seen

    opt, joined, ours = build()
    assert rates_of(opt) == pytest.approx([0.1 * LR])
    seen = run(opt, joined, ours, 30)
    assert [rate for rate, _ in seen[3:]] == pytest.approx([BY_HAND[name](e) for e in range(27)], rel=1e-12)
    assert [point for _, point in seen] == [False] * 3 + [POINTS[name](e) for e in range(27)]
    state = json.loads(json.dumps({"opt": opt.state_dict(), "joined": joined.state_dict()}))
    expected = run(opt, joined, ours, 30)
    opt, joined, ours = build()
    opt.load_state_dict(state["opt"])
    joined.load_state_dict(state["joined"])
    assert run(opt, joined, ours, 30) == expected


def test_first_in_sequential_lr() -> None:
    opt = optimizer()
    ours = schedules.cosine(opt, epochs=4)
    joined = SequentialLR(opt, [ours, schedules.constant(opt, lr=0.05)], milestones=[4])
    seen = []
    for _ in range(8):
        seen.append(rates_of(opt)[0])
        opt.step()
        joined.step()
    assert seen == pytest.approx([BY_HAND["cosine"](e * 100) for e in range(4)] + [0.05] * 4)


def test_torchs_swalr_after_the_papers_descent() -> None:
    opt = optimizer()
    joined = SequentialLR(
        opt,
        [schedules.cosine(opt, epochs=10), schedules.SWALR(opt, swa_lr=0.05, anneal_epochs=1)],
        milestones=[5],
    )
    for _ in range(8):
        opt.step()
        joined.step()
    assert rates_of(opt) == pytest.approx([0.05])


def test_groups_added_later_share_the_schedule() -> None:
    opt = optimizer()
    schedule = schedules.swa_paper(opt, swa_start=10, swa_lr=0.05)
    opt.step()
    schedule.step()
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4})
    for _ in range(6):
        opt.step()
        schedule.step()
    assert schedule.last_epoch == 7
    assert rates_of(opt) == pytest.approx([0.125, 0.225])  # halfway between each one's own rate and swa_lr
    assert len(schedule.shapes) == 2
    again = optimizer(LR, 0.4)
    resumed = schedules.swa_paper(again, swa_start=10, swa_lr=0.05)
    resumed.load_state_dict(schedule.state_dict())
    assert resumed.rates(7) == rates_of(opt)


def test_groups_added_to_a_schedule_of_own_rates_must_be_given_theirs() -> None:
    opt = optimizer(0.1, 0.4)
    schedule = schedules.swa_paper(opt, swa_start=10, swa_lr=[0.01, 0.02])
    opt.step()
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.8})
    before = schedule.state_dict()
    for step in (schedule.step, lambda: schedule.step(3.5)):
        with pytest.raises(swag.InputError, match="add_group"):
            step()
    assert schedule.state_dict() == before
    with pytest.raises(swag.InputError, match="swa_rate: this schedule has swa_lr, swa_start"):
        schedule.add_group(swa_rate=0.3)
    with pytest.raises(swag.InputError, match="swa_lr"):
        schedule.add_group(swa_lr=-1.0)
    schedule.add_group(swa_lr=0.04)
    schedule.step(10)
    assert rates_of(opt) == pytest.approx([0.01, 0.02, 0.04])


def test_beyond_the_end_nothing_changes() -> None:
    opt = optimizer()
    for schedule in (
        schedules.cosine(opt, epochs=3),
        schedules.cyclical(opt, lr_max=0.5, lr_min=0.1, cycle=2, epochs=3),
    ):
        for _ in range(3):  # the end itself is reached after the last epoch
            opt.step()
            schedule.step()
        before, rate = schedule.state_dict(), rates_of(opt)
        for step in (schedule.step, lambda s=schedule: s.step(3.5), lambda s=schedule: s.rates(4)):
            with pytest.raises(swag.InputError, match=r"got (4|3\.5), and this schedule ends at 3"):
                step()
        assert (schedule.state_dict(), rates_of(opt)) == (before, rate)


@pytest.mark.parametrize("epoch", [-1, -0.5, math.nan, math.inf, "3", True])
def test_epochs_that_are_none(epoch: Any) -> None:
    opt = optimizer()
    schedule = MADE["swa_paper"](opt)
    with pytest.raises(swag.InputError, match="epoch: got"):
        schedule.step(epoch)
    assert schedule.last_epoch == 0


@pytest.mark.parametrize(
    ("make", "arguments", "complaint"),
    [
        (schedules.swa_paper, {"swa_start": 0, "swa_lr": 0.1}, "swa_start: got 0"),
        (schedules.swa_paper, {"swa_start": 10, "swa_lr": -0.1}, "swa_lr: got -0.1"),
        (schedules.swa_paper, {"swa_start": 10, "swa_lr": [0.1, 0.2]}, "swa_lr: has 2 rates"),
        (schedules.swa_paper, {"swa_start": 10, "swa_lr": "0.1"}, "swa_lr: got '0.1'"),
        (schedules.swa_paper, {"swa_start": 10, "swa_lr": math.nan}, "swa_lr: got nan"),
        (schedules.swa_paper, {"swa_start": 10, "swa_lr": 0.1, "epochs": -1}, "epochs: got -1"),
        (schedules.constant, {"lr": None}, "lr: got None"),
        (schedules.cyclical, {"lr_max": 0.1, "lr_min": 0.2, "cycle": 4}, "lr_min: got 0.2, which is above"),
        (schedules.cyclical, {"lr_max": 0.2, "lr_min": 0.1, "cycle": -4}, "cycle: got -4"),
        (
            schedules.cyclical,
            {"lr_max": 0.2, "lr_min": 0.1, "cycle": 0.5, "steps_per_epoch": 1},
            "shorter than a step",
        ),
        (
            schedules.cyclical_cosine,
            {"lr_max": 0.2, "lr_min": 0.1, "cycle": 4, "steps_per_epoch": 0},
            "steps_per_epoch: got 0",
        ),
        (schedules.fge_triangle, {"lr_max": 0.2, "lr_min": math.inf, "cycle": 4}, "lr_min: got inf"),
        (schedules.fast_swa, {"first_end": 220}, "first_end: got 220"),
        (schedules.fast_swa, {"every": 0}, "every: got 0"),
        (schedules.cosine, {"epochs": 0}, "epochs: got 0"),
    ],
)
def test_bad_settings(make: Callable[..., Schedule], arguments: dict[str, Any], complaint: str) -> None:
    opt = optimizer()
    with pytest.raises(swag.InputError, match=complaint):
        make(opt, **arguments)
    assert rates_of(opt) == [LR]


def test_what_is_no_optimizer() -> None:
    with pytest.raises(swag.InputError, match="optimizer: got a Linear"):
        schedules.constant(torch.nn.Linear(1, 1), lr=0.1)  # type: ignore[arg-type]


def test_states_that_do_not_fit() -> None:
    schedule = MADE["swa_paper"](optimizer())
    before = schedule.state_dict()
    damaged = {key: value for key, value in before.items() if key != "shapes"}
    for state, complaint in [
        ({}, "pass what state_dict"),
        (MADE["cyclical"](optimizer()).state_dict(), "kind 'saw_tooth'"),
        (MADE["swa_paper"](optimizer(0.1, 0.2)).state_dict(), "has 2 parameter groups"),
        (damaged, "damaged"),
        ({**before, "shapes": [{"swa_start": 10}]}, "damaged"),
        ({**before, "shapes": []}, "damaged: 'shapes'"),
        ({**before, "last_epoch": "x"}, "damaged: 'last_epoch'"),
        ({**before, "last_epoch": math.nan}, "damaged: 'last_epoch'"),
        ({**before, "previous_epoch": None}, "damaged: 'previous_epoch'"),
        ({**before, "base_lrs": []}, "damaged: 'base_lrs'"),
        ({**before, "base_lrs": ["0.1"]}, "damaged: 'base_lrs'"),
        ({**before, "base_lrs": [0.1, 0.2]}, "damaged: 'base_lrs'"),
        ({**before, "last_lr": [math.inf]}, "damaged: 'last_lr'"),
        ({**before, "step_count": -1}, "damaged: 'step_count'"),
        ({**before, "stride": 2.0}, "damaged: 'stride'"),
        ({**before, "epochs": -3}, "epochs: got -3"),
    ]:
        with pytest.raises(swag.InputError, match=complaint):
            schedule.load_state_dict(state)
    assert schedule.state_dict() == before


def test_torchs_order_warning_still_comes() -> None:
    schedule = MADE["swa_paper"](optimizer())
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        schedule.step()


def test_the_pure_functions_are_what_the_schedules_set() -> None:
    """What one plots is what one trains with."""
    opt = optimizer()
    for epoch in (0.0, 3.25, 9.0, 12.5, 18.01, 40.0):
        assert MADE["swa_paper"](opt).rates(epoch) == [
            rates.swa_paper(epoch, lr=LR, swa_start=20, swa_lr=0.05)
        ]
        assert MADE["fge_triangle"](opt).rates(epoch) == [
            rates.triangle(epoch, lr_max=0.5, lr_min=0.1, cycle=4)
        ]


def test_a_schedule_says_what_it_is() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = swag.schedules.swa_paper(optimizer, swa_start=10, swa_lr=0.05)
    schedule.step(2.5)
    assert repr(schedule) == "Schedule(SWAPaper(swa_start=10, swa_lr=0.05), now at epoch 2.5)"
