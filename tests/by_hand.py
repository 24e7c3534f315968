"""The loop that an ensemble saves its user from writing, written out: one fresh model a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import swag
from swag.parameters import Layout
from tests.cases import CASES, features
from tests.checks import Array, array

# Probabilities from float32 networks: other memory formats and batch sizes take other kernels.
RTOL = 5e-6
CASE = {case.name: case for case in CASES}


def trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def gaussian(model: nn.Module, *, std: float = 0.2, seed: int = 0) -> swag.LowRankGaussian:
    """A posterior around the model's weights, with a diagonal and two rows."""
    layout = Layout.of(model)
    mean = layout.flatten(model)
    generator = torch.Generator().manual_seed(seed)
    rows = std * torch.randn(layout.size, 2, generator=generator, dtype=mean.dtype)
    return swag.LowRankGaussian(mean, torch.full_like(mean, std**2), rows, layout=layout)


def write(model: nn.Module, names: Iterable[str], theta: Tensor) -> None:
    found, at = dict(model.named_parameters()), 0
    for name in names:
        found[name].data.copy_(theta[at : at + found[name].numel()].reshape(found[name].shape))
        at += found[name].numel()
    assert at == len(theta)


def softmax(logits: Tensor) -> Array:
    return array(torch.softmax(logits.double(), -1))


def by_hand(
    build: Callable[[], nn.Module],
    thetas: Tensor,
    x: Any,
    *,
    names: list[str] | None = None,
    bn_loader: list[Any] | None = None,
    forward: Callable[[nn.Module, Any], Tensor] = lambda model, batch: model(batch),
) -> Array:
    """Members' probabilities (S, N, C): a fresh model each, weights written in, statistics refreshed."""
    members = []
    for theta in thetas:
        model = build()
        write(model, trainable(model) if names is None else names, theta)
        if bn_loader is not None:
            swag.refresh_batchnorm_(model, bn_loader, forward=forward)
        with torch.no_grad():
            members.append(softmax(forward(model.eval(), x)))
    return np.stack(members)


def draws(posterior: swag.Posterior, n_samples: int, seed: int) -> Tensor:
    return posterior.sample(n_samples, generator=torch.Generator().manual_seed(seed))


def training_batches() -> list[Tensor]:
    return [features(20, seed=5) * 2 + 1, features(13, seed=6) - 1, features(1, seed=7)]
