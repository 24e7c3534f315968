"""Univariate slice sampling, one coordinate after the other, with stepping out [Neal 2003]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from swag.arguments import whole
from swag.errors import InputError
from swag.noise import take_seed
from swag.subspace.chains import Chains
from swag.subspace.method import run
from swag.subspace.recorder import Array, Counts, Recorder
from swag.subspace.space import Subspace
from swag.subspace.target import (
    DensityError,
    Target,
    refuse_random,
    shown,
    stack_target,
    start_of,
    subspace_of,
    target_of,
)

_BLOCK = 64
_MOST_SHRINKS = 120
# A proper prior ends the stepping out; this many steps say that the width is wrong by orders of magnitude.
_MOST_STEPS_OUT = 10_000
# What a chain is doing to its bracket: moving the left end out, the right end, or drawing points inside.
_LEFT, _RIGHT, _INSIDE = 0, 1, 2


def univariate_slice_batch(
    log_likelihood: Callable[[Tensor], Tensor],
    prior_std: float | Tensor,
    n_samples: int,
    *,
    z0: Tensor,
    temperature: float | Tensor = 1.0,
    burn_in: int = 0,
    thin: int = 1,
    width: float = 1.0,
    generator: torch.Generator | None = None,
) -> Chains:
    """Univariate slice sampling of n independent problems at once; arguments as `elliptical_slice_batch`.

    A transition is one sweep over all the coordinates.

    >>> chains = univariate_slice_batch(lambda z: -z.square().sum(1), 1.0, 10, z0=torch.zeros(3, 2))
    >>> chains.z.shape
    torch.Size([3, 10, 2])
    """
    n, target = stack_target(log_likelihood, prior_std, temperature, z0)
    return _sample(target, start_of(z0, n, target), n_samples, burn_in, thin, width, generator, None, "")


@final
@dataclass(frozen=True)
class UnivariateSlice:
    r"""Slice sampling of p(z) p(D|z)^{1/T}, coordinate by coordinate, all chains together.

    For each coordinate, with log y = log p(z) + log p(D|z)/T + log u: an interval of length w·prior_std at a
    random place around z_j is stepped out until both ends are below log y; points are drawn inside it, and it
    is shrunk to those below, until one is above.

    Args:
        n_samples: draws kept of each chain.
        n_chains: four and more make R̂ worth looking at.
        burn_in: sweeps left out first, in each chain.
        thin: sweeps a draw.
        width: w, the first interval's length in units of the prior's standard deviation. Any positive number
            is right; a good one saves evaluations.

    Source: Neal 2003, figures 3 and 5; Izmailov et al. 2019, arXiv:1907.07504.

    >>> UnivariateSlice(50, n_chains=2).run(lambda z: -z.square().sum(), prior_std=1.0, z0=torch.zeros(2))
    Empirical(100 samples, D=2)
    """

    n_samples: int = 500
    n_chains: int = 4
    burn_in: int = 50
    thin: int = 1
    width: float = 1.0

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
        """Draws the chains; arguments and errors as `EllipticalSlice.infer`."""
        n_chains = whole("n_chains", self.n_chains, 1)
        refuse_random(log_likelihood)
        space = subspace_of(log_likelihood, subspace)
        target = target_of(log_likelihood, prior_std, temperature, space, z0)
        start = start_of(z0, n_chains, target)
        note = getattr(log_likelihood, "approximation", "")
        return _sample(
            target, start, self.n_samples, self.burn_in, self.thin, self.width, generator, space, note
        )


@torch.no_grad()
def _sample(
    target: Target,
    z0: Tensor,
    n_samples: int,
    burn_in: int,
    thin: int,
    width: float,
    generator: torch.Generator | None,
    subspace: Subspace | None,
    approximation: str,
) -> Chains:
    if not 0 < width < math.inf:
        raise InputError(
            f"width: got {width!r}; pass a positive number, 1 for the prior's standard deviation"
        )
    random = np.random.default_rng(take_seed(generator))
    recorder = Recorder(target, z0, n_samples, burn_in, thin, "univariate slice")
    std = target.std(len(z0)).cpu().numpy()
    z, height = recorder.start(z0)
    n, k = z.shape
    every = np.arange(n)
    coordinate, tries, phase = (np.zeros(n, dtype=np.int64) for _ in range(3))
    fresh = np.ones(n, dtype=bool)
    low, high, threshold = np.zeros(n), np.zeros(n), np.zeros(n)
    swept_from = z.copy()
    for _ in recorder.ticks():
        at = recorder.n_ticks % _BLOCK
        if at == 0:
            places, turns = random.random((2, _BLOCK, n))
            heights = -random.standard_exponential((_BLOCK, n))  # log u
            _check_tries(tries, phase, z, recorder)
        here, unit = z[every, coordinate], std[every, coordinate]
        step = width * unit
        # log p(z) matters by its difference along one coordinate alone, −(x² − z_j²)/2σ².
        threshold = np.where(fresh, height + heights[at], threshold)
        low = np.where(fresh, here - step * places[at], low)
        high = np.where(fresh, low + step, high)
        inside = low + (high - low) * turns[at]
        point = np.where(phase == _LEFT, low, np.where(phase == _RIGHT, high, inside)).astype(z.dtype)
        proposal = z.copy()
        proposal[every, coordinate] = point
        value = recorder.evaluate(proposal)
        above = value - 0.5 * (point - here) * (point + here) / unit**2 > threshold
        # An end that is above goes one further out; a point inside that is below becomes an end.
        is_inside = phase == _INSIDE
        accepted, missed = is_inside & above, is_inside & ~above
        low = np.where(missed & (point < here), point, np.where((phase == _LEFT) & above, low - step, low))
        high = np.where(
            missed & (point >= here), point, np.where((phase == _RIGHT) & above, high + step, high)
        )
        turned = ~is_inside & ~above
        tries = np.where(accepted | turned | ~recorder.running, 0, tries + 1)
        z[accepted] = proposal[accepted]
        height = np.where(accepted, value, height)
        swept = accepted & (coordinate == k - 1)
        recorder.take(z, height, swept, swept_from)
        swept_from[swept] = z[swept]
        coordinate = np.where(accepted, (coordinate + 1) % k, coordinate)
        phase = np.where(accepted, _LEFT, phase + turned)
        fresh = accepted
    return recorder.chains(subspace, approximation)


def _check_tries(tries: Counts, phase: Counts, z: Array, recorder: Recorder) -> None:
    """Raises DensityError for a chain that finds no point, or no end."""
    stuck = (tries > _MOST_SHRINKS) & (phase == _INSIDE)
    if stuck.any():
        recorder.refuse_stuck(z, int(np.flatnonzero(stuck)[0]))
    endless = (tries > _MOST_STEPS_OUT) & (phase != _INSIDE)
    if endless.any():
        row = int(np.flatnonzero(endless)[0])
        at = torch.from_numpy(z[row].copy())
        raise DensityError(
            f"width: chain {row} stepped out {_MOST_STEPS_OUT} times at z = {shown(at)}; pass a larger one",
            z=at,
            step=int(recorder.steps[row]),
            chain=recorder.chain(row),
        )
