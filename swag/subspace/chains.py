"""What a sampler gives: chains of z, how well they mixed, and the posterior over the weights they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from swag.errors import InputError
from swag.posterior import Empirical
from swag.subspace.convergence import effective_sample_size, split_rhat
from swag.subspace.space import Subspace


@final
@dataclass(frozen=True)
class Chains:
    """C chains of S samples each, in z.

    Attributes:
        z: (C, S, k), after burn-in and thinning; float64 where a subspace was given.
        log_likelihood: log p(D|z)/T at each (C, S), tempered.
        acceptance: accepted proposals a proposal, by chain (C,). Slice samplers always accept in the end, so
            theirs is transitions an evaluation: 1 would be no shrinking at all.
        n_evaluations: of the log-likelihood at one z, all chains and the burn-in included.
        sampler: whose.
        subspace: where z lives; None for a density over z alone.
        approximation: what the log-likelihood leaves out, in words; empty for an exact one.
        sample_stats: what else the sampler says of each draw, (C, S) by name.
    """

    z: Tensor
    log_likelihood: Tensor
    acceptance: Tensor
    n_evaluations: int
    sampler: str
    subspace: Subspace | None = None
    approximation: str = ""
    sample_stats: dict[str, Tensor] = field(default_factory=dict)

    @property
    def samples(self) -> Tensor:
        """All draws (C·S, k), chain after chain."""
        return self.z.flatten(0, 1)

    @property
    def mean(self) -> Tensor:
        """E[z] (k,)."""
        return self.samples.mean(0)

    @property
    def covariance(self) -> Tensor:
        """Cov[z] (k, k), divided by C·S − 1."""
        return torch.cov(self.samples.T).reshape(self.z.shape[-1], -1)

    def rhat(self) -> Tensor:
        """Rank-normalised split R̂ (k,): above 1.01 the chains do not agree [Vehtari et al. 2021]."""
        return split_rhat(self.z)

    def ess(self) -> Tensor:
        """Bulk effective sample size (k,): as many independent draws know the mean as well."""
        return effective_sample_size(self.z)

    def posterior(self, n_samples: int | None = None) -> Empirical:
        """Equal mass on the lifted draws: a posterior for `swag.Ensemble`, `swag.save` and `swag.Report`.

        Args:
            n_samples: keep this many, evenly spaced over all chains; None keeps all C·S, at D floats each.

        Raises:
            InputError: more samples than there are.
        """
        z = self.samples
        if n_samples is not None:
            if isinstance(n_samples, bool) or not isinstance(n_samples, int) or not 1 <= n_samples <= len(z):
                raise InputError(
                    f"n_samples: got {n_samples!r}; there are {len(z)} draws: pass 1 to {len(z)}"
                )
            z = z[torch.linspace(0, len(z) - 1, n_samples, dtype=torch.float64, device="cpu").round().long()]
        if self.subspace is None:
            return Empirical(z)
        return Empirical(self.subspace.lift(z), layout=self.subspace.layout)

    def chain(self, index: int) -> Tensor:
        """One chain's draws (S, k); for the batch samplers, one problem's."""
        return self.z[index]

    def to_arviz(self) -> dict[str, dict[str, Any]]:
        """Plain arrays, chain × draw × k, as `arviz.from_dict` takes them.

        arviz.from_dict(**chains.to_arviz())      # arviz 0.x
        arviz.from_dict(chains.to_arviz())        # arviz 1.x
        """
        stats = {"lp": self.log_likelihood, **self.sample_stats}
        return {
            "posterior": {"z": np.asarray(self.z.detach().cpu())},
            "sample_stats": {name: np.asarray(value.detach().cpu()) for name, value in stats.items()},
        }

    def __str__(self) -> str:
        chains, draws, k = self.z.shape
        parts = [f"{self.sampler}: {chains} × {draws} draws of z ({k},)"]
        if draws >= 4:
            parts.append(
                f"R̂ ≤ {float(self.rhat().max()):.3f}, effective draws ≥ {float(self.ess().min()):.0f}"
            )
        parts.append(f"acceptance {float(self.acceptance.mean()):.2f}, {self.n_evaluations:,} evaluations")
        if self.approximation:
            parts.append(f"approximate: {self.approximation}")
        return "; ".join(parts)

    def __repr__(self) -> str:
        return f"Chains({self.sampler}, {' × '.join(map(str, self.z.shape))})"
