"""How far apart two histograms of entropy are; it depends on bins and smoothing: see `auroc` too."""

import math

import torch

from swag.errors import InputError
from swag.metrics.inputs import Values, as_count, as_vector, at_least_zero


def symmetrised_kl(
    entropies_in: Values,
    entropies_out: Values,
    n_bins: int = 50,
    *,
    smoothing: float = 1.0,
    upper: float | None = None,
) -> float:
    r"""KL(p‖q) + KL(q‖p), nats, of the histograms p and q of two sets of entropies, as in the SWAG paper.

    Both histograms share equal-width bins on [0, upper]; p_b = (n_b + smoothing)/(N + B smoothing). The value
    depends on B and on the smoothing, so state both, and give `auroc` beside it. Source: Maddox et al., 2019.

    Args:
        entropies_in: (N,) nats, of in-distribution inputs.
        entropies_out: (M,) nats, of out-of-distribution inputs.
        n_bins: B.
        smoothing: rows added to every bin; 0 gives +∞ where a bin holds rows of one set only.
        upper: the upper edge, ln C for C classes; if None, the largest entropy that came.

    Returns:
        0 or more; more is further apart.

    Raises:
        InputError: a set is empty, an entropy is negative, not finite or above `upper`, or `smoothing` < 0.

    Example:
        >>> round(symmetrised_kl([0.0, 0.0], [1.0, 1.0], n_bins=2), 4)
        1.0986
    """
    inside, outside = as_vector("entropies_in", entropies_in), as_vector("entropies_out", entropies_out)
    at_least_zero("entropies_in", inside)
    at_least_zero("entropies_out", outside)
    if not smoothing >= 0 or not math.isfinite(smoothing):
        raise InputError(f"smoothing is {smoothing}; give a number of rows ≥ 0 to add to every bin")
    largest = max(float(inside.amax()), float(outside.amax()))
    if upper is None:
        upper = largest
    elif largest > upper * (1 + 1e-6):
        raise InputError(
            f"upper is {upper:g} but an entropy is {largest:g}; give ln C in nats, or leave it out"
        )
    p = smoothed_histogram(inside, upper, as_count("n_bins", n_bins), smoothing)
    q = smoothed_histogram(outside.to(inside.device), upper, n_bins, smoothing)
    terms = (p - q) * (p.log() - q.log())
    return float(torch.where((p == 0) & (q == 0), 0.0, terms).sum())


def smoothed_histogram(values: torch.Tensor, upper: float, n_bins: int, smoothing: float) -> torch.Tensor:
    """Shares of equal-width bins on [0, upper], each given `smoothing` rows more; float64 (B,)."""
    index = (
        (values / upper * n_bins).long().clamp(0, n_bins - 1)
        if upper > 0
        else torch.zeros_like(values).long()
    )
    counts = torch.bincount(index, minlength=n_bins).double() + smoothing
    return counts / counts.sum()
