"""Slow truths: the formulas written out in float64 numpy, from the whole trajectory, without cleverness.

Nothing here imports `swag`, so an error would have to be made twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tests.checks import array

Array = NDArray[np.float64]


def flat(model: nn.Module, names: Sequence[str]) -> Array:
    """The named parameters, one after the other, each row-major; read element by element."""
    found = dict(model.named_parameters())
    values: list[float] = []
    for name in names:
        tensor = array(found[name])
        values += [float(tensor[index]) for index in np.ndindex(tensor.shape)]
    return np.array(values)


@dataclass(frozen=True)
class Moments:
    """What a collector holds after the trajectory."""

    mean: Array
    sq_dev: Array
    deviations: Array  # (min(n, rank), D), oldest first


def moments(thetas: Array, rank: int) -> Moments:
    """Two passes over θ₁ … θ_n (n, D); the deviations are taken from the running mean.

    Sums are taken on θ − θ₁, which is exact for neighbouring floats, so that float64 itself adds nothing.
    """
    n = len(thetas)
    x = thetas - thetas[0]
    mean = x.mean(0)
    running = np.stack([x[: i + 1].mean(0) for i in range(n)])
    return Moments(thetas[0] + mean, ((x - mean) ** 2).sum(0), (x - running)[max(0, n - rank) :])


def swag_covariance(thetas: Array, rank: int, scale: float) -> Array:
    """scale·(Σ_diag + D̂D̂ᵀ/(k−1)) (D, D), k = min(n, rank) [Maddox et al. 2019]."""
    found = moments(thetas, rank)
    rows = found.deviations
    return scale * (np.diag(found.sq_dev / len(thetas)) + rows.T @ rows / (len(rows) - 1))


def gaussian(mean: Array, cov: Array) -> torch.distributions.MultivariateNormal:
    """torch's dense Gaussian in float64."""
    return torch.distributions.MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(cov))


def mixture_moments(weights: Array, means: Array, covs: Array) -> tuple[Array, Array]:
    """Mean (D,) and covariance (D, D) of Σ w_m N(μ_m, C_m): E[θθᵀ] − E[θ]E[θ]ᵀ, written out."""
    mean = np.einsum("m,mi->i", weights, means)
    second = np.einsum("m,mij->ij", weights, covs + means[:, :, None] * means[:, None, :])
    return mean, second - np.outer(mean, mean)


def mixture_log_prob(weights: Array, means: Array, covs: Array, theta: Array) -> Array:
    """log Σ w_m N(θ; μ_m, C_m) (S,) by torch.distributions."""
    # torch raises weights of zero to 1e-16, so those components are left out.
    weights, means, covs = weights[weights > 0], means[weights > 0], covs[weights > 0]
    components = torch.distributions.MultivariateNormal(torch.from_numpy(means), torch.from_numpy(covs))
    family = torch.distributions.Categorical(torch.from_numpy(weights))
    mixture = torch.distributions.MixtureSameFamily(family, components)
    return mixture.log_prob(torch.from_numpy(theta)).numpy()
