"""When `train` collects and at which rates, from what the caller said."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch

from swag.errors import InputError
from swag.schedules import constant, swa_paper
from swag.schedules.make import Rate
from swag.training.every_step import EveryStep
from swag.training.points import Points, WhereScheduled, exact


def start_of(swa_start: float, epochs: int) -> int:
    """⌊swa_start·epochs⌋.

    Raises:
        InputError: swa_start is no fraction.
    """
    fraction = exact("swa_start", swa_start)
    if not 0 <= fraction <= 1:
        raise InputError(
            f"swa_start: got {swa_start!r}; pass a fraction of the epochs from 0 to 1, such as 0.75 or "
            f"{int(swa_start)}/{epochs}"
        )
    return int(fraction * epochs)


def points_for(
    start: int, collect_every: float, epochs: int, n_batches: int | None, accumulate: int
) -> Points:
    """Where snapshots are due.

    Raises:
        InputError: collect_every is not positive, finer than the steps, or longer than the averaging.
    """
    every = exact("collect_every", collect_every)
    if every <= 0:
        raise InputError(f"collect_every: got {collect_every!r}; pass a positive number of epochs, such as 1")
    if start < epochs < start + every:
        raise InputError(
            f"collect_every: every {float(every):g} epochs gives no snapshot in the {epochs - start} after "
            f"swa_start; pass fewer, or train longer"
        )
    if every.denominator != 1:
        if n_batches is None:
            raise InputError(
                f"collect_every: got {collect_every!r} and train_loader has no length; pass whole epochs"
            )
        n_steps = -(-n_batches // accumulate)
        if every * n_steps < 1:
            raise InputError(
                f"collect_every: {collect_every!r} epochs are less than one step (there are {n_steps} in an "
                "epoch); pass more"
            )
    return Points(first=start + every, every=every)


def check_rate(swa_lr: Rate | None, schedule: Any) -> None:
    """Raises InputError for a rate that is not positive, or one that a schedule would overrule."""
    if swa_lr is None:
        return
    for rate in swa_lr if isinstance(swa_lr, Sequence) else [swa_lr]:
        exact("swa_lr", rate)
        if not rate > 0:
            raise InputError(f"swa_lr: got {rate!r}; pass a positive rate, such as 0.025")
    if schedule is not None:
        raise InputError("swa_lr: has no meaning beside schedule, which sets the rates; leave one out")


def rates_of_the_paper(optimizer: torch.optim.Optimizer, start: int, swa_lr: Rate | None) -> Any:
    """The SWA paper's schedule; a constant rate where averaging begins at once."""
    # Where a schedule has been at work before, its starting rates: every torch scheduler goes by them.
    own = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    if start == 0:
        return constant(optimizer, lr=own if swa_lr is None else swa_lr)
    return swa_paper(
        optimizer, swa_start=start, swa_lr=[rate / 2 for rate in own] if swa_lr is None else swa_lr
    )


def where_scheduled(schedule: Any, start: int) -> WhereScheduled:
    """The schedule's own collection points.

    Raises:
        InputError: it has none.
    """
    bare = schedule.schedule if isinstance(schedule, EveryStep) else schedule
    if not hasattr(bare, "is_collection_point"):
        raise InputError(
            "collect_every: None collects where schedule.is_collection_point() says so, which a "
            f"{type(bare).__name__} has not; pass one of swag.schedules, or a number of epochs"
        )
    return WhereScheduled(schedule, Fraction(start))
