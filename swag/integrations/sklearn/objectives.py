"""What is minimised: the mean negative log-likelihood of a batch, rows weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn import functional as F

from swag.predictive import Categorical, HeteroscedasticGaussian
from swag.predictive.likelihood import Likelihood


class Objective(Protocol):
    """A loss, and the likelihood that goes with it."""

    @property
    def likelihood(self) -> Likelihood: ...

    def __call__(self, outputs: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
        """(1/N) Σ w_i·(−log p(y_i | outputs_i)), a scalar; weights of mean 1."""


@final
@dataclass(frozen=True)
class CrossEntropy:
    """−log softmax(logits)_y of logits (N, C) and class numbers y (N,)."""

    @property
    def likelihood(self) -> Likelihood:
        return Categorical()

    def __call__(self, outputs: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            return F.cross_entropy(outputs, y)
        return (F.cross_entropy(outputs, y, reduction="none") * weights).mean()


@final
@dataclass(frozen=True)
class GaussianNLL:
    """½(log 2πσ² + (y − μ)²/σ²) of outputs (N, 2): μ and v with σ² = softplus(v) + `least`.

    Args:
        least: the least variance, in units of the standardised targets' variance.
    """

    least: float

    @property
    def likelihood(self) -> Likelihood:
        return HeteroscedasticGaussian(min_variance=self.least)

    def __call__(self, outputs: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
        variance = F.softplus(outputs[:, 1]) + self.least
        losses = 0.5 * (torch.log(2 * torch.pi * variance) + (y - outputs[:, 0]).square() / variance)
        return losses.mean() if weights is None else (losses * weights).mean()
