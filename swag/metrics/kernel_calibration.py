"""Calibration errors without bins: a Gaussian kernel on [0, 1], reflected at both ends.

Reflected infinitely often, the kernel is the heat kernel of an interval, whose modes are cosines: smoothing
by σ multiplies the k-th cosine coefficient by exp(−(π k σ)²/2). One cosine transform of a fine grid then
serves every bandwidth, so the cost beyond one pass over the rows does not depend on their number.
"""

import math

import torch

from swag.errors import InputError
from swag.metrics.calibration import top_label
from swag.metrics.inputs import Values

GRID = 1 << 14  # cells of [0, 1]; a row counts with both ends of its cell, each by its nearness


def on_grid(positions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weights at positions in [0, 1], each divided between the two nearest of GRID + 1 points; float64."""
    scaled = positions.double().clamp(0, 1) * GRID
    left = scaled.floor().long().clamp_max(GRID - 1)
    share = scaled - left
    index = torch.cat([left, left + 1])
    values = torch.cat([(1 - share) * weights, share * weights])
    return torch.bincount(index, weights=values, minlength=GRID + 1).cpu()


class SmoothedMeasure:
    """A weighted point measure on [0, 1] that can be smoothed by any bandwidth.

    Args:
        positions: (N,) in [0, 1].
        weights: (N,) float64.
    """

    def __init__(self, positions: torch.Tensor, weights: torch.Tensor) -> None:
        from scipy.fft import dct

        density = on_grid(positions, weights).numpy() * GRID
        density[[0, -1]] *= 2  # a point at an end is its own mirror image
        self.coefficients = torch.from_numpy(dct(density, type=1))
        self.rates = -0.5 * (math.pi * torch.arange(GRID + 1, dtype=torch.float64, device="cpu")).square()

    def density(self, sigma: float) -> torch.Tensor:
        """The smoothed density at the GRID + 1 grid points, float64."""
        from scipy.fft import idct

        return torch.from_numpy(idct((self.coefficients * (self.rates * sigma**2).exp()).numpy(), type=1))

    def total_variation(self, sigma: float) -> float:
        """∫₀¹ |density| dt by the trapezoidal rule."""
        return integral(self.density(sigma).abs())


def integral(values: torch.Tensor) -> float:
    """Trapezoidal rule over the grid."""
    return float(values.sum() - 0.5 * (values[0] + values[-1])) / GRID


def smooth_ece(probs: Values, labels: Values) -> float:
    r"""Smooth calibration error of the predicted class (Błasiok and Nakkiran, 2023).

    smECE_σ = ∫₀¹ |1/N Σ_i K_σ(t, f_i) (right_i − f_i)| dt, with f the confidence and K_σ the Gaussian kernel
    reflected at 0 and 1, falls as σ grows; the result is the fixed point smECE_σ* = σ*. It has no free
    parameter, and it is within constant factors of the distance to the nearest perfectly calibrated
    predictor.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.

    Returns:
        A fraction, 0 to 1, to about 1e-6.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> round(smooth_ece(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 0])), 4)
        0.25
    """
    from scipy.optimize import brentq

    confidence, correct = top_label(probs, labels)
    residual = SmoothedMeasure(confidence, (correct.double() - confidence.double()) / len(confidence))
    if residual.total_variation(0.0) == 0:
        return 0.0
    # At σ = 1 the error is below 1, the largest residual, so the two ends have different signs.
    sigma = brentq(lambda sigma: residual.total_variation(sigma) - sigma, 0.0, 1.0 + 1e-9, xtol=1e-8)
    return min(1.0, residual.total_variation(sigma))


def kde_ece(probs: Values, labels: Values, bandwidth: float | None = None) -> float:
    r"""Calibration error from kernel density estimates: ∫₀¹ |t − π(t)| p(t) dt (Zhang et al., 2020).

    p(t) = 1/N Σ_i K_h(t, f_i) is the density of the confidence f and π(t) = Σ_i K_h right_i / Σ_i K_h the
    accuracy at t, so the integrand is |1/N Σ_i K_h(t, f_i) (t − right_i)|, with a reflected Gaussian kernel
    (the paper: triweight). The bandwidth sets a floor of about h for confidences that hardly vary.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        bandwidth: h, in units of probability; if None, 1.06 std(f) N^(−1/5), at least 0.001.

    Returns:
        A fraction, 0 to 1.

    Raises:
        InputError: `bandwidth` is not above 0, or as for `smooth_ece`.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25]]).repeat(4, 1)
        >>> round(kde_ece(probs, torch.tensor([0, 0, 0, 0]), bandwidth=0.01), 3)
        0.25
    """
    if bandwidth is not None and not 0 < bandwidth < math.inf:
        raise InputError(f"bandwidth is {bandwidth!r}; give a number above 0, in units of probability")
    confidence, correct = top_label(probs, labels)
    n = len(confidence)
    if bandwidth is None:
        spread = float(confidence.double().std(correction=0))
        bandwidth = max(1e-3, 1.06 * spread * n**-0.2)
    weights = torch.full_like(confidence, 1 / n, dtype=torch.float64)
    density = SmoothedMeasure(confidence, weights).density(bandwidth)
    right = SmoothedMeasure(confidence, weights * correct).density(bandwidth)
    t = torch.linspace(0, 1, GRID + 1, dtype=torch.float64, device="cpu")
    return min(1.0, integral((t * density - right).abs()))
