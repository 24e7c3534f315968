"""Calibration errors less what chance adds: on few rows a calibrated model has an ECE above 0 too."""

import math

from swag.metrics.calibration import equal_mass_reliability_curve, reliability_curve
from swag.metrics.inputs import Values


def debiased_ece(probs: Values, labels: Values, n_bins: int = 15) -> float:
    r"""ECE less an estimate of what chance alone adds to it, over equal-width bins.

    With g_b the gap and s_b² = a_b (1 − a_b)/n_b the variance of the accuracy a_b, noise turns |g_b| into
    E|g_b + s_b ε| on average, so 2 |g_b| − E|g_b + s_b ε| is reported, ε standard normal and
    E|g + s ε| = s √(2/π) e^{−g²/2s²} + g erf(g/(s√2)). Source: Kumar et al., 2019, whose library draws ε.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B.

    Returns:
        A fraction, at most the ECE; cut at 0.

    Raises:
        InputError: as for `ece`.

    Example:
        >>> import torch
        >>> from swag.metrics import ece
        >>> probs, labels = torch.tensor([[0.75, 0.25]]).repeat(100, 1), torch.tensor([0] * 72 + [1] * 28)
        >>> round(ece(probs, labels), 4), round(debiased_ece(probs, labels), 4)
        (0.03, 0.0165)
    """
    curve = reliability_curve(probs, labels, n_bins)
    total = 0.0
    for n, hit, gap in zip(curve.counts, curve.accuracy, curve.gaps, strict=True):
        if n:
            noise = math.sqrt(hit * (1 - hit) / n)
            total += n / curve.n * (2 * abs(gap) - mean_of_folded_normal(gap, noise))
    return max(0.0, total)


def mean_of_folded_normal(mean: float, std: float) -> float:
    """E|mean + std ε| for a standard normal ε."""
    if std == 0:
        return abs(mean)
    z = mean / std
    return std * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + mean * math.erf(z / math.sqrt(2))


def debiased_rmsce(probs: Values, labels: Values, n_bins: int = 15) -> float:
    r"""RMSCE with an unbiased estimate of each bin's squared gap.

    √max(0, Σ_b n_b/N (g_b² − a_b (1 − a_b)/(n_b − 1))) with g_b the gap and a_b the accuracy. Source: Kumar
    et al., 2019, over bins of equally many rows. Bins of one row are left out: their noise cannot be told.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B.

    Returns:
        A fraction, at most the equal-mass RMSCE.

    Raises:
        InputError: as for `ece`.

    Example:
        >>> import torch
        >>> probs, labels = torch.tensor([[0.75, 0.25]]).repeat(100, 1), torch.tensor([0] * 60 + [1] * 40)
        >>> round(debiased_rmsce(probs, labels, n_bins=1), 4)
        0.1417
    """
    curve = equal_mass_reliability_curve(probs, labels, n_bins)
    total = math.fsum(
        n / curve.n * (gap**2 - hit * (1 - hit) / (n - 1))
        for n, hit, gap in zip(curve.counts, curve.accuracy, curve.gaps, strict=True)
        if n > 1
    )
    return math.sqrt(max(0.0, total))
