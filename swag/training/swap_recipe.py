"""SWAP: train together on large batches, go on alone on small ones, average."""

from __future__ import annotations

import copy
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
from swag.schedules import cosine
from swag.training.callbacks import Callback
from swag.training.objective import Loss, Objective, Target, feed, second
from swag.training.random_states import lent_to
from swag.training.settings import optimizer_for, train_mode
from swag.training.swap_phases import Count, LargeBatch, SmallBatch, top_1
from swag.training.swap_result import SwapResult, mean_of
from swag.training.swap_rows import (
    ALONE,
    STATISTICS,
    MakeLoader,
    checked_length,
    default_loader,
    in_order,
    seed_for,
    small_batches,
)
from swag.training.swap_together import Together
from swag.training.swap_workers import SimulatedWorkers, Workers
from swag.training.trainer import train


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
        device: where to train; None for where the model is.
        forward: as in `train`.
        target: as in `train`.

    Returns:
        The averaged model, the workers' weights, history and times.

    Raises:
        InputError: an argument cannot be used, or processes disagree on model, data, phases or seed; nothing
            was changed.
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
        raise InputError(f"workers: got {workers!r}; pass how many to simulate, or the ranks of a process group")

    def checked() -> tuple[int, Layout, int]:
        for name, phase, kind in (("large", large, LargeBatch), ("small", small, SmallBatch)):
            if not isinstance(phase, kind):
                raise InputError(f"{name}: got a {type(phase).__name__}; pass a {kind.__name__}(…)")
        if clip_norm is not None and not clip_norm > 0:
            raise InputError(f"clip_norm: got {clip_norm!r}; pass a positive number, or None")
        if any(hasattr(callback, "load_state_dict") for callback in callbacks):
            raise InputError("callbacks: one with a state would carry it from worker to worker; pass functions")
        if bn_loader is not None:
            check_loader("bn_loader", bn_loader)
        optimizer_for(model, large.optimizer)
        optimizer_for(model, small.optimizer)
        rows = checked_length(dataset, large.size, small.size, team.n)
        return checked_seed(seed), Layout.of(model), rows

    seed, layout, rows = team.alike(
        "swap",
        checked,
        lambda found: [f"seed {found[0]}", f"{found[2]} rows", *_lines(large, small), *map(str, found[1].to_list())],
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
        together = Together(large, objective, n_right, team, seed, clip_norm, callbacks)
        replicas, history = together.run(model, dataset, rows, make_loader)
        model.zero_grad(set_to_none=True)
        large_seconds = _now(place) - started

        theta, losses, spent = [], [], []
        trained: list[dict[str, Any]] = []
        for worker, replica in zip(team.mine, replicas, strict=True):
            alone = copy.deepcopy(replica)  # until here they had one set of parameters
            own_seed = seed_for(seed, ALONE, worker)
            started = _now(place)
            with lent_to(own_seed, place):
                trained = train(
                    alone,
                    make_loader(dataset, small_batches(rows, small.size, own_seed)),
                    loss,
                    epochs=small.epochs,
                    swa_start=(small.epochs - 1) / small.epochs,  # one snapshot: the last weights
                    rank=0,
                    optimizer=small.optimizer,
                    schedule=small.schedule or (lambda optimizer: cosine(optimizer, epochs=small.epochs)),
                    autocast=autocast,
                    clip_norm=clip_norm,
                    callbacks=callbacks,
                    forward=forward,
                    target=target,
                ).history
            theta.append(layout.flatten(alone))
            spent.append(_now(place) - started)
            losses.append([row["loss"] for row in trained])
        points = team.gathered(torch.stack(theta))
        table = team.gathered(_column(losses, place)).tolist()
        seconds = {"large": large_seconds, "small": team.gathered(_column(spent, place)).tolist()}

        started = _now(place)
        layout.write_(model, mean_of(points))
        team.share_(model.buffers())
        still = make_loader(dataset, in_order(rows, small.size)) if bn_loader is None else bn_loader
        with lent_to(seed_for(seed, STATISTICS), place):
            refresh_batchnorm_(model, still, forward=forward)
        seconds["average"] = _now(place) - started
    for worker, own in enumerate(table):
        for row, value in zip(trained, own, strict=True):
            history.append(
                {
                    "phase": "small",
                    "worker": worker,
                    "epoch": row["epoch"],
                    "step": row["step"],
                    "loss": value,
                    "accuracy": None,
                    "rates": row["rates"],
                }
            )
    return SwapResult(model, Empirical(points, layout), history, seconds, still, forward)


def _lines(large: LargeBatch, small: SmallBatch) -> list[str]:
    return [
        f"large batches of {large.size}, {large.max_epochs} epochs, accuracy {large.target_accuracy}",
        f"small batches of {small.size}, {small.epochs} epochs",
    ]


def _column(values: list[Any], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)


def _now(device: torch.device) -> float:
    """The clock, when the device has done what it was told."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter()
