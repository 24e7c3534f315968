"""A training loop for those who have none: SWA and SWAG by one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from swag.arguments import whole
from swag.batches import Forward, check_loader, length
from swag.collector import Collector
from swag.errors import InputError
from swag.parameters import Select
from swag.schedules.make import Rate
from swag.training.callbacks import Callback
from swag.training.checkpoint_files import CheckpointFile
from swag.training.loop import Loop
from swag.training.objective import Loss, Objective, Target, feed, second
from swag.training.plan import check_rate, points_for, rates_of_the_paper, start_of, where_scheduled
from swag.training.result import Trained
from swag.training.resuming import settings_kept, settings_of
from swag.training.settings import (
    MakeOptimizer,
    MakeSchedule,
    checked_callbacks,
    optimizer_for,
    rereadable,
    schedule_for,
    train_mode,
)
from swag.training.steps import Steps

_log = logging.getLogger(__name__)


def train(
    model: nn.Module,
    train_loader: Iterable[Any],
    loss: Loss,
    *,
    epochs: int,
    swa_start: float = 0.75,
    swa_lr: Rate | None = None,
    rank: int = 20,
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    schedule: Any | MakeSchedule | None = None,
    collect_every: float | None = 1,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    grad_scaler: torch.amp.GradScaler | None = None,
    clip_norm: float | None = None,
    validation: Iterable[Any] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    target: Target | None = None,
    select: Select = None,
) -> Trained:
    r"""Trains a model in place and collects snapshots over the last part of the way.

    With E = `epochs` and s = ⌊swa_start·E⌋, a snapshot is taken at the epochs s + c, s + 2c, …, up to E, with
    c = `collect_every`. Without `schedule` the rate is that of the SWA paper: the optimizer's own until s/2,
    then a straight line to `swa_lr` at 0.9·s, then constant. Randomness comes from the generators that are
    there (torch's global one, the loader's): seed them, or use `train_multi`.

    Resuming: where `checkpoint` exists the run goes on from it and ends bit for bit as if it had not been
    stopped, with everything built anew as it was: weights, buffers, optimizer, schedule, scaler, snapshots,
    callbacks with a state, and the generators of torch, Python, NumPy, the loaders, their samplers and data
    sets. What it cannot know: generators inside worker processes that live longer than an epoch
    (`persistent_workers=True` with random augmentation). The optimizer's and the schedule's own numbers
    (rates, momentum, …) come from the checkpoint; where others were given, a warning says so. The other
    settings of a run must be the same.

    Args:
        model: any module; afterwards it has the weights of the last step, and the modes it came with.
        train_loader: batches, read once an epoch.
        loss: loss(outputs, targets) → a mean over rows, such as `F.cross_entropy`.
        epochs: E, the whole run.
        swa_start: the fraction of the epochs before averaging begins; 1 trains without averaging, as for a
            baseline, and the collector stays empty.
        swa_lr: the constant rate of the averaging, one number or one a parameter group; None for half of
            each group's own rate, or for that rate itself where s is 0. Its own rate is the one an optimizer
            started with ("initial_lr"), where it was moved by a schedule before.
        rank: K, the deviations kept.
        optimizer: an optimizer, or a function from a list of parameters to one; None for SGD with rate 0.05,
            momentum 0.9 and weight decay 5e-4.
        schedule: a scheduler, or a function from the optimizer to one, instead of the paper's; stepped once
            an epoch, or after every step within `EveryStep`.
        collect_every: c in epochs; 0.5 collects twice an epoch (the loader must know its length). None: where
            the schedule's `is_collection_point()` says so, after s.
        accumulate: batches in one optimizer step: the gradient is that of their rows together.
        autocast: dtype for `torch.autocast` (torch.bfloat16); weights and statistics keep theirs.
        grad_scaler: `torch.amp.GradScaler()` for float16.
        clip_norm: the largest gradient norm.
        validation: held-out batches; their loss is computed after every epoch.
        callbacks: called with an `Epoch` after every epoch; one that returns `Stop()` ends the training. See
            `Callback`, and `CollectInto` for a second average, after every step if wanted.
        checkpoint: a file to resume from, written whole at the start and after epochs.
        checkpoint_every: epochs between two writings; the last is always written.
        device: where to train; None for where the model is.
        forward: forward(model, batch) → outputs; by default the first element of a tuple, a dict by keyword.
        target: target(batch) → targets; by default the second element of a tuple, "labels" of a dict.
        select: which parameters are averaged, as in `Collector`.

    Returns:
        Model, collector, history; `.swa()`, `.swag()`, `.ensemble()`.

    Raises:
        InputError: an argument cannot be used, or the checkpoint belongs to another run; nothing was changed.
        DivergedError: the loss, or a weight, is NaN or infinite; says at which step. The last good checkpoint
            stays. On the CPU weights and batch-norm statistics are as before the step of the bad loss;
            elsewhere up to 64 steps later, and the statistics have seen the bad batch. Gradients are cleared.
        FileError: the checkpoint is damaged, or cannot be written.

    Source: Izmailov et al. 2018 (SWA), Maddox et al. 2019 (SWAG), arXiv:1902.02476.

    >>> from torch.nn import functional as F
    >>> x = torch.randn(64, 4)
    >>> loader = list(zip(x.split(16), (x[:, 0] > 0).long().split(16)))
    >>> result = train(nn.Linear(4, 2), loader, F.cross_entropy, epochs=8, swa_start=0.5)
    >>> result.collector
    Collector(4 snapshots, rank=20, D=10)
    >>> result.ensemble(n_samples=10, seed=0)(x).probs.shape
    torch.Size([64, 2])
    """
    epochs, accumulate = whole("epochs", epochs), whole("accumulate", accumulate)
    checkpoint_every = whole("checkpoint_every", checkpoint_every)
    start = start_of(swa_start, epochs)
    points = None
    if collect_every is not None:
        points = points_for(start, collect_every, epochs, length(train_loader), accumulate)
    rereadable(train_loader, epochs)
    if validation is not None:
        check_loader("validation", validation)
    objective = Objective(loss, forward or feed, target or second, autocast)
    callbacks = checked_callbacks(callbacks)
    check_rate(swa_lr, schedule)
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm: got {clip_norm!r}; pass a positive number, or None")
    Collector.forecast(model, rank, select=select)  # refuses what the collector would, before the model moves
    if device is not None:
        model.to(device)
    chosen = optimizer_for(model, optimizer)
    collector = Collector(model, rank, select=select)
    with settings_kept(chosen):
        if schedule is not None:
            schedule = schedule_for(chosen, schedule)
        else:
            schedule = rates_of_the_paper(chosen, start, swa_lr)
        loop = Loop(
            model,
            train_loader,
            objective,
            Steps(chosen, schedule, grad_scaler, accumulate, clip_norm),
            store=collector,
            when=points if points is not None else where_scheduled(schedule, start),
            epochs=epochs,
            validation=validation,
            callbacks=callbacks,
        )
        settings = {
            "method": "train",
            "epochs": epochs,
            "swa_start": start,
            "swa_lr": list(swa_lr) if isinstance(swa_lr, Sequence) else swa_lr,
            "collect_every": None if points is None else str(points.every),
            "batches": length(train_loader),
            "schedule": type(schedule).__name__,
            **settings_of(loop.steps, autocast),
        }
        file = None if checkpoint is None else CheckpointFile(checkpoint, settings)
        loop.begin(file)
    if points is not None and points.passed(Fraction(epochs)) == 1:
        _log.warning(
            "train: one snapshot alone will be collected in %d epochs, which is no average and no posterior: "
            "train longer, start earlier (swa_start=%r), or collect more often (collect_every=%r)",
            epochs,
            swa_start,
            collect_every,
        )
    with train_mode(model):
        loop.run(file, checkpoint_every)
    return Trained(model, collector, loop.history, train_loader, forward)


def continue_training(
    model: nn.Module,
    train_loader: Iterable[Any],
    loss: Loss,
    *,
    epochs: int,
    swa_lr: Rate,
    **arguments: Any,
) -> Trained:
    """SWA and SWAG for a network that is trained already: some epochs at a constant rate, all averaged.

    Args:
        model: the trained network; it moves on from where it is.
        train_loader: batches, read once an epoch.
        loss: as in `train`.
        epochs: of averaging; with collect_every=1 as many snapshots. SWAG wants 10 or more.
        swa_lr: the constant rate: high enough to move about, such as a fifth to a half of the highest rate of
            the training before.
        arguments: the other arguments of `train`, except swa_start and schedule.

    Returns:
        As `train`.

    Raises:
        InputError, DivergedError, FileError: as `train`.

    >>> from torch.nn import functional as F
    >>> x = torch.randn(32, 4)
    >>> loader = [(x, (x[:, 0] > 0).long())]
    >>> continue_training(nn.Linear(4, 2), loader, F.cross_entropy, epochs=3, swa_lr=0.1).collector
    Collector(3 snapshots, rank=20, D=10)
    """
    for name in ("swa_start", "schedule"):
        if name in arguments:
            raise InputError(f"{name}: continue_training averages from the start at swa_lr; use train")
    return train(model, train_loader, loss, epochs=epochs, swa_start=0, swa_lr=swa_lr, **arguments)
