"""What a predictive of S networks scores on the test rows of one split, in the target's original units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.uci.sets import Split
from swag import metrics


def score(means: Tensor, variances: Tensor, split: Split) -> dict[str, float]:
    """The row of a results file.

    log_likelihood is the exact mixture's, log_likelihood_gaussian and coverage95 are those of the Gaussian
    with the mixture's mean and variance (as the published tables give them), crps is the exact mixture's.

    Args:
        means: (S, M) members' means in standardised units.
        variances: (S, M) members' variances, likewise.
        split: the units and the outcomes.
    """
    means, variances = original_units(means, variances, split)
    mean, variance = matched_gaussian(means, variances)
    y = split.test_y
    return {
        "log_likelihood": -metrics.mixture_nll(means, variances, y),
        "log_likelihood_gaussian": -metrics.gaussian_nll(mean, variance, y),
        "rmse": metrics.rmse(mean, y),
        "coverage95": metrics.coverage(mean, variance, y, level=0.95),
        "crps": metrics.mixture_crps(means, variances, y),
    }


def original_units(means: Tensor, variances: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Standardised means and variances in the target's own units, float64."""
    return split.centre + split.unit * means.double(), split.unit**2 * variances.double()


def matched_gaussian(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (M,) of the mixture: μ* = mean μ_s, σ*² = mean(σ²_s) + var(μ_s)."""
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)


def log_densities(means: Tensor, variances: Tensor, y: Tensor) -> Tensor:
    """log of the exact mixture's density at y (…, M) for members (…, S, M), without the rows' mean."""
    normal = torch.distributions.Normal(means, variances.sqrt(), validate_args=False)
    return normal.log_prob(y.unsqueeze(-2)).logsumexp(-2) - torch.tensor(float(means.shape[-2])).log()


def paired(differences: Sequence[float]) -> tuple[float, float, int, int]:
    """Mean and standard error of differences split by split; how many are positive, how many are none."""
    values = torch.tensor(list(differences), dtype=torch.float64)
    error = float(values.std(correction=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
    # A scale of 0 makes SWAG the same as SWA, but for the order of additions.
    none = values.abs() < 1e-9
    return float(values.mean()), error, int(((values > 0) & ~none).sum()), int(none.sum())
