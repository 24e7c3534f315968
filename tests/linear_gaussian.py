"""A regression y = A z + noise with a Gaussian prior on z: the tempered posterior has a closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

VARIANCE = 0.5


@dataclass(frozen=True)
class LinearGaussian:
    """p(z) p(D|z)^{1/T}, z ~ N(0, prior_std² I), y ~ N(A z, VARIANCE I)."""

    a: Tensor
    y: Tensor
    prior_std: float
    temperature: float

    def log_likelihood(self, z: Tensor) -> Tensor:
        """z (k,) → a scalar, not tempered."""
        n = len(self.y)
        return -0.5 * (self.y - self.a @ z).square().sum() / VARIANCE - 0.5 * n * math.log(
            2 * math.pi * VARIANCE
        )

    def batch(self, z: Tensor) -> Tensor:
        """z (n, k) → (n,)."""
        n = len(self.y)
        errors = (self.y - z @ self.a.T).square().sum(1)
        return -0.5 * errors / VARIANCE - 0.5 * n * math.log(2 * math.pi * VARIANCE)

    @property
    def cov(self) -> Tensor:
        k = self.a.shape[1]
        precision = (
            self.a.T @ self.a / (VARIANCE * self.temperature) + torch.eye(k).double() / self.prior_std**2
        )
        return precision.inverse()

    @property
    def mean(self) -> Tensor:
        return self.cov @ self.a.T @ self.y / (VARIANCE * self.temperature)

    @property
    def log_evidence(self) -> float:
        """log ∫ p(z) p(D|z)^{1/T} dz, from the three densities at one point."""
        z, k = self.mean, self.a.shape[1]
        prior = MultivariateNormal(torch.zeros(k).double(), self.prior_std**2 * torch.eye(k).double())
        exact = MultivariateNormal(z, self.cov)
        return float(prior.log_prob(z) + self.log_likelihood(z) / self.temperature - exact.log_prob(z))

    @property
    def best_mean_field(self) -> float:
        """The ELBO of the best diagonal Gaussian: variances 1/diag(precision), log-evidence less the KL."""
        precision = self.cov.inverse()
        gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
        return self.log_evidence - float(gap)


def linear_gaussian(temperature: float = 1.0, prior_std: float = 0.7) -> LinearGaussian:
    """Thirty rows, three correlated coefficients."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 1.2]]).double()
    a = torch.randn(30, 3, generator=generator).double() @ mixing / 3
    y = (
        a @ torch.tensor([0.5, -1.0, 0.8]).double()
        + VARIANCE**0.5 * torch.randn(30, generator=generator).double()
    )
    return LinearGaussian(a, y, prior_std, temperature)
