"""Fast geometric ensembling: snapshots of one network along a triangular rate."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, final

import torch
from torch import nn

from swag.arguments import whole
from swag.batches import Forward, check_loader, length
from swag.batchnorm import BatchNormPolicy
from swag.ensemble import Ensemble
from swag.errors import InputError
from swag.parameters import Layout, Select
from swag.posterior import Empirical
from swag.predictive import Likelihood
from swag.schedules import fge_triangle
from swag.training.callbacks import Callback
from swag.training.checkpoint_files import CheckpointFile
from swag.training.every_step import EveryStep
from swag.training.loop import Loop
from swag.training.objective import Loss, Objective, Target, feed, second
from swag.training.points import Points, exact
from swag.training.resuming import settings_kept, settings_of
from swag.training.settings import (
    MakeOptimizer,
    checked_callbacks,
    optimizer_for,
    rereadable,
    train_mode,
)
from swag.training.snapshots import Snapshots
from swag.training.steps import Steps


@final
@dataclass(frozen=True)
class FGE:
    """A finished run of `fge`.

    Attributes:
        model: the model, with the weights of the last step.
        snapshots: the weights at every mid-cycle, oldest first.
        history: one row an epoch.
        train_loader: the training batches, for batch-norm statistics.
        forward: how they are fed to the model; None for the default.
    """

    model: nn.Module
    snapshots: Snapshots
    history: list[dict[str, Any]] = field(repr=False)
    train_loader: Iterable[Any] = field(repr=False)
    forward: Forward | None = field(repr=False, default=None)

    @property
    def posterior(self) -> Empirical:
        """Equal mass on each of the snapshots."""
        return self.snapshots.empirical()

    def ensemble(
        self,
        *,
        bn_loader: Iterable[Any] | None = None,
        batchnorm: BatchNormPolicy | None = None,
        likelihood: Likelihood | None = None,
        keep_members: bool | None = None,
    ) -> Ensemble:
        """The average of the snapshots' predictions, each with batch-norm statistics of its own."""
        return Ensemble(
            self.model,
            self.posterior,
            self.snapshots.n_collected,
            bn_loader=self.train_loader if bn_loader is None else bn_loader,
            batchnorm=batchnorm,
            seed=0,  # only the order of the members depends on it
            likelihood=likelihood,
            forward=self.forward,
            keep_members=keep_members,
        )


def fge(
    model: nn.Module,
    train_loader: Iterable[Any],
    loss: Loss,
    *,
    lr_max: float,
    lr_min: float,
    cycle: float,
    n_snapshots: int,
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
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
) -> FGE:
    r"""Fast geometric ensembling, from a network that is trained in large part.

    The rate goes from α₁ = `lr_max` down to α₂ = `lr_min` and up again within c = `cycle` epochs, a little
    at every step. With t ∈ [0, 1) the part of the cycle that is over,

        rate = α₁(1 − 2t) + α₂·2t        for t < ½
        rate = α₁(2t − 1) + α₂(2 − 2t)   otherwise

    and a snapshot is taken at every mid-cycle, t = ½, where the rate is lowest. That takes
    ⌈(n_snapshots − ½)·c⌉ epochs. The loader must know its length.

    Args:
        model: trained for some 80 % of the usual budget; it moves on from where it is.
        train_loader: batches, read once an epoch.
        loss: as in `train`.
        lr_max: α₁, such as 0.05.
        lr_min: α₂ < α₁, such as 5e-4.
        cycle: c in epochs, 2 to 4 in the paper.
        n_snapshots: S.
        optimizer: as in `train`; its rates are replaced.
        accumulate, autocast, grad_scaler, clip_norm, validation, callbacks: as in `train`.
        checkpoint, checkpoint_every, device, forward, target, select: as in `train`.

    Returns:
        Model, snapshots, history; `.posterior`, `.ensemble()`.

    Raises:
        InputError, DivergedError, FileError: as `train`.

    Source: Garipov et al. 2018, arXiv:1802.10026.

    >>> from torch.nn import functional as F
    >>> x = torch.randn(64, 4)
    >>> loader = list(zip(x.split(16), (x[:, 0] > 0).long().split(16)))
    >>> run = fge(
    ...     nn.Linear(4, 2), loader, F.cross_entropy, lr_max=0.05, lr_min=0.005, cycle=2, n_snapshots=3
    ... )
    >>> run.posterior
    Empirical(3 samples, D=10)
    """
    n_snapshots, accumulate = whole("n_snapshots", n_snapshots), whole("accumulate", accumulate)
    checkpoint_every = whole("checkpoint_every", checkpoint_every)
    every = exact("cycle", cycle)
    for name, rate in (("lr_max", lr_max), ("lr_min", lr_min)):
        exact(name, rate)
    if not lr_max > lr_min > 0:
        raise InputError(f"lr_max: got {lr_max!r} with lr_min={lr_min!r}; pass lr_max > lr_min > 0")
    if every <= 0:
        raise InputError(f"cycle: got {cycle!r}; pass a positive number of epochs, such as 4")
    epochs = math.ceil((n_snapshots - Fraction(1, 2)) * every)
    rereadable(train_loader, epochs)
    n_batches = length(train_loader)
    if n_batches is None:
        raise InputError(
            "train_loader: does not know its length, which the triangular rate needs; pass a list"
        )
    n_steps = -(-n_batches // accumulate)
    if every * n_steps < 2:
        raise InputError(
            f"cycle: {cycle!r} epochs are fewer than two steps ({n_steps} in an epoch); pass more"
        )
    if validation is not None:
        check_loader("validation", validation)
    objective = Objective(loss, forward or feed, target or second, autocast)
    callbacks = checked_callbacks(callbacks)
    Layout.of(model, select)
    if device is not None:
        model.to(device)
    chosen = optimizer_for(model, optimizer)
    snapshots = Snapshots(model, select=select)
    with settings_kept(chosen):
        schedule = EveryStep(fge_triangle(chosen, lr_max=lr_max, lr_min=lr_min, cycle=cycle))
        loop = Loop(
            model,
            train_loader,
            objective,
            Steps(chosen, schedule, grad_scaler, accumulate, clip_norm),
            store=snapshots,
            when=Points(first=every / 2, every=every, most=n_snapshots),
            epochs=epochs,
            validation=validation,
            callbacks=callbacks,
        )
        settings = {
            "method": "fge",
            "lr_max": lr_max,
            "lr_min": lr_min,
            "cycle": str(every),
            "n_snapshots": n_snapshots,
            "batches": n_batches,
            **settings_of(loop.steps, autocast),
        }
        file = None if checkpoint is None else CheckpointFile(checkpoint, settings)
        loop.begin(file)
    with train_mode(model):
        loop.run(file, checkpoint_every)
    return FGE(model, snapshots, loop.history, train_loader, forward)
