"""The trainings, each from a seed to a posterior over the convnet's weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import swag
from experiments.uncertainty.networks import convnet
from experiments.uncertainty.recipes import Recipe
from experiments.uncertainty.tasks import Shuffled, Task
from swag import schedules
from swag.training import Epoch, EveryStep, Snapshots, Trained, train


def network(recipe: Recipe, task: Task, seed: int, *, dropout: float = 0.0) -> nn.Sequential:
    """Untrained, on the device of the task."""
    made = convnet(recipe.widths, recipe.strides, task.n_classes, dropout=dropout, seed=seed)
    return made.to(task.train.images.device)


def sgd(
    recipe: Recipe, task: Task, seed: int, *, rate: float, decay: float, dropout: float = 0.0
) -> swag.PointMass:
    """One network; the rate falls to 0 along half a cosine. Without snapshots but the last."""
    model = network(recipe, task, seed, dropout=dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the dropout
        train(
            model,
            Shuffled(task.train, recipe.batch, seed),
            F.cross_entropy,
            epochs=recipe.epochs,
            swa_start=1,
            optimizer=_momentum(rate, decay),
            schedule=lambda optimizer: EveryStep(schedules.cosine(optimizer, epochs=recipe.epochs)),
        )
    return swag.PointMass.of(model)


def averaged(recipe: Recipe, task: Task, seed: int, *, rate: float, decay: float, part: float) -> Trained:
    """As many epochs with the SWA paper's rate, and snapshots; from the same start as SGD of that seed."""
    return train(
        network(recipe, task, seed),
        Shuffled(task.train, recipe.batch, seed),
        F.cross_entropy,
        epochs=recipe.epochs,
        swa_start=recipe.swa_start,
        swa_lr=part * rate,
        rank=recipe.rank,
        collect_every=recipe.collect_every,
        optimizer=_momentum(rate, decay),
    )


def cyclical_mcmc(
    recipe: Recipe, task: Task, seed: int, *, rate: float, decay: float, temperature: float
) -> swag.Empirical:
    r"""Cyclical SG-MCMC: SGD with momentum down each cycle's cosine, with Langevin's noise in its later part.

    With momentum μ = 0.9 the noise that makes e^{−N·loss/T} stationary (for small rates) is, on the gradient
    of the mean loss, of variance 2(1 − μ)T/(N·rate) (Zhang et al. 2020, arXiv:1902.03932). Weight decay is
    the prior.
    """
    epochs = recipe.mcmc_cycle * recipe.mcmc_cycles
    model = network(recipe, task, seed)
    generator = torch.Generator().manual_seed(seed)
    kept = Snapshots(model)
    n = len(task.train)

    def share(epoch: float) -> float:
        return (epoch % recipe.mcmc_cycle) / recipe.mcmc_cycle

    now = {"step": 0}
    per_epoch = -(-n // recipe.batch)

    def noisy(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if share(now["step"] / per_epoch) >= 0.5:
            for group in optimizer.param_groups:
                std = (2 * (1 - group["momentum"]) * temperature / (n * max(group["lr"], 1e-6))) ** 0.5
                for parameter in group["params"]:
                    drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
                    parameter.grad.add_(drawn, alpha=std)
        now["step"] += 1

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made = _momentum(rate, decay)(parameters)
        made.register_step_pre_hook(noisy)
        return made

    def keep(epoch: Epoch) -> None:
        place = (epoch.number - 1) % recipe.mcmc_cycle
        if place >= recipe.mcmc_cycle - recipe.mcmc_kept:
            kept.collect(epoch.model)

    train(
        model,
        Shuffled(task.train, recipe.batch, seed),
        F.cross_entropy,
        epochs=epochs,
        swa_start=1,
        optimizer=optimizer,
        schedule=lambda optimizer: EveryStep(
            schedules.cyclical_cosine(
                optimizer, lr_max=rate, lr_min=rate / 100, cycle=recipe.mcmc_cycle, steps_per_epoch=per_epoch
            )
        ),
        callbacks=[keep],
    )
    return kept.empirical()


def _momentum(rate: float, decay: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
