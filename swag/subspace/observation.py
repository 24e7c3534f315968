"""What a row contributes: log p(y | outputs), differentiable, for the likelihoods that ensembles know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from swag.errors import InputError
from swag.predictive import Categorical, HeteroscedasticGaussian, HomoscedasticGaussian, Likelihood

RowLogProb = Callable[[Tensor, Tensor], Tensor]


def row_log_prob(likelihood: Likelihood | RowLogProb) -> RowLogProb:
    """(outputs (N, …), targets (N, …)) → log p(y_n | outputs_n) (N,), in nats.

    Raises:
        InputError: neither a known likelihood nor something to call.
    """
    if isinstance(likelihood, Categorical):
        return categorical
    if isinstance(likelihood, HeteroscedasticGaussian):
        return heteroscedastic_gaussian(likelihood.min_variance)
    if isinstance(likelihood, HomoscedasticGaussian):
        return homoscedastic_gaussian(likelihood.variance)
    if isinstance(likelihood, type) or not callable(likelihood):
        raise InputError(
            f"likelihood: got {likelihood!r}; pass swag.Categorical(), swag.HeteroscedasticGaussian(), "
            "swag.HomoscedasticGaussian(variance), or a function (outputs, targets) → log-densities (N,)"
        )
    return likelihood


def categorical(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs are logits (N, C), targets class numbers (N,)."""
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        raise InputError(
            f"batch: Categorical takes logits (N, C) and labels (N,); got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}"
        )
    # A sum over a one-hot mask, not a gather: twice differentiable forwards.
    log_probs = F.log_softmax(_float(outputs), dim=1)
    return (log_probs * F.one_hot(targets.long(), outputs.shape[1])).sum(1)


def heteroscedastic_gaussian(min_variance: float) -> RowLogProb:
    """Outputs are (N, 2), mean and raw variance, as `HeteroscedasticGaussian` says."""

    def log_prob(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.ndim != 2 or outputs.shape[1] != 2:
            raise InputError(
                f"batch: HeteroscedasticGaussian takes outputs (N, 2); got {tuple(outputs.shape)}"
            )
        outputs = _float(outputs)
        return _gaussian(outputs[:, 0], F.softplus(outputs[:, 1]) + min_variance, targets)

    return log_prob


def homoscedastic_gaussian(variance: float) -> RowLogProb:
    """Outputs are means (N,) or (N, 1)."""

    def log_prob(outputs: Tensor, targets: Tensor) -> Tensor:
        mean = _float(outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs)
        return _gaussian(mean, torch.full_like(mean, variance), targets)

    return log_prob


def target_in(batch: Any) -> Tensor:
    """The second element of a tuple or list; of a dict "labels", "label", "targets" or "y".

    Raises:
        InputError: neither.
    """
    if isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(batch[1], Tensor):
        return batch[1]
    if isinstance(batch, Mapping):
        for key in ("labels", "label", "targets", "y"):
            if isinstance(batch.get(key), Tensor):
                return batch[key]
    raise InputError(
        f"batches: no targets found in a {type(batch).__name__}; pass (x, y), or target=lambda batch: …"
    )


def _gaussian(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    y = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if y.shape != mean.shape:
        raise InputError(
            f"batch: the model gave {tuple(mean.shape)} means for targets {tuple(targets.shape)}"
        )
    return -0.5 * ((y.to(mean) - mean).square() / variance + variance.log() + math.log(2 * math.pi))


def _float(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
