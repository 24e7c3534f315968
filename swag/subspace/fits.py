"""What a variational or Gaussian method gives: a density over z, and what it means for the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.noise import take_seed
from swag.posterior import Empirical, LowRankGaussian
from swag.subspace.realnvp import RealNVP
from swag.subspace.space import Subspace


@final
@dataclass(frozen=True)
class GaussianFit:
    r"""N(mean, factor factorᵀ) over z; of n problems at once where it comes from a batch form.

    Attributes:
        mean: (k,), or (n, k).
        factor: a square root of the covariance, (k, k), or (n, k, k).
        elbo: E_q[log p(z) + log p(D|z)/T − log q(z)] in nats, a lower bound of the tempered log-evidence, by
            Monte Carlo; a scalar or (n,), NaN where nothing was optimised.
        elbo_error: its standard error.
        log_evidence: Laplace's estimate of the tempered log-evidence; NaN for the others.
        history: the ELBO's estimate at each step, (n_steps,) or (n_steps, n).
        method: whose.
        subspace: where z lives; None for a density over z alone.
        approximation: what the log-likelihood leaves out, in words; empty for an exact one.
    """

    mean: Tensor
    factor: Tensor
    elbo: Tensor
    elbo_error: Tensor
    log_evidence: Tensor
    history: Tensor
    method: str
    subspace: Subspace | None = None
    approximation: str = ""

    @property
    def covariance(self) -> Tensor:
        """(k, k), or (n, k, k)."""
        return self.factor @ self.factor.mT

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """z (n_samples, k), or (n, n_samples, k)."""
        own = torch.Generator().manual_seed(take_seed(generator))
        shape = (*self.mean.shape[:-1], n_samples, self.mean.shape[-1])
        normals = torch.randn(shape, generator=own, dtype=torch.float64, device="cpu").to(self.mean)
        return self.mean.unsqueeze(-2) + normals @ self.factor.mT

    def posterior(self) -> LowRankGaussian:
        """N(ŵ + P mean, P factor factorᵀ Pᵀ): a Gaussian over the weights that lies in the subspace.

        Its `cov_diag` is zero: it can be sampled, averaged and saved, and has no density over all of θ.
        """
        if self.mean.ndim > 1:
            raise InputError(
                "posterior: this holds n problems with weights of their own; use sample() and lift each"
            )
        if self.subspace is None:
            return LowRankGaussian(self.mean, torch.zeros_like(self.mean), self.factor)
        basis = self.subspace.basis
        mean = self.subspace.lift(self.mean)
        factor = (basis.double() @ self.factor.double()).to(basis)
        return LowRankGaussian(mean, torch.zeros_like(mean), factor, layout=self.subspace.layout)

    def __repr__(self) -> str:
        return f"GaussianFit({self.method}, z {tuple(self.mean.shape)})"


@final
@dataclass(frozen=True)
class FlowFit:
    """A normalising flow over z.

    Attributes:
        flow: draws z with their log-density.
        elbo: as `GaussianFit.elbo`, a scalar.
        elbo_error: its standard error.
        history: the ELBO's estimate at each step (n_steps,).
        z: the draws (S, k) that `posterior` lifts.
        subspace: where z lives; None for a density over z alone.
        approximation: what the log-likelihood leaves out, in words; empty for an exact one.
    """

    flow: RealNVP
    elbo: Tensor
    elbo_error: Tensor
    history: Tensor
    z: Tensor
    subspace: Subspace | None = None
    approximation: str = ""
    method: str = "RealNVP flow"

    @property
    def mean(self) -> Tensor:
        """E[z] (k,), of the draws."""
        return self.z.mean(0)

    @property
    def covariance(self) -> Tensor:
        """Cov[z] (k, k), of the draws."""
        return torch.cov(self.z.T).reshape(self.z.shape[-1], -1)

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """More draws z (n_samples, k)."""
        own = torch.Generator().manual_seed(take_seed(generator))
        with torch.no_grad():
            return self.flow.draw(n_samples, own)[0]

    def posterior(self) -> Empirical:
        """Equal mass on the lifted draws."""
        if self.subspace is None:
            return Empirical(self.z)
        return Empirical(self.subspace.lift(self.z), layout=self.subspace.layout)

    def __repr__(self) -> str:
        return f"FlowFit(z ({self.z.shape[-1]},), ELBO {float(self.elbo):.4g})"


def unknown(like: Tensor) -> Tensor:
    """NaN, where a method has no such number."""
    return torch.full_like(like, math.nan)
