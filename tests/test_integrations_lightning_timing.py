"""When the callback begins, collects and lowers the rate, as plain numbers."""

import pytest

pytest.importorskip("lightning.pytorch")

from swag.errors import InputError
from swag.integrations.lightning.progress import Progress, check_same
from swag.integrations.lightning.rates import Rates
from swag.integrations.lightning.timing import Steps, Timing, timing_of


def points(timing, epochs=8, steps_per_epoch=5):
    """(steps due, epochs due) of a run, from 0."""
    steps, ends = [], []
    for epoch in range(epochs):
        for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
            timing.look(epoch, step)
            steps += [step] if timing.due_after_step(step) else []
        ends += [epoch] if timing.due_after_epoch(epoch) else []
    return steps, ends


@pytest.mark.parametrize(
    ("start", "every", "expected"),
    [
        (0, 1, ([], list(range(8)))),
        (3, 1, ([], [3, 4, 5, 6, 7])),
        (3, 2, ([], [4, 6])),
        (8, 1, ([], [])),
        (Steps(12), 1, ([], [2, 3, 4, 5, 6, 7])),  # it begins in the middle of epoch 2
        (Steps(12), Steps(10), ([21, 31], [])),
        (6, Steps(4), ([33, 37], [])),
        (0, Steps(15), ([14, 29], [])),
    ],
)
def test_points(start, every, expected):
    assert points(Timing(start, every, 0)) == expected


@pytest.mark.parametrize(
    ("start", "anneal", "place", "expected"),
    [
        (4, 0, (3.9, 0), 0.0),
        (4, 0, (4.0, 0), 1.0),
        (4, 2, (2.0, 0), 0.0),
        (4, 2, (3.5, 0), 0.75),
        (4, 8, (0.0, 0), 0.5),  # longer than there is: it begins on the way
        (Steps(100), Steps(50), (0.0, 75), 0.5),
        (Steps(100), Steps(50), (9.0, 100), 1.0),
    ],
)
def test_share(start, anneal, place, expected):
    assert Timing(start, 1, anneal).share(*place) == pytest.approx(expected)


def test_once_begun_the_way_is_over_where_a_longer_run_begins_later():
    timing = Timing(6, 1, 2)
    timing.began = (3, 30)  # 0.75 of 4 epochs; now it is 0.75 of 8
    assert timing.share(4.0, 40) == 1.0


@pytest.mark.parametrize(
    ("start", "epochs", "steps", "expected"),
    [
        (0.75, 8, -1, 6),
        (0.7, 9, -1, 6),
        (0.29, 100, -1, 29),
        (0.5, 8, 100, 4),
        (0.5, None, 100, Steps(50)),
        (0.5, -1, 100, Steps(50)),
        (5, -1, -1, 5),
        (Steps(7), 8, -1, Steps(7)),
    ],
)
def test_where_a_fraction_begins(start, epochs, steps, expected):
    assert timing_of(start, 1, 0, epochs, steps).start == expected


def test_a_fraction_of_what_has_no_end():
    with pytest.raises(InputError, match="fraction of a run without end"):
        timing_of(0.5, 1, 0, -1, -1)


def test_rates_remember_where_the_way_began():
    groups = [{"lr": 0.1}, {"lr": 0.2}]
    rates = Rates(0.02)
    rates.set_(groups, 0.0)
    assert rates.before is None and [g["lr"] for g in groups] == [0.1, 0.2]
    rates.set_(groups, 0.5)
    groups[0]["lr"] = 9.0  # as a scheduler would
    rates.set_(groups, 0.75)
    assert [g["lr"] for g in groups] == pytest.approx([0.04, 0.065])
    rates.set_(groups, 1.0)
    assert [g["lr"] for g in groups] == [0.02, 0.02]


def test_progress_goes_on_from_its_state():
    first = Progress(Timing(1, 1, 0))
    first.timing.look(1, 5)
    assert list(first.new_steps(3)) == [0, 1, 2] and list(first.new_steps(3)) == []
    assert not first.ends_epoch(0, last_batch=False)
    assert first.ends_epoch(0, last_batch=True) and not first.ends_epoch(0, last_batch=True)
    first.collected(3)
    again = Progress.from_state(Timing(1, 1, 0), first.state())
    assert again.state() == first.state() and again.timing.began == (1, 5)
    assert not again.moved(3) and again.moved(4)
    assert list(again.new_steps(5)) == [3, 4]


@pytest.mark.parametrize("state", [{}, {"began": 3}, {"began": None, "looked_step": None}])
def test_a_damaged_progress(state):
    with pytest.raises(InputError, match="or damaged"):
        Progress.from_state(Timing(1, 1, 0), state)


def test_settings_that_changed():
    check_same({"rank": 3, "more": 1}, {"rank": 3})
    with pytest.raises(InputError, match="rank: the checkpoint was saved with 3 and this callback has 4"):
        check_same({"rank": 3}, {"rank": 4})
    with pytest.raises(InputError, match="every: the checkpoint was saved with None"):
        check_same({}, {"every": 1})
