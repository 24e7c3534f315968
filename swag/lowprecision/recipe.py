"""SQWA's five phases as one recipe, to a model of 2 bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from swag import schedules
from swag.batches import Forward, check_loader
from swag.batchnorm import batchnorm_modules, refresh_batchnorm_
from swag.collector import Collector
from swag.errors import InputError, StateError
from swag.lowprecision.formats import Format
from swag.lowprecision.inputs import make_for
from swag.lowprecision.model import plain_copy, quantize_model, write_plain_
from swag.lowprecision.symmetric import SymmetricUniform
from swag.parameters import unwrap
from swag.progress import track

Loss = Callable[[nn.Module, Any], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@final
@dataclass(frozen=True)
class SQWA:
    """What `sqwa` gives.

    Args:
        model: the fine-tuned model of low-bit weights, in eval mode; `plain_copy(model)` is free of hooks and
            `save_integers(path, model)` writes its integers.
        direct: the model after the phase before quantisation, in full precision.
        averaged: the average of the captures, in full precision, batch norm refreshed.
        collector: of the captures: their SWAG, too, where its rank is 2 or more.
        losses: mean training loss of each epoch, by phase: "float", "capture" and "tune".
    """

    model: nn.Module
    direct: nn.Module
    averaged: nn.Module
    collector: Collector
    losses: dict[str, list[float]]


def sqwa(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Loss,
    make_optimizer: MakeOptimizer,
    *,
    lr_max: float,
    lr_min: float,
    tune_lr: float,
    bits: int = 2,
    float_epochs: int = 0,
    cycle: int = 2,
    n_captures: int = 5,
    tune_epochs: int = 2,
    form: Format | None = None,
    rank: int = 0,
    skip: Iterable[str] = (),
    forward: Forward | None = None,
    seed: int | None = None,
) -> SQWA:
    r"""Trains low-bit weights by averaging low-bit models (SQWA).

        1. train in full precision: `float_epochs` at the optimizer's rate, falling as a cosine
        2. quantise, retrain with a cyclical rate, and capture the low-bit weights at the end of each cycle
        3. average the captures in full precision: n of them have 2n + 1 levels where each has 3
        4. quantise the average
        5. fine-tune it at a low rate, falling as a cosine

    In phases 2 and 5 the layers compute with weights on a grid that was fixed when the phase began, and the
    optimizer moves full-precision ones (straight through). Weights of linear, convolutional and embedding
    layers are quantised; biases, normalisation and activations are not.

    Args:
        model: the model to start from; it is not changed.
        loader: training batches, of known length, to be read once an epoch.
        loss: loss(model, batch) → a scalar.
        make_optimizer: the optimizer of given parameters; one is made for each phase of training.
        lr_max: highest rate of phase 2.
        lr_min: lowest rate of phase 2.
        tune_lr: highest rate of phase 5.
        bits: of the weights, 2 to 8; 2 bits are {−Δ, 0, Δ}.
        float_epochs: of phase 1; 0 for a model that is trained already.
        cycle: epochs of a cycle.
        n_captures: cycles of phase 2.
        tune_epochs: of phase 5; 0 leaves it out.
        form: in place of `SymmetricUniform(bits, dim=0)`, one step for each output channel.
        rank: of the collector; 2 or more for SWAG of the captures.
        skip: names of modules to leave in full precision, such as the first and the last layer.
        forward: forward(model, batch) runs one batch, for the refresh of batch norm after averaging.
        seed: of stochastic rounding, where `form` asks for it.

    Raises:
        InputError: a loader without length or batches, counts or rates out of range, no quantisable layer, a
            loss that is no function of model and batch, an optimizer of other parameters.
        StateError: a loss is NaN or infinite.

    Source: Shin, Boo & Sung 2020, arXiv:2002.00343, section 3.

    >>> x = torch.randn(32, 4)
    >>> found = sqwa(
    ...     nn.Linear(4, 1), [x, -x], lambda model, x: (model(x) - x[:, :1]).square().mean(),
    ...     lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    ...     lr_max=0.1, lr_min=0.01, tune_lr=0.01, float_epochs=5, cycle=1, n_captures=3)
    >>> plain_copy(found.model).weight.unique().numel() <= 3
    True
    """
    check_loader("loader", loader)
    if not callable(loss) or isinstance(loss, nn.Module):
        raise InputError(
            f"loss: got a {type(loss).__name__}; pass a function of the model and a batch, such as "
            "lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1])"
        )
    n_batches = len(loader) if isinstance(loader, Sized) else None
    if n_batches is None:
        raise InputError(
            f"loader: a {type(loader).__name__} has no length; pass a DataLoader or a list of batches"
        )
    counts = {"float_epochs": (float_epochs, 0), "cycle": (cycle, 1), "n_captures": (n_captures, 1)}
    for name, (count, least) in {**counts, "tune_epochs": (tune_epochs, 0)}.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise InputError(f"{name}: got {count!r}; pass a whole number, {least} or more")
    form = SymmetricUniform(bits, dim=0) if form is None else form
    losses: dict[str, list[float]] = {}

    def run(
        name: str, trained: nn.Module, schedule: schedules.Schedule, epochs: int, at_end: Any = None
    ) -> None:
        losses[name] = []
        for epoch in track(range(epochs), f"SQWA, {name}"):
            losses[name].append(_epoch(trained, loader, loss, schedule, epoch, n_batches, name))
            if at_end is not None and schedule.is_collection_point():
                at_end()

    # 1
    direct = copy.deepcopy(unwrap(model)).train()
    if float_epochs:
        optimizer = make_for(make_optimizer, direct)
        run("float", direct, schedules.cosine(optimizer, epochs=float_epochs), float_epochs)
    # 2
    lowbit = quantize_model(direct, weights=form, keep_grid=True, skip=skip, seed=seed).train()
    averaged = plain_copy(lowbit)
    collector = Collector(averaged, rank)
    optimizer = make_for(make_optimizer, lowbit)
    cyclical = schedules.cyclical(
        optimizer, lr_max=lr_max, lr_min=lr_min, cycle=cycle, steps_per_epoch=n_batches
    )

    def capture() -> None:
        write_plain_(averaged, lowbit)
        collector.collect(averaged)

    run("capture", lowbit, cyclical, cycle * n_captures, capture)
    # 3
    collector.layout.write_(averaged, collector.mean)
    if batchnorm_modules(averaged):
        refresh_batchnorm_(averaged, loader, forward=forward)
    # 4
    tuned = quantize_model(averaged, weights=form, keep_grid=True, skip=skip, seed=seed).train()
    # 5
    optimizer = make_for(make_optimizer, tuned)
    for group in optimizer.param_groups:
        group["lr"] = tune_lr
    if tune_epochs:
        run("tune", tuned, schedules.cosine(optimizer, epochs=tune_epochs), tune_epochs)
    elif batchnorm_modules(tuned):
        refresh_batchnorm_(tuned, loader, forward=forward)
    return SQWA(tuned.eval(), direct.eval(), averaged.eval(), collector, losses)


def _epoch(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Loss,
    schedule: schedules.Schedule,
    epoch: int,
    n_batches: int,
    phase: str,
) -> float:
    """One epoch, its rate set before every batch; returns the mean loss."""
    optimizer, total = schedule.optimizer, 0.0
    for index, batch in enumerate(loader):
        schedule.step(epoch + index / n_batches)
        optimizer.zero_grad()
        value = loss(model, batch)
        if not bool(value.isfinite()):
            raise StateError(
                f"sqwa: the loss is {value.item()} in epoch {epoch} of phase '{phase}'; lower its rate"
            )
        value.backward()
        optimizer.step()
        total += value.item()
    return total / n_batches
