"""Callbacks: what they may do to the model's modes, how they end a run, and averages after every step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swag import InputError
from swag.training import (
    EMA,
    CollectInto,
    DivergedError,
    Epoch,
    NonMonotonicTrigger,
    RunningAverage,
    Step,
    Stop,
    fge,
    train,
)
from tests.training_cases import batches, network, same


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def run(model: nn.Module, *callbacks: Any, epochs: int = 4, **arguments: Any) -> Any:
    settings = {"swa_start": 0.5, "optimizer": sgd, **arguments}
    return train(model, batches(), F.cross_entropy, epochs=epochs, callbacks=callbacks, **settings)


def evaluate(epoch: Epoch) -> None:
    epoch.model.eval()


def evaluate_and_go_back(epoch: Epoch) -> None:
    epoch.model.eval()
    epoch.model.train()


@pytest.mark.parametrize("callback", [evaluate, evaluate_and_go_back])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_callback_that_evaluates_changes_nothing(callback: Any, frozen: bool) -> None:
    def model() -> nn.Module:
        made = network(dropout=0.3)
        made[1].train(not frozen)
        return made

    mine, theirs = model(), model()
    torch.manual_seed(0)
    found = run(mine, callback)
    torch.manual_seed(0)
    expected = run(theirs)
    same(mine.state_dict(), theirs.state_dict())
    assert found.history == expected.history
    assert mine.training and mine[1].training is not frozen


def test_a_layer_that_a_callback_freezes_stays_frozen() -> None:
    seen: list[Tensor] = []

    def freeze(epoch: Epoch) -> None:
        if epoch.number == 2:
            epoch.model[1].eval()
        seen.append(epoch.model[1].running_mean.clone())

    run(network(), freeze, epochs=4)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2]) and torch.equal(seen[2], seen[3])


@pytest.mark.parametrize("answer", [Stop("enough"), Stop])
def test_a_callback_ends_the_run(answer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []

    def stop(epoch: Epoch) -> Any:
        return answer if epoch.number == 3 else None

    path = tmp_path / "run.pt"
    with caplog.at_level("INFO", "swag"):
        found = run(network(), stop, lambda epoch: told.append(epoch.number), epochs=6, checkpoint=path)
    assert told == [1, 2, 3] and len(found.history) == 3 and "stops after epoch 3 of 6" in caplog.text
    resumed = run(network(1), stop, lambda epoch: told.append(epoch.number), epochs=6, checkpoint=path)
    assert told == [1, 2, 3] and resumed.history == found.history
    same(resumed.model.state_dict(), found.model.state_dict())


def test_what_else_a_callback_returns_does_not_end_the_run() -> None:
    assert len(run(network(), lambda epoch: True, lambda epoch: "stop").history) == 4


def test_fge_ends_too() -> None:
    settings = {"lr_max": 0.1, "lr_min": 0.01, "cycle": 2, "n_snapshots": 4}
    found = fge(network(), batches(), F.cross_entropy, callbacks=[lambda epoch: Stop()], **settings)
    assert len(found.history) == 1


def test_an_average_of_every_step_is_that_kept_by_hand() -> None:
    model, other = network(), network()
    ema, expected = RunningAverage(model, EMA(0.8)), RunningAverage(other, EMA(0.8))
    steps: list[Step] = []

    class Watch:
        def __call__(self, epoch: Epoch) -> None: ...

        def after_step(self, step: Step) -> None:
            steps.append(step)

    run(model, CollectInto(ema, start=0.5, every_steps=1), Watch(), epochs=2, swa_start=0, swa_lr=0.1)
    optimizer = sgd(list(other.parameters()))
    for index, (x, y) in enumerate([*batches(), *batches()], start=1):
        optimizer.zero_grad()
        F.cross_entropy(other(x), y).backward()
        optimizer.step()
        if index > 2:  # four steps an epoch; after the first half of one
            expected.collect(other)
    assert ema.n_collected == 6 and torch.equal(ema.mean, expected.mean)
    assert [(s.number, s.epoch) for s in steps] == [(i, i / 4) for i in range(1, 9)]

    third = RunningAverage(model)
    run(network(), CollectInto(third, every_steps=3), epochs=2)
    assert third.n_collected == 2


class StopAt:
    """Ends the process, not the run: an exception, before the checkpoint is written."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __call__(self, epoch: Epoch) -> None:
        if epoch.number == self.number:
            raise KeyboardInterrupt


@pytest.mark.parametrize("every_steps", [None, 1])
def test_a_trigger_begins_the_average_and_both_are_in_the_checkpoint(
    every_steps: int | None, tmp_path: Path
) -> None:
    def go(path: Path, stop: int | None) -> tuple[RunningAverage, NonMonotonicTrigger, Any]:
        model = network()
        average, trigger = RunningAverage(model, EMA(0.7)), NonMonotonicTrigger(patience=1)
        into = CollectInto(average, every_steps=every_steps, trigger=trigger)
        held_out = [(x, (y + 1) % 3) for x, y in batches(20)]  # whose loss rises as training goes on
        result = run(model, into, StopAt(stop), epochs=7, validation=held_out, checkpoint=path)
        return average, trigger, result

    whole, trigger, result = go(tmp_path / "whole.pt", None)
    losses = [row["validation_loss"] for row in result.history]
    expected = NonMonotonicTrigger(patience=1)
    on = [expected.observe(loss) for loss in losses]
    assert 0 < sum(on) < 7 and trigger.triggered
    # After epochs the snapshot of the very epoch counts; after steps those of the epochs that follow.
    assert whole.n_collected == (sum(on) if every_steps is None else 4 * sum(on[:-1]))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut.pt", 5)
    resumed, again, _ = go(tmp_path / "cut.pt", None)
    assert torch.equal(resumed.mean, whole.mean) and again.state_dict() == trigger.state_dict()


def test_weights_that_are_ruined_are_told_of_as_a_divergence() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        root_of_zero = (outputs - outputs.detach()).sum().abs().sqrt()  # a finite value, an infinite slope
        return F.cross_entropy(outputs, targets) + root_of_zero

    model = network()
    into = CollectInto(RunningAverage(model), every_steps=1)
    with pytest.raises(DivergedError, match="after step 1"):
        train(model, batches(), loss, epochs=2, swa_start=0, callbacks=[into])
    assert into.average.n_collected == 0


def test_collect_into_refuses() -> None:
    average = RunningAverage(network())
    for arguments, names in (
        ({"average": 3}, "average"),
        ({"start": -1}, "start"),
        ({"every_steps": 0}, "every_steps"),
        ({"every_steps": 1.5}, "every_steps"),
        ({"trigger": 3}, "trigger"),
    ):
        with pytest.raises(InputError, match=names):
            CollectInto(**{"average": average, **arguments})  # type: ignore[arg-type]
    triggered = CollectInto(average, trigger=NonMonotonicTrigger())
    with pytest.raises(InputError, match="validation="):
        run(network(), triggered)
    for state in ({}, CollectInto(average).state_dict()):
        with pytest.raises(InputError, match="state"):
            triggered.load_state_dict(copy.deepcopy(state))
