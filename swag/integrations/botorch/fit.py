"""A small network trained on (X, Y), and the SWAG or MultiSWAG ensemble around it."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, final

import torch
from botorch.models.transforms import Normalize, Standardize
from torch import Tensor, nn
from torch.nn import functional as F

from swag.arguments import whole
from swag.collector import Collector
from swag.errors import InputError
from swag.integrations.botorch.model import SWAGModel
from swag.noise import checked_seed, split_seeds
from swag.posterior import Mixture, Posterior
from swag.posterior.protocol import check_n_samples
from swag.predictive import HomoscedasticGaussian

NetworkMaker = Callable[[int, torch.Generator], nn.Module]


def mlp(n_inputs: int, generator: torch.Generator) -> nn.Module:
    """A network of two hidden layers of 64 units (SiLU), for inputs in [0, 1], with weights of the generator.

    >>> mlp(6, torch.Generator().manual_seed(0))(torch.rand(5, 6)).shape
    torch.Size([5, 1])
    """
    width = 64
    layers = [nn.Linear(n_inputs, width), nn.Linear(width, width), nn.Linear(width, 1)]
    with torch.no_grad():
        for layer in layers:
            # He et al. 2015; biases as wide as an input's share, so that units bend all over the cube.
            layer.weight.normal_(0, math.sqrt(2 / layer.in_features), generator=generator)
            layer.bias.normal_(0, 0.5, generator=generator)
        layers[-1].bias.zero_()
    return nn.Sequential(_Centred(), layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])


@final
class _Centred(nn.Module):
    """[0, 1] to [−√3, √3], of mean 0 and variance 1 where inputs are uniform."""

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(12) * (x - 0.5)


def fit_swag(
    train_X: Tensor,
    train_Y: Tensor,
    *,
    bounds: Tensor | None = None,
    network: NetworkMaker = mlp,
    members: int = 1,
    steps: int = 200,
    averaging_steps: int = 100,
    rank: int = 20,
    lr: float = 0.01,
    swa_lr: float = 0.01,
    weight_decay: float = 1e-4,
    noise_std: float = 0.1,
    scale: float = 1.0,
    n_samples: int = 64,
    seed: int = 0,
) -> SWAGModel:
    r"""Trains a network on observations and returns the ensemble around it as a BoTorch model.

    Inputs are scaled to [0, 1], outcomes to mean 0 and variance 1. AdamW on half of the rows a step, `steps`
    at a rate that falls from `lr` to `swa_lr`, then `averaging_steps` at `swa_lr`, with 2·rank snapshots or
    some more, one a step at most.
    Each step adds fresh noise of `noise_std` to the outcomes: a network that goes through all its points has
    no gradient left, and its weights would stand still where SWAG wants to see how far they may move.

    Args:
        train_X: (n, d), n ≥ 2.
        train_Y: (n, 1), one outcome, to be maximised or not.
        bounds: (2, d), lower and upper; by default those of train_X.
        network: network(d, generator) → a new network (N, d) → (N, 1) without batch norm.
        members: networks, each trained from weights of its own; more than one is MultiSWAG.
        steps: before averaging.
        averaging_steps: at the constant rate, 4 or more.
        rank: deviations kept, 2 or more.
        lr: the first rate.
        swa_lr: the rate during averaging; the larger, the wider the ensemble.
        weight_decay: AdamW's.
        noise_std: of the noise, in standard deviations of the outcome; its square is also what
            `observation_noise=True` adds.
        scale: of SWAG's covariance.
        n_samples: S.
        seed: of the initial weights, batches, noise and draws.

    Raises:
        InputError: shapes that do not fit, several outcomes, values that are not finite, a number out of
            range, a network of other outputs.

    Source: Maddox et al. 2019, arXiv:1902.02476; Wilson & Izmailov 2020 (MultiSWAG), arXiv:2002.08791.

    >>> X = torch.rand(12, 2, dtype=torch.float64)
    >>> model = fit_swag(X, X.sum(1, keepdim=True), steps=20, averaging_steps=20)
    >>> model.posterior(X).mean.shape
    torch.Size([12, 1])
    """
    _check(train_X, train_Y, bounds)
    # From rank 2 and four snapshots on there is a covariance.
    _check_counts(1, members=members, steps=steps)
    _check_counts(2, rank=rank)
    _check_counts(4, averaging_steps=averaging_steps)
    _check_reals(lr=lr, swa_lr=swa_lr, noise_std=noise_std, weight_decay=weight_decay)
    if not (lr > 0 and swa_lr > 0):
        raise InputError(f"lr, swa_lr: got {lr} and {swa_lr}; pass rates above 0")
    check_n_samples(n_samples)
    if isinstance(network, nn.Module) or not callable(network):
        raise InputError(f"network: got a {type(network).__name__}; pass a function (d, generator) → network")
    to_unit = Normalize(train_X.shape[-1], bounds=bounds)
    standardise = Standardize(m=1)
    with torch.no_grad():
        x, y = to_unit(train_X), standardise(train_Y)[0]
    to_unit.eval(), standardise.eval()
    draws, *own = split_seeds(checked_seed(seed), 1 + members)
    posteriors: list[Posterior] = []
    for member_seed in own:
        generator = torch.Generator().manual_seed(member_seed)
        model = network(train_X.shape[-1], generator).to(x)
        collector = Collector(model, rank=rank)
        _train_(
            model, collector, x, y, generator, steps, averaging_steps, lr, swa_lr, weight_decay, noise_std
        )
        posteriors.append(collector.swag(scale))
    return SWAGModel(
        model,
        posteriors[0] if members == 1 else Mixture(posteriors),
        n_samples,
        seed=draws,
        likelihood=HomoscedasticGaussian(noise_std**2) if noise_std > 0 else None,
        input_transform=to_unit,
        outcome_transform=standardise,
    )


@torch.enable_grad()  # candidates are often made under no_grad
def _train_(
    model: nn.Module,
    collector: Collector,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    steps: int,
    averaging_steps: int,
    lr: float,
    swa_lr: float,
    weight_decay: float,
    noise_std: float,
) -> None:
    """Trains a network and collects its last part."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    n_rows = max(2, math.ceil(len(x) / 2))
    every = max(1, averaging_steps // (2 * collector.rank))
    for step in range(1, steps + averaging_steps + 1):
        part = min(1.0, step / max(steps, 1))
        optimizer.param_groups[0]["lr"] = swa_lr + (lr - swa_lr) * 0.5 * (1 + math.cos(math.pi * part))
        rows = torch.randperm(len(x), generator=generator, device="cpu")[:n_rows].to(x.device)
        noise = noise_std * torch.randn(n_rows, 1, generator=generator, dtype=torch.float64, device="cpu").to(
            y
        )
        optimizer.zero_grad()
        outputs = model(x[rows])
        if outputs.shape != noise.shape:  # they would be broadcast
            raise InputError(
                f"network: gave outputs of shape {tuple(outputs.shape)} for {n_rows} rows; pass one of "
                "(N, d) → (N, 1)"
            )
        F.mse_loss(outputs, y[rows] + noise).backward()
        optimizer.step()
        if step > steps and (step - steps) % every == 0:
            collector.collect(model)


def _check(train_X: Tensor, train_Y: Tensor, bounds: Tensor | None) -> None:
    for name, value, form in (("train_X", train_X, "(n, d)"), ("train_Y", train_Y, "(n, 1)")):
        if not isinstance(value, Tensor) or value.ndim != 2 or not value.is_floating_point():
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name}: got {came}; pass a floating-point tensor {form}")
        if not bool(value.isfinite().all()):
            raise InputError(f"{name}: holds NaN or infinite values; leave those rows out")
    if train_Y.shape[1] != 1:
        raise InputError(
            f"train_Y: has {train_Y.shape[1]} outcomes; several are not supported in one model: fit one "
            "for each column and join them in botorch.models.model.ModelList"
        )
    if len(train_X) != len(train_Y) or len(train_X) < 2:
        raise InputError(
            f"train_X, train_Y: have {len(train_X)} and {len(train_Y)} rows; pass as many, 2 or more"
        )
    if bounds is not None and (not isinstance(bounds, Tensor) or bounds.shape != (2, train_X.shape[1])):
        came = f"shape {tuple(bounds.shape)}" if isinstance(bounds, Tensor) else type(bounds).__name__
        raise InputError(f"bounds: got {came}; pass lower and upper bounds, a tensor (2, {train_X.shape[1]})")
    if bounds is not None and not bool((bounds[0] < bounds[1]).all()):
        raise InputError("bounds: a lower bound is not below its upper one; pass rows lower, upper")


def _check_counts(least: int, **counts: Any) -> None:
    for name, count in counts.items():
        whole(name, count, least)


def _check_reals(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            raise InputError(f"{name}: got {value!r}; pass a finite number, 0 or more")
