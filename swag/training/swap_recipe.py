"""SWAP: train together on large batches, go on alone on small ones, average."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from swag.batches import Forward, check_loader, device_of
from swag.batchnorm import refresh_batchnorm_
from swag.errors import InputError
from swag.noise import checked_seed
from swag.parameters import Layout
from swag.posterior import Empirical
from swag.progress import silent
from swag.training.callbacks import Callback
from swag.training.objective import Loss, Objective, Target, feed, second
from swag.training.random_states import lent_to
from swag.training.settings import optimizer_for, train_mode
from swag.training.swap_alone import Alone
from swag.training.swap_checkpoints import SwapFiles, settings_of_phase
from swag.training.swap_phases import Count, LargeBatch, SmallBatch, top_1
from swag.training.swap_result import SwapResult, mean_of
from swag.training.swap_rows import (
    STATISTICS,
    MakeLoader,
    checked_length,
    default_loader,
    in_order,
    seed_for,
)
from swag.training.swap_together import Together
from swag.training.swap_workers import SimulatedWorkers, Workers


def swap(
    model: nn.Module,
    dataset: Any,
    loss: Loss,
    *,
    large: LargeBatch,
    small: SmallBatch,
    workers: int | Workers,
    seed: int,
    make_loader: MakeLoader = default_loader,
    n_right: Count = top_1,
    autocast: torch.dtype | None = None,
    clip_norm: float | None = None,
    callbacks: Sequence[Callback] = (),
    bn_loader: Iterable[Any] | None = None,
    checkpoint_folder: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    target: Target | None = None,
) -> SwapResult:
    r"""Stochastic weight averaging in parallel [SWAP]: W workers end with one network.

    1. Together: each step takes a large batch, a piece a worker, and the gradient of its mean loss,
       g = Σ_w (n_w/n) g_w. Stopped after the epoch whose training accuracy reaches the target.
    2. Alone: every worker goes on by itself, with small batches, an order of its own and a fresh optimizer.
    3. θ̄ = (1/W) Σ_w θ_w, with batch-norm statistics of θ̄ from one pass over the training rows.

    With `workers=W` this process plays all of them, one after the other. Under torchrun each process is one:

        with swag.distributed.joined() as ranks:
            result = swag.training.swap(..., workers=ranks)

    The result is the same bit for bit on equal CPUs with equally many threads: pieces, orders and random
    numbers depend on (seed, worker) alone, sums are taken in the workers' order. Batch norm in phase 1 sees a
    worker's piece, not the large batch.

    Args:
        model: trained in place; afterwards it is the averaged network. All start from worker 0's weights.
        dataset: rows by index: a map-style data set that every process has.
        loss: loss(outputs, targets) → a mean over rows.
        large: phase 1.
        small: phase 2.
        workers: how many to simulate, or the ranks of a process group.
        seed: of everything that is random here; the global generators are lent for the while.
        make_loader: make_loader(dataset, batches) → batches of those rows, read once an epoch; by default
            `DataLoader(dataset, batch_sampler=batches)`. For augmentation, for worker processes, and for data
            that lie on the device.
        n_right: n_right(outputs, targets) → how many rows are right; by default by the largest logit.
        autocast: dtype for `torch.autocast`.
        clip_norm: the largest gradient norm, of the large batch and of the small ones.
        callbacks: called with an `Epoch` after every epoch of both phases; without a state.
        bn_loader: training batches for the statistics in phase 3; None for the data set's rows in their own
            order, in batches of `small.size`. Where make_loader augments, pass some that are not augmented.
        checkpoint_folder: where every worker writes a file after each epoch, of both phases; made where
            missing. The same call after a crash goes on from the last epoch that all workers have and ends
            with the same bits, in a folder that all share also with the workers on other processes than
            before; when it is finished, it is read and not trained. Another `small` begins anew from the end
            of phase 1. Callbacks are not called again for epochs that are over.
        device: where to train; None for where the model is.
        forward: as in `train`.
        target: as in `train`.

    Returns:
        The averaged model, the workers' weights, history and times.

    Raises:
        InputError: an argument cannot be used, or processes disagree on model, data, phases or seed; nothing
            was changed. Or the folder's files are of another run.
        FileError: a checkpoint cannot be written, or is damaged.
        DivergedError: the loss, or a weight, is NaN or infinite.
        StateError: another process did not answer in time.

    Source: Gupta, Serrano & DeCoste 2020, arXiv:2001.02312.

    >>> from torch.nn import functional as F
    >>> x = torch.randn(64, 4)
    >>> rows = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())
    >>> result = swap(
    ...     nn.Linear(4, 2), rows, F.cross_entropy, workers=2, seed=0,
    ...     large=LargeBatch(32, max_epochs=20, target_accuracy=0.8), small=SmallBatch(8, epochs=2),
    ... )
    >>> result.workers
    Empirical(2 samples, D=10)
    """
    team: Workers = SimulatedWorkers(workers) if isinstance(workers, int) else workers
    if not hasattr(team, "gathered"):
        raise InputError(
            f"workers: got {workers!r}; pass how many to simulate, or the ranks of a process group"
        )

    def checked() -> tuple[int, Layout, int, list[str]]:
        for name, phase, kind in (("large", large, LargeBatch), ("small", small, SmallBatch)):
            if not isinstance(phase, kind):
                raise InputError(f"{name}: got a {type(phase).__name__}; pass a {kind.__name__}(…)")
        if clip_norm is not None and not clip_norm > 0:
            raise InputError(f"clip_norm: got {clip_norm!r}; pass a positive number, or None")
        if any(hasattr(callback, "load_state_dict") for callback in callbacks):
            raise InputError(
                "callbacks: one with a state would carry it from worker to worker; pass functions"
            )
        if bn_loader is not None:
            check_loader("bn_loader", bn_loader)
        optimizers = [str(optimizer_for(model, phase.optimizer)) for phase in (large, small)]
        rows = checked_length(dataset, large.size, small.size, team.n)
        return checked_seed(seed), Layout.of(model), rows, optimizers

    seed, layout, rows, optimizers = team.alike(
        "swap",
        checked,
        lambda found: [
            f"seed {found[0]}",
            f"{found[2]} rows",
            f"large batches of {large.size}, {large.max_epochs} epochs, accuracy {large.target_accuracy}",
            f"small batches of {small.size}, {small.epochs} epochs",
            f"clip_norm {clip_norm}, autocast {autocast}",
            f"checkpoint_folder {'none' if checkpoint_folder is None else 'given'}",
            # Each process steps its own copy: another rate would let them come apart without a word.
            *(line for text in found[3] for line in text.splitlines()),
            *map(str, found[1].to_list()),
        ],
    )
    if device is not None:
        model.to(device)
    place = device_of(model)
    team.share_([*model.parameters(), *model.buffers()])

    with ExitStack() as stack:
        if 0 not in team.mine:
            stack.enter_context(silent())
        stack.enter_context(lent_to(seed_for(seed), place))
        stack.enter_context(train_mode(model))
        started = _now(place)
        objective = Objective(loss, forward or feed, target or second, autocast)
        settings = {
            "seed": seed,
            "rows": rows,
            "workers": team.n,
            "clip_norm": clip_norm,
            "autocast": None if autocast is None else str(autocast),
        }
        told = [settings_of_phase(p, text) for p, text in zip((large, small), optimizers, strict=True)]
        settings |= {f"large {key}": value for key, value in told[0].items()}
        files = SwapFiles(checkpoint_folder, team, settings, told[1])
        together = Together(large, objective, n_right, team, seed, clip_norm, callbacks, files)
        replicas, history = together.run(model, dataset, rows, make_loader)
        model.zero_grad(set_to_none=True)
        large_seconds = _now(place) - started

        alone = Alone(small, loss, seed, make_loader, autocast, clip_norm, callbacks, forward, target, files)
        theta, losses, spent = [], [], []
        for worker, replica in zip(team.mine, replicas, strict=True):
            own = copy.deepcopy(replica)  # until here they had one set of parameters
            started = _now(place)
            ended = alone.run(own, dataset, rows, worker)
            spent.append(_now(place) - started)
            theta.append(layout.flatten(own))
            losses.append([row["loss"] for row in ended])
        points = team.gathered(torch.stack(theta))
        seconds = {"large": large_seconds, "small": team.gathered(_column(spent)).tolist()}
        if small.epochs:
            history += _rows(ended, team.gathered(_column(losses)))

        started = _now(place)
        layout.write_(model, mean_of(points))
        team.share_(model.buffers())
        still = make_loader(dataset, in_order(rows, small.size)) if bn_loader is None else bn_loader
        with lent_to(seed_for(seed, STATISTICS), place):
            refresh_batchnorm_(model, still, forward=forward)
        seconds["average"] = _now(place) - started
    return SwapResult(model, Empirical(points, layout), history, seconds, still, forward)


def _rows(epochs: list[dict[str, Any]], losses: Tensor) -> list[dict[str, Any]]:
    """The history of phase 2: losses (W, epochs), and what the workers have in common."""
    return [
        {
            "phase": "small",
            "worker": worker,
            "epoch": epoch["epoch"],
            "step": epoch["step"],
            "loss": loss,
            "accuracy": None,
            "rates": epoch["rates"],
        }
        for worker, own in enumerate(losses.tolist())
        for epoch, loss in zip(epochs, own, strict=True)
    ]


def _column(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _now(device: torch.device) -> float:
    """The clock, when the device has done what it was told."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter()
