"""Elliptical slice sampling [Murray, Adams & MacKay 2010]: no step size, and it always moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from swag.arguments import whole
from swag.noise import take_seed
from swag.subspace.chains import Chains
from swag.subspace.method import run
from swag.subspace.recorder import Recorder
from swag.subspace.space import Subspace
from swag.subspace.target import (
    Target,
    refuse_random,
    stack_target,
    start_of,
    subspace_of,
    target_of,
)

# Each miss shrinks the bracket by a random factor, a half or so: after these it is below any rounding.
_MOST_SHRINKS = 120
# Random numbers are drawn for this many ticks at once.
_BLOCK = 64


def elliptical_slice_batch(
    log_likelihood: Callable[[Tensor], Tensor],
    prior_std: float | Tensor,
    n_samples: int,
    *,
    z0: Tensor,
    temperature: float | Tensor = 1.0,
    burn_in: int = 0,
    thin: int = 1,
    generator: torch.Generator | None = None,
) -> Chains:
    """Elliptical slice sampling of n independent problems at once, such as the splits of a data set.

    Args:
        log_likelihood: z (n, k) → (n,); row i is always problem i.
        prior_std: a number, (k,), (n, 1) or (n, k).
        n_samples: draws kept of each problem.
        z0: where to start (n, k).
        temperature: T, a number or (n,).
        burn_in: transitions left out first.
        thin: transitions a draw.
        generator: gives one seed; None takes it from torch's global generator.

    Returns:
        Chains with z (n, n_samples, k): chain i belongs to problem i.

    Raises:
        DensityError, InputError: as `elliptical_slice`; "chain" names the problem.

    >>> chains = elliptical_slice_batch(lambda z: -z.square().sum(1), 1.0, 10, z0=torch.zeros(3, 2))
    >>> chains.z.shape
    torch.Size([3, 10, 2])
    """
    n, target = stack_target(log_likelihood, prior_std, temperature, z0)
    return _sample(target, start_of(z0, n, target), n_samples, burn_in, thin, generator, None, "")


@final
@dataclass(frozen=True)
class EllipticalSlice:
    r"""Elliptical slice sampling of p(z) p(D|z)^{1/T}, all chains together.

    Chains do not wait for each other: each goes on to its next transition as soon as it has accepted.

    Args:
        n_samples: draws kept of each chain.
        n_chains: four and more make R̂ worth looking at.
        burn_in: transitions left out first, in each chain.
        thin: transitions a draw.

    Source: Murray, Adams & MacKay 2010, arXiv:1001.0175; Izmailov et al. 2019, arXiv:1907.07504.

    >>> posterior = EllipticalSlice(50, n_chains=2).run(
    ...     lambda z: -z.square().sum(), subspace=Subspace(torch.zeros(3), torch.eye(3)[:, :2]), prior_std=1.0
    ... )
    >>> posterior
    Empirical(100 samples, D=3)
    """

    n_samples: int = 500
    n_chains: int = 4
    burn_in: int = 100
    thin: int = 1

    run = run

    def infer(
        self,
        log_likelihood: Any,
        *,
        prior_std: float | Tensor,
        temperature: float = 1.0,
        subspace: Subspace | None = None,
        z0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Chains:
        """Draws the chains.

        Args:
            log_likelihood: a `LogLikelihood`, a function of z (k,) → scalar, or a `Batched` one.
            prior_std: the prior's standard deviation, a number or (k,).
            temperature: T > 0: the likelihood is raised to 1/T.
            subspace: where z lives; by default the log-likelihood's own.
            z0: where to start, (k,) or (n_chains, k); None is z = 0, the subspace's offset. Draws from the
                prior test whether there are other modes.
            generator: gives one seed; None takes it from torch's global generator.

        Raises:
            DensityError: NaN or +∞ (names z and step), or a chain that never moves.
            InputError: other bad arguments, or a log-likelihood that is random.
        """
        n_chains = whole("n_chains", self.n_chains, 1)
        refuse_random(log_likelihood)
        space = subspace_of(log_likelihood, subspace)
        target = target_of(log_likelihood, prior_std, temperature, space, z0)
        start = start_of(z0, n_chains, target)
        note = getattr(log_likelihood, "approximation", "")
        return _sample(target, start, self.n_samples, self.burn_in, self.thin, generator, space, note)


@torch.no_grad()
def _sample(
    target: Target,
    z0: Tensor,
    n_samples: int,
    burn_in: int,
    thin: int,
    generator: torch.Generator | None,
    subspace: Subspace | None,
    approximation: str,
) -> Chains:
    random = np.random.default_rng(take_seed(generator))
    recorder = Recorder(target, z0, n_samples, burn_in, thin, "elliptical slice")
    std = target.std(len(z0)).cpu().numpy()
    z, height = recorder.start(z0)
    n, k = z.shape
    fresh = np.ones(n, dtype=bool)
    nu, threshold = np.empty_like(z), np.empty_like(height)
    angle, low, high = np.empty(n), np.zeros(n), np.zeros(n)
    shrinks = np.zeros(n, dtype=np.int64)
    full = 2 * math.pi
    for _ in recorder.ticks():
        at = recorder.n_ticks % _BLOCK
        if at == 0:
            normals = random.standard_normal((_BLOCK, n, k)).astype(z.dtype)
            turns = random.random((_BLOCK, n))
            heights = -random.standard_exponential((_BLOCK, n))  # log u
            if (shrinks > _MOST_SHRINKS).any():
                recorder.refuse_stuck(z, int(shrinks.argmax()))
        # A fresh transition starts with a whole turn; a running one draws anew from its bracket.
        nu = np.where(fresh[:, None], normals[at] * std, nu)
        threshold = np.where(fresh, height + heights[at], threshold)
        angle = np.where(fresh, full * turns[at], low + (high - low) * turns[at])
        low, high = np.where(fresh, angle - full, low), np.where(fresh, angle, high)
        cosine, sine = np.cos(angle).astype(z.dtype), np.sin(angle).astype(z.dtype)
        proposal = z * cosine[:, None] + nu * sine[:, None]
        value = recorder.evaluate(proposal)
        accepted = value > threshold
        below = angle < 0
        low, high = np.where(below, angle, low), np.where(below, high, angle)
        shrinks = np.where(accepted | ~recorder.running, 0, shrinks + 1)
        moved = np.where(accepted[:, None], proposal, z)
        height = np.where(accepted, value, height)
        recorder.take(moved, height, accepted, z)
        z, fresh = moved, accepted
    return recorder.chains(subspace, approximation)
