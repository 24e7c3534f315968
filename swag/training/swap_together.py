"""Phase 1 of SWAP: all workers step together on large batches, until the training accuracy is reached."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from swag.batches import device_of
from swag.errors import InputError
from swag.progress import track
from swag.training.callbacks import Callback, Epoch
from swag.training.every_step import EveryStep
from swag.training.losses import DivergedError, EpochLosses
from swag.training.model_state import first_bad_name
from swag.training.objective import Objective, n_rows
from swag.training.settings import optimizer_for, schedule_for
from swag.training.steps import Steps
from swag.training.swap_checkpoints import SwapFiles
from swag.training.swap_phases import Count, LargeBatch
from swag.training.swap_rows import TOGETHER, MakeLoader, Pieces, seed_for
from swag.training.swap_workers import Workers

_log = logging.getLogger(__name__)
_NUMPY_SEEDS = 1 << 32


@final
@dataclass(frozen=True)
class Together:
    """What the workers share in phase 1.

    Attributes:
        phase: the large batch.
        objective: what is minimised.
        n_right: n_right(outputs, targets) → rows that are right.
        workers: who they are.
        seed: of the order of rows, and of every worker's random numbers.
        clip_norm: the largest norm of the large batch's gradient; None for no limit.
        callbacks: called with an `Epoch` after every epoch, on every process.
        files: where it goes on after a crash.
    """

    phase: LargeBatch
    objective: Objective
    n_right: Count
    workers: Workers
    seed: int
    clip_norm: float | None
    callbacks: Sequence[Callback]
    files: SwapFiles

    def run(
        self, model: nn.Module, dataset: Any, rows: int, make_loader: MakeLoader
    ) -> tuple[list[nn.Module], list[dict[str, Any]]]:
        """Trains the model in place.

        Returns:
            One model for each worker here, the first of them `model`: with the same parameters, and with
            buffers of their own, such as batch-norm statistics; and one row an epoch.

        Raises:
            DivergedError: the loss is NaN or infinite, on every process alike.
            InputError: a loader gave fewer batches than it was told to.
        """
        phase, mine = self.phase, self.workers.mine
        optimizer = optimizer_for(model, phase.optimizer)
        schedule = None if phase.schedule is None else schedule_for(optimizer, phase.schedule)
        shared = {id(parameter): parameter for parameter in model.parameters()}
        replicas = [model, *(copy.deepcopy(model, dict(shared)) for _ in mine[1:])]
        pieces = [Pieces(rows, phase.size, worker, self.workers.n, self.seed) for worker in mine]
        loaders = [make_loader(dataset, own) for own in pieces]
        gradient = _Gradient(model)
        moved = Steps(optimizer, schedule)
        history = self.files.resume_(replicas, loaders, moved)
        step, n_steps = history[-1]["step"] if history else 0, len(pieces[0])
        if history and history[-1]["accuracy"] >= phase.target_accuracy:
            return replicas, history
        for number in range(len(history) + 1, phase.max_epochs + 1):
            losses: EpochLosses = EpochLosses(number)
            right: Tensor | int = 0
            if isinstance(schedule, EveryStep):
                schedule.begin(n_steps)
            iterators = []
            for worker, own, loader in zip(mine, pieces, loaders, strict=True):
                own.set_epoch(number - 1)
                self._seed(model, worker, (number, 0))
                iterators.append(iter(loader))
            for index in track(range(n_steps), f"large batch, epoch {number}", total=n_steps):
                step += 1
                in_all = pieces[0].rows_in(index)
                self._differentiate(gradient, replicas, iterators, in_all, (number, index + 1))
                losses.add(step, gradient.loss, in_all)
                right = right + gradient.n_right
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
                optimizer.step()
                rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
                if isinstance(schedule, EveryStep):
                    schedule.move_to(number - 1 + Fraction(index + 1, n_steps))
            if schedule is not None and not isinstance(schedule, EveryStep):
                schedule.step()
            mean = losses.mean
            # Parameters are everyone's, buffers a worker's own: one may be bad where the others are not.
            self.workers.alike("model", partial(_check_weights, replicas, number, step), lambda _: [])
            accuracy = float(right) / losses.n_rows
            history.append(
                {
                    "phase": "large",
                    "worker": None,
                    "epoch": number,
                    "step": step,
                    "loss": mean,
                    "accuracy": accuracy,
                    "rates": list(rates),
                }
            )
            _log.info("large batch, epoch %d: loss %.4g, accuracy %.4f", number, mean, accuracy)
            told = Epoch(number, phase.max_epochs, step, mean, None, rates, 0, model, optimizer)
            for callback in self.callbacks:
                callback(told)
            self.files.write(replicas, loaders, moved, history)
            if accuracy >= phase.target_accuracy:
                return replicas, history
        if phase.target_accuracy <= 1:
            _log.warning(
                "the training accuracy was %.4f after max_epochs=%d, below target_accuracy=%g; going on",
                history[-1]["accuracy"],
                phase.max_epochs,
                phase.target_accuracy,
            )
        return replicas, history

    def _differentiate(
        self,
        gradient: _Gradient,
        replicas: list[nn.Module],
        iterators: list[Iterator[Any]],
        in_all: int,
        at: tuple[int, int],
    ) -> None:
        """The gradient of a large batch of `in_all` rows, from all workers, put where the optimizer looks."""
        gradient.clear_()
        for worker, replica, iterator in zip(self.workers.mine, replicas, iterators, strict=True):
            self._seed(replica, worker, at)
            gradient.add_(*self._piece(replica, iterator, in_all))
        self.workers.total_(gradient.buffer)
        gradient.write_()

    def _piece(
        self, model: nn.Module, batches: Iterator[Any], in_all: int
    ) -> tuple[nn.Module, Tensor, Tensor]:
        """Gradients of a worker's share in the large batch's mean loss; the share, and its right answers."""
        batch = next(batches, None)
        if batch is None:
            raise InputError(
                "make_loader: its loader gave fewer batches than it was told to; read every list of rows in "
                "`batches`, as DataLoader(dataset, batch_sampler=batches) does"
            )
        counted: list[Tensor] = []

        def loss(outputs: Any, targets: Any) -> Tensor:
            with torch.no_grad():
                counted.append(self.n_right(outputs, targets))
            return self.objective.loss(outputs, targets)

        for parameter in model.parameters():
            parameter.grad = None
        value = replace(self.objective, loss=loss)(model, batch) * (n_rows(batch) / in_all)
        value.backward()
        return model, value.detach(), counted[0]

    def _seed(self, model: nn.Module, worker: int, at: tuple[int, int]) -> None:
        """Starts the global generators anew for (epoch, step), so that workers can take turns."""
        seed, device = seed_for(self.seed, TOGETHER, worker, *at), device_of(model)
        torch.random.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % _NUMPY_SEEDS)


@final
class _Gradient:
    """A large batch's gradient as one vector, with what else the workers must know: one message a step.

    [gradient (D,), for each parameter how many workers used it, loss, right answers]
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        wide = any(parameter.dtype == torch.float64 for parameter in self._parameters)
        sizes = [parameter.numel() for parameter in self._parameters]
        self.buffer = torch.zeros(
            sum(sizes) + len(sizes) + 2,
            dtype=torch.float64 if wide else torch.float32,
            device=self._parameters[0].device,
        )
        parts = self.buffer[: sum(sizes)].split(sizes)
        self._views = [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]
        self._used = self.buffer[sum(sizes) : -2]
        self._missed: set[int] = set()

    @property
    def loss(self) -> Tensor:
        return self.buffer[-2].clone()

    @property
    def n_right(self) -> Tensor:
        return self.buffer[-1].double()

    def clear_(self) -> None:
        self.buffer.zero_()
        self._missed.clear()

    def add_(self, model: nn.Module, loss: Tensor, n_right: Tensor) -> None:
        """Takes in what a worker's backward pass has left at the parameters."""
        self._used += 1
        grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        for index, (view, grad) in enumerate(zip(self._views, grads, strict=True)):
            if grad is not None:
                view.add_(grad)
            else:
                self._used[index] -= 1
                self._missed.add(index)
        self.buffer[-2] += loss
        self.buffer[-1] += n_right

    def write_(self) -> None:
        """Puts the sums where the optimizer looks; nothing for a parameter that no worker used."""
        for index, (parameter, view) in enumerate(zip(self._parameters, self._views, strict=True)):
            # Only what was missed here can have been missed by all: the others need no look at the device.
            unused = index in self._missed and not self._used[index]
            parameter.grad = None if unused else view.to(parameter.dtype)


def _check_weights(models: list[nn.Module], epoch: int, step: int) -> None:
    name = next((name for model in models if (name := first_bad_name(model)) is not None), None)
    if name is not None:
        raise DivergedError(
            f"model: '{name}' holds NaN or infinite values after step {step} of the large batches (epoch "
            f"{epoch}); lower the rate, or clip the gradients (clip_norm=1.0)",
            epoch=epoch,
            step=step,
            loss=float("nan"),
        )
