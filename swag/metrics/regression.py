"""Scores of Gaussian predictions: each takes the mean and the VARIANCE (not the standard deviation) of a row.

All work in float64 and average over rows. For the exact mixture of an ensemble see mixture.py; for intervals
and quantiles from anywhere, intervals.py.
"""

import math
from statistics import NormalDist

import torch

from swag.metrics.inputs import Array, Values, above_zero, as_level, as_variance, as_vector, like, same_length

SQRT_PI = math.sqrt(math.pi)


def gaussian_inputs(
    mean: Values, variance: Values, y: Values
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, variance ≥ 0 and outcome, float64 (N,) on the device of the mean."""
    means, variances, outcomes = as_vector("mean", mean), as_variance(variance), as_vector("y", y)
    same_length("mean", means, variance=variances, y=outcomes)
    return means, variances.to(means.device), outcomes.to(means.device)


def rmse(mean: Values, y: Values) -> float:
    r"""Root mean squared error: √(1/N Σ_i (mean_i − y_i)²), in units of y.

    Args:
        mean: (N,) predictions, tensor or array.
        y: (N,) outcomes.

    Returns:
        0 or more.

    Raises:
        InputError: shapes differ, or a value is not finite.

    Example:
        >>> rmse([1.0, 2.0], [1.0, 4.0])  # doctest: +ELLIPSIS
        1.4142...
    """
    means, outcomes = as_vector("mean", mean), as_vector("y", y)
    same_length("mean", means, y=outcomes)
    return math.sqrt(float((means - outcomes.to(means.device)).square().mean()))


def gaussian_nll(mean: Values, variance: Values, y: Values) -> float:
    r"""Negative log-density of the outcome: 1/N Σ_i ½ (ln 2π v_i + (y_i − m_i)²/v_i), nats.

    Args:
        mean: (N,) m.
        variance: (N,) v > 0, in units of y squared.
        y: (N,) outcomes.

    Returns:
        A mean over rows, of any sign; it falls by ln k if y is measured in units k times larger.

    Raises:
        InputError: shapes differ, a value is not finite, or a variance is not above 0.

    Example:
        >>> round(gaussian_nll([0.0], [1.0], [0.0]), 4)
        0.9189
    """
    means, variances, outcomes = gaussian_inputs(mean, variance, y)
    above_zero("variance", variances)
    scaled = (outcomes - means).square() / variances
    return float((0.5 * (math.log(2 * math.pi) + variances.log() + scaled)).mean())


def crps(mean: Values, variance: Values, y: Values) -> float:
    r"""Continuous ranked probability score, ∫ (F(t) − 1[y ≤ t])² dt, of a normal, averaged over rows.

    With σ = √v and z = (y − m)/σ: σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π), and |y − m| for v = 0 (Gneiting et al.,
    2005).

    Args:
        mean: (N,) m.
        variance: (N,) v ≥ 0, in units of y squared.
        y: (N,) outcomes.

    Returns:
        0 or more, in units of y.

    Raises:
        InputError: shapes differ, a value is not finite, or a variance is negative.

    Example:
        >>> round(crps([0.0], [1.0], [0.0]), 4)
        0.2337
    """
    means, variances, outcomes = gaussian_inputs(mean, variance, y)
    return float(gaussian_crps_rows(means, variances, outcomes).mean())


def gaussian_crps_rows(means: torch.Tensor, variances: torch.Tensor, outcomes: torch.Tensor) -> torch.Tensor:
    """The closed form for each row; float64 (N,)."""
    sigma = variances.sqrt()
    return (mean_abs_normal(outcomes - means, variances) - sigma / SQRT_PI).clamp_min(0)


def mean_abs_normal(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """E|X| of X ~ N(mean, variance): 2σ φ(μ/σ) + μ (2Φ(μ/σ) − 1); |μ| where the variance is 0."""
    sigma = variance.sqrt()
    z = mean / torch.where(sigma > 0, sigma, 1.0)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    value = 2 * sigma * density + mean * torch.erf(z / math.sqrt(2))
    return torch.where(sigma > 0, value, mean.abs())


def coverage(mean: Values, variance: Values, y: Values, level: float = 0.95) -> float:
    r"""Fraction of outcomes inside the central interval m ± z √v, ends included, z = Φ⁻¹((1 + level)/2).

    Args:
        mean: (N,) m.
        variance: (N,) v ≥ 0, in units of y squared.
        y: (N,) outcomes.
        level: the probability the interval claims, a fraction.

    Returns:
        A fraction, to be compared with `level`.

    Raises:
        InputError: shapes differ, a value is not finite, a variance is negative, or `level` is not in (0, 1).

    Example:
        >>> coverage([0.0, 0.0], [1.0, 1.0], [1.9, 2.0])
        0.5
    """
    means, variances, outcomes = gaussian_inputs(mean, variance, y)
    half = NormalDist().inv_cdf((1 + as_level("level", level)) / 2) * variances.sqrt()
    return float(((outcomes - means).abs() <= half).double().mean())


def sharpness(variance: Values) -> float:
    r"""How narrow the predictions are: √(1/N Σ_i v_i), the root mean variance, in units of y.

    Narrow is good only where the coverage is right; it needs no outcomes.

    Args:
        variance: (N,) v ≥ 0, in units of y squared.

    Returns:
        0 or more.

    Raises:
        InputError: a value is negative or not finite.

    Example:
        >>> sharpness([4.0, 4.0])
        2.0
    """
    return math.sqrt(float(as_variance(variance).mean()))


def pit(mean: Array, variance: Values, y: Values) -> Array:
    r"""Probability integral transform of each row: Φ((y − m)/√v), uniform if the predictions are right.

    Args:
        mean: (N,) m.
        variance: (N,) v > 0, in units of y squared.
        y: (N,) outcomes.

    Returns:
        (N,) float64 in [0, 1], a tensor or an array as `mean` is.

    Raises:
        InputError: shapes differ, a value is not finite, or a variance is not above 0.

    Example:
        >>> import torch
        >>> pit(torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([0.0]))
        tensor([0.5000], dtype=torch.float64)
    """
    means, variances, outcomes = gaussian_inputs(mean, variance, y)
    above_zero("variance", variances)
    return like(torch.special.ndtr((outcomes - means) / variances.sqrt()), mean)
