"""The loop behind every trainer here: epochs of steps, snapshots where they are due, a state that resumes.

A little longer than the house likes: it is one class, and what could be taken out of it lies in `resuming`.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any, final

from torch import nn

from swag.batches import device_of, length
from swag.errors import InputError
from swag.progress import track
from swag.training.callbacks import Callback, Epoch, Step, StepCallback, Stop
from swag.training.checkpoint_files import CheckpointFile
from swag.training.every_step import EveryStep
from swag.training.losses import DivergedError, EpochLosses
from swag.training.model_state import (
    check_model_state,
    first_bad_name,
    infinite_from_the_start,
    load_model_state_,
    model_state,
)
from swag.training.objective import Objective
from swag.training.points import When
from swag.training.random_states import put_random_states_, random_states, tell_epoch
from swag.training.resuming import changed_settings, parts_of, put_parts_
from swag.training.settings import modes_kept
from swag.training.snapshots import Store
from swag.training.statistics import StatisticsAside
from swag.training.steps import Steps

_log = logging.getLogger(__name__)


@final
class Loop:
    """One training run: goes from epoch to epoch, and can be written down between two of them.

    Args:
        model: trained in place.
        loader: batches; read once an epoch.
        objective: what is minimised.
        steps: how.
        store: takes the snapshots.
        when: when they are due.
        epochs: of the whole run.
        validation: held-out batches for the loss after every epoch.
        callbacks: called after every epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        objective: Objective,
        steps: Steps,
        *,
        store: Store,
        when: When,
        epochs: int,
        validation: Iterable[Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.model, self.loader, self.objective, self.steps = model, loader, objective, steps
        self.store, self.when, self.epochs = store, when, epochs
        self.validation, self.callbacks = validation, tuple(callbacks)
        self.history: list[dict[str, Any]] = []
        self._epoch, self._step = 0, 0
        self._position = Fraction(0)
        self._stop: str | None = None
        self._device = device_of(model)
        self._loaders = [loader] if validation is None else [loader, validation]
        self._meant = infinite_from_the_start(model)
        self._statistics = StatisticsAside(model, self._device)
        self._after_steps = [callback for callback in self.callbacks if isinstance(callback, StepCallback)]

    def begin(self, checkpoint: CheckpointFile | None) -> None:
        """Goes to where the checkpoint was written, where there is one; otherwise writes it.

        Raises:
            InputError: it belongs to another run; nothing was changed.
            FileError: it cannot be read or written.
        """
        if checkpoint is None:
            return
        state = checkpoint.read()
        if state is None:
            checkpoint.write(self.state_dict())  # what cannot be written shows before the first epoch
            return
        differences = changed_settings(self.steps, state)
        self.load_state_dict(state)
        for text in differences:
            _log.warning("%s: %s; the checkpoint's wins", checkpoint.path, text)
        _log.info("%s: goes on after epoch %d of %d", checkpoint.path, self._epoch, self.epochs)

    def run(self, checkpoint: CheckpointFile | None = None, checkpoint_every: int = 1) -> None:
        """Trains to the end, or until a callback says `Stop`.

        Raises:
            DivergedError: the loss is NaN or infinite; the checkpoint is still the last good one.
        """
        while self._epoch < self.epochs and self._stop is None:
            try:
                self._run_epoch()
            except DivergedError as error:
                if checkpoint is not None:
                    error.add_note(f"{checkpoint.path} still holds the last good state.")
                self.steps.optimizer.zero_grad(set_to_none=True)
                raise
            last = self._epoch == self.epochs or self._stop is not None
            if checkpoint is not None and (self._epoch % checkpoint_every == 0 or last):
                checkpoint.write(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, and plain data."""
        return {
            "epoch": self._epoch,
            "step": self._step,
            "model": model_state(self.model),
            **parts_of(self.steps, self._loaders),
            "store": self.store.state_dict(),
            "random": random_states(self._device),
            "callbacks": [_state_of(callback) for callback in self.callbacks],
            "history": copy.deepcopy(self.history),
            "stopped": self._stop,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over `state_dict()` of a run that was set up in the same way.

        Raises:
            InputError: it belongs to another model, optimizer or number of callbacks; nothing was changed.
        """
        check_model_state(self.model, state["model"])
        if len(state["callbacks"]) != len(self.callbacks):
            raise InputError(
                f"callbacks: got {len(self.callbacks)}, the checkpoint was written with "
                f"{len(state['callbacks'])}; pass the same ones in the same order"
            )
        before = {"store": self.store.state_dict(), **parts_of(self.steps, self._loaders)}
        before["callbacks"] = copy.deepcopy([_state_of(callback) for callback in self.callbacks])
        try:
            self._put_parts(state)
        except Exception:
            self._put_parts(before)
            raise
        load_model_state_(self.model, state["model"])
        self.history = copy.deepcopy(state["history"])
        self._epoch, self._step, self._stop = state["epoch"], state["step"], state.get("stopped")
        self._position = Fraction(self._epoch)
        put_random_states_(state["random"], self._device)

    def _put_parts(self, state: Mapping[str, Any]) -> None:
        self.store.load_state_dict(state["store"])
        put_parts_(self.steps, self._loaders, state)
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            if own is not None:
                callback.load_state_dict(own)  # type: ignore[attr-defined]

    def _run_epoch(self) -> None:
        number = self._epoch + 1
        losses = EpochLosses(number)
        n = length(self.loader)
        n_steps = None if n is None else -(-n // self.steps.accumulate)
        tell_epoch(self.loader, self._epoch)
        batches = track(self.loader, f"epoch {number}/{self.epochs}", total=n)
        if isinstance(self.steps.schedule, EveryStep):
            self.steps.schedule.begin(n_steps)
        for index, group in enumerate(_groups(batches, self.steps.accumulate), start=1):
            self._statistics.keep()
            try:
                self.steps.take(self.model, self.objective, group, losses, self._step + 1)
            except DivergedError:
                self._statistics.put_back()
                raise
            self._step += 1
            if self._after_steps:
                self._tell_step(number, index, n_steps)
            # The last step of an epoch is counted below: a loader's length is a promise, not always kept.
            if n_steps is not None and index < n_steps:
                self._move_to(self._epoch + Fraction(index, n_steps), losses)
        mean = losses.mean
        if not losses.n_rows:
            raise InputError(
                f"train_loader: gave no rows in epoch {number}; pass a loader that can be read once an epoch"
            )
        self._check_weights(number)  # or the checkpoint would be the first of the bad ones
        self._epoch = number
        rates = tuple(float(group["lr"]) for group in self.steps.optimizer.param_groups)
        self._move_to(Fraction(number), losses)
        if self.steps.schedule is not None and not isinstance(self.steps.schedule, EveryStep):
            self.steps.schedule.step()
        self._report(mean, rates)

    def _tell_step(self, number: int, index: int, n_steps: int | None) -> None:
        part = 0.0 if n_steps is None else min(1.0, index / n_steps)
        step = Step(self._step, self._epoch + part, self.model, self.steps.optimizer)
        try:
            for callback in self._after_steps:
                callback.after_step(step)
        except InputError:
            self._check_weights(number)  # says more than an average that refuses them
            raise

    def _move_to(self, position: Fraction, losses: EpochLosses) -> None:
        """Takes a snapshot where one became due on the way, and sets the rates for what follows."""
        if self.when.due(self._position, position):
            losses.settle()  # weights of a step whose loss was not a number must not be averaged
            self._check_weights(math.ceil(position))
            self.store.collect(self.model)
        if isinstance(self.steps.schedule, EveryStep):
            self.steps.schedule.move_to(position)
        self._position = position

    def _check_weights(self, number: int) -> None:
        """Raises DivergedError where the last step made a weight NaN or infinite."""
        name = first_bad_name(self.model, self._meant)
        if name is not None:
            raise DivergedError(
                f"model: '{name}' holds NaN or infinite values after step {self._step} (epoch {number}); "
                "lower the rate, or clip the gradients (clip_norm=1.0)",
                epoch=number,
                step=self._step,
                loss=math.nan,
            )

    def _report(self, loss: float, rates: tuple[float, ...]) -> None:
        validation_loss = None
        if self.validation is not None:
            validation_loss = self.objective.mean_over(self.model, self.validation)
        epoch = Epoch(
            number=self._epoch,
            of=self.epochs,
            step=self._step,
            loss=loss,
            validation_loss=validation_loss,
            rates=rates,
            n_collected=self.store.n_collected,
            model=self.model,
            optimizer=self.steps.optimizer,
        )
        self.history.append(epoch.row())
        _log.info("epoch %d of %d: loss %.4g, %d snapshots", epoch.number, epoch.of, loss, epoch.n_collected)
        with modes_kept(self.model):
            answers = [callback(epoch) for callback in self.callbacks]  # all are told, whoever says stop
        for answer in answers:
            if isinstance(answer, Stop) or answer is Stop:
                self._stop = answer.reason if isinstance(answer, Stop) else Stop().reason
                _log.info("stops after epoch %d of %d: %s", epoch.number, epoch.of, self._stop)


def _groups(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` batches; the last may be shorter."""
    while group := list(islice(batches, size)):
        yield group


def _state_of(callback: Any) -> Any:
    has_state = hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict")
    return callback.state_dict() if has_state else None
