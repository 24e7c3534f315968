"""fast-SWA by one call: a method, the repeated cosine, and two averages of one trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn

from swag.arguments import whole
from swag.batches import length
from swag.batchnorm import ExactBatchNorm
from swag.collector import Collector
from swag.errors import InputError
from swag.parameters import Layout
from swag.schedules import fast_swa
from swag.training.averages import Average, RunningAverage
from swag.training.callbacks import Callback
from swag.training.every_step import EveryStep
from swag.training.points import exact
from swag.training.result import Trained
from swag.training.semi_supervised.collect_at import CollectAt
from swag.training.semi_supervised.methods import Method
from swag.training.settings import MakeOptimizer, checked_callbacks
from swag.training.trainer import train

_OURS = {
    "schedule": "first_end, cycle and horizon say it",
    "swa_start": "fast-SWA starts at first_end − cycle",
    "swa_lr": "the schedule has the rates",
    "collect_every": "pass fast_every",
    "loss": "the method has it",
    "forward": "the method has it",
    "target": "batches are (inputs, labels)",
}


@final
@dataclass(frozen=True)
class SemiSupervised:
    """A finished run of `train_semi_supervised`.

    Attributes:
        trained: as `train` returns it; its collector has fast-SWA's snapshots, so `trained.swag()` and
            `trained.ensemble()` are a posterior over them.
        swa: the average of the weights at the ends of cycles.
        method: what was trained by; `MeanTeacher` has its `teacher`.
    """

    trained: Trained
    swa: RunningAverage
    method: Method = field(repr=False)

    @property
    def model(self) -> nn.Module:
        """The model, with the weights of the last step: SGD's result."""
        return self.trained.model

    @property
    def fast_swa(self) -> Collector:
        """The average of the weights several times a cycle."""
        return self.trained.collector

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch."""
        return self.trained.history

    def averaged(self, average: Average, *, bn_loader: Iterable[Any] | None = None) -> nn.Module:
        """A copy of the model with an average as weights and batch-norm statistics of its own, in eval mode.

        Args:
            average: `swa`, `fast_swa`, or any other average of this model.
            bn_loader: batches for the statistics; None for the mixed batches it was trained on, not
                augmented. In an adaptation, rows of the target domain are often the better choice.

        Raises:
            StateError: the average has no snapshot.
        """
        ensemble = self.trained.ensemble(
            average.swa(), 1, seed=0, bn_loader=bn_loader, batchnorm=ExactBatchNorm()
        )
        return ensemble.member(0)


def train_semi_supervised(
    model: nn.Module,
    batches: Iterable[Any],
    method: Method,
    *,
    epochs: int,
    first_end: float = 180,
    cycle: float = 30,
    horizon: float | None = None,
    fast_every: float = 3,
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    callbacks: Sequence[Callback] = (),
    **arguments: Any,
) -> SemiSupervised:
    r"""Trains on labelled and unlabelled rows, and averages the weights at the ends of cycles and in between.

    The rate follows half a cosine that would be 0 at `horizon`, is cut off at `first_end`, and comes back
    every `cycle` epochs (`swag.schedules.fast_swa`), moved at every step. SWA averages the weights after
    first_end, first_end + cycle, … epochs; fast-SWA those at each `fast_every` epochs from first_end − cycle
    on. Both are averages of one trajectory, which they do not change. An epoch is one pass through `batches`.

    For domain adaptation the labelled rows are the source's and the unlabelled ones the target's, as in
    `TwoStreams(source_loader, target_loader)`.

    Args:
        model: logits (B, C), or a pair of them (`TwoHeads`); trained in place.
        batches: (inputs, labels) with `UNLABELLED` for rows without a label: `TwoStreams`, or a DataLoader
            with a `TwoStreamSampler`. It must know its length.
        method: `PiModel(…)`, `MeanTeacher(model, …)`, or `Supervised(…)`.
        epochs: of the whole run, first_end or more: for each `cycle` beyond it one more snapshot for SWA.
        first_end: where the first descent is cut off.
        cycle: the length of the piece that is repeated.
        horizon: where the cosine would be 0; None for first_end·7/6, as published (210 for 180).
        fast_every: epochs between fast-SWA's snapshots, fractions included.
        optimizer: as in `train`; its rates are those at epoch 0.
        callbacks: as in `train`.
        arguments: the other arguments of `train`: rank, accumulate, autocast, grad_scaler, clip_norm,
            validation, checkpoint, checkpoint_every, device, select.

    Returns:
        The model, both averages, the method, the history.

    Raises:
        InputError: an argument cannot be used (nothing was changed then), or a batch's labels.
        DivergedError, FileError: as `train`.

    Source: Athiwaratkun, Finzi, Izmailov & Wilson 2019, arXiv:1806.05594.

    >>> from swag.training.semi_supervised import PiModel, TwoStreams, noisy
    >>> x = torch.randn(48, 4)
    >>> batches = TwoStreams([(x[:8], (x[:8, 0] > 0).long())], list(x[8:].split(8)))
    >>> method = PiModel(augment=lambda x, generator: noisy(x, 0.1, generator=generator))
    >>> run = train_semi_supervised(
    ...     nn.Linear(4, 2), batches, method, epochs=8, first_end=4, cycle=2, fast_every=0.4
    ... )
    >>> run.swa, run.fast_swa
    (RunningAverage(3 snapshots, Equal(), D=10), Collector(15 snapshots, rank=20, D=10))
    >>> run.averaged(run.fast_swa)(x).shape
    torch.Size([48, 2])
    """
    epochs = whole("epochs", epochs)
    for name, instead in _OURS.items():
        if name in arguments:
            raise InputError(f"{name}: is not taken here; {instead}")
    needed = ("forward", "loss", "after_step")
    if isinstance(method, type) or not all(callable(getattr(method, name, None)) for name in needed):
        raise InputError(
            f"method: got {method!r:.80}; pass PiModel(…), MeanTeacher(model, …) or Supervised(…)"
        )
    end, step = exact("first_end", first_end), exact("cycle", cycle)
    every = exact("fast_every", fast_every)
    if not 0 < step <= end:
        raise InputError(f"cycle: got {cycle!r} with first_end={first_end!r}; pass 0 < cycle ≤ first_end")
    if epochs < end:
        raise InputError(
            f"epochs: got {epochs}, and the first cycle ends at first_end={first_end!r}; train longer, or "
            f"scale the schedule (published: first_end 180, cycle 30, fast_every 3), as "
            f"first_end={epochs / 2:g}, cycle={epochs / 12:g}, fast_every={epochs / 120:g}"
        )
    if horizon is None:
        horizon = float(end * 7 / 6)
    elif not exact("horizon", horizon) >= end:
        raise InputError(
            f"horizon: got {horizon!r}, before first_end={first_end!r}; pass {first_end!r} or more"
        )
    n_batches = length(batches)
    if n_batches is None:
        raise InputError("batches: do not know their length, which the schedule needs; give them a __len__")
    if every <= 0 or every * n_batches < arguments.get("accumulate", 1) or every > epochs - end + step:
        raise InputError(
            f"fast_every: got {fast_every!r}; pass epochs between two snapshots, a step or more (there are "
            f"{n_batches} batches in an epoch) and at most {float(epochs - end + step):g}"
        )
    _check_fits(method, model)
    checked_callbacks(callbacks)
    swa = RunningAverage(model, select=arguments.get("select"))
    trained = train(
        model,
        batches,
        method.loss,
        epochs=epochs,
        swa_start=float((end - step) / epochs),
        optimizer=optimizer,
        schedule=lambda made: EveryStep(
            fast_swa(
                made,
                horizon=horizon,
                first_end=float(end),
                cycle=float(step),
                every=float(every),
            )
        ),
        collect_every=None,
        callbacks=[method, CollectAt(swa, first=float(end), every=float(step)), *callbacks],
        forward=method.forward,
        **arguments,
    )
    return SemiSupervised(trained, swa, method)


def _check_fits(method: Method, model: nn.Module) -> None:
    """Raises InputError where a teacher was copied from another kind of model."""
    teacher = getattr(method, "teacher", None)
    if teacher is None:
        return
    names = {name: tuple(parameter.shape) for name, parameter in teacher.named_parameters()}
    for entry in Layout.of(model).entries:
        if names.get(entry.name) != entry.shape:
            raise InputError(
                f"method: its teacher was copied from another model ('{entry.name}': the model has "
                f"{entry.shape}, the teacher {names.get(entry.name)}); make MeanTeacher(model) from this one"
            )
