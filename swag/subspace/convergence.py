"""Whether chains have converged: rank-normalised split R̂ and effective sample size [Vehtari et al. 2021].

Everything takes draws (C, S, k), C chains of S draws, and gives a number for each of the k coordinates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from swag.errors import InputError


def split_rhat(z: Tensor) -> Tensor:
    r"""Rank-normalised split R̂ (k,): √(((S−1)/S·W + B/S) / W) of half chains, after a rank transform.

    The larger of the values for z and for |z − median|, so that chains which differ in spread alone are seen
    too. 1 where chains agree; above 1.01 they do not, or are too short. NaN where a coordinate never moves.

    Args:
        z: (C, S, k), S ≥ 4.

    Returns:
        (k,), float64.

    Raises:
        InputError: another shape, fewer than four draws.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, arXiv:1903.08008, equations 3, 4 and 14.

    >>> bool(split_rhat(torch.randn(4, 500, 2, generator=torch.Generator().manual_seed(0))).max() < 1.02)
    True
    """
    halves = _halves(z)
    folded = (halves - halves.flatten(0, 1).median(0).values).abs()
    return torch.maximum(_rhat(_rank_normal(halves)), _rhat(_rank_normal(folded)))


def effective_sample_size(z: Tensor) -> Tensor:
    r"""Bulk effective sample size (k,): C·S/τ of rank-normalised half chains, τ = 1 + 2 Σ_t ρ_t.

    The autocorrelations ρ_t are summed in pairs, as far as the pairs are positive, and made to decrease
    [Geyer 1992]. NaN where a coordinate never moves.

    Args:
        z: (C, S, k), S ≥ 4.

    Returns:
        (k,), float64; at most C·S·log₁₀(C·S), for chains that alternate.

    Source: Vehtari et al. 2021, arXiv:1903.08008, equations 10 to 13.

    >>> z = torch.randn(4, 500, 1, generator=torch.Generator().manual_seed(0))
    >>> 1500 < effective_sample_size(z).item() < 2600
    True
    """
    x = _rank_normal(_halves(z))
    chains, n, k = x.shape
    total = chains * n
    covariance = _autocovariance(x)
    within = covariance[:, 0].mean(0) * n / (n - 1)
    pooled = within * (n - 1) / n
    if chains > 1:
        pooled = pooled + x.mean(1).var(0)
    rho = 1 - (within - covariance.mean(0) * n / (n - 1)) / pooled
    rho[0] = 1
    sizes = torch.full((k,), math.nan, dtype=torch.float64, device="cpu")
    for j in range(k):
        if not float(pooled[j]) > 0:
            continue
        pairs = rho[: n - n % 2, j].view(-1, 2).sum(1)
        negative = (pairs <= 0).nonzero()
        end = int(negative[0, 0]) if len(negative) else len(pairs)
        # The first pair holds ρ_0 = 1 and is positive unless draws alternate.
        decreasing = pairs[: max(end, 1)].cummin(0).values
        tau = -1 + 2 * float(decreasing.sum())
        # Half of what follows the last pair: ρ at the next even lag, where it is positive.
        if 2 * end < n:
            tau += max(float(rho[2 * end, j]), 0.0)
        sizes[j] = total / max(tau, 1 / math.log10(total))
    return sizes


def _halves(z: Tensor) -> Tensor:
    """Every chain cut in two (2C, S//2, k), in float64; the middle draw of an odd number is left out."""
    if not isinstance(z, Tensor) or z.ndim != 3:
        raise InputError("z: pass draws (C, S, k): chains, draws, coordinates")
    if z.shape[1] < 4:
        raise InputError(f"z: got {z.shape[1]} draws a chain; convergence takes four or more")
    half = z.shape[1] // 2
    return torch.cat([z[:, :half], z[:, -half:]]).detach().cpu().double()


def _rank_normal(x: Tensor) -> Tensor:
    """Φ⁻¹((r − 3/8)/(N + 1/4)), r the rank among all N draws; ties share their mean rank."""
    flat = x.flatten(0, 1)
    ranks = torch.empty_like(flat)
    for j, column in enumerate(flat.T):
        _, where, counts = torch.unique(column, return_inverse=True, return_counts=True)
        mean_rank = counts.cumsum(0) - (counts - 1) / 2
        ranks[:, j] = mean_rank[where]
    return torch.special.ndtri((ranks - 0.375) / (len(flat) + 0.25)).view(x.shape)


def _rhat(x: Tensor) -> Tensor:
    n = x.shape[1]
    within = x.var(1).mean(0)
    between = x.mean(1).var(0)  # B/S
    return ((within * (n - 1) / n + between) / within).sqrt()


def _autocovariance(x: Tensor) -> Tensor:
    """(C, S, k) divided by S at every lag, by FFT."""
    n = x.shape[1]
    centred = x - x.mean(1, keepdim=True)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = torch.fft.rfft(centred, n=size, dim=1)
    return torch.fft.irfft(spectrum.abs().square(), n=size, dim=1)[:, :n] / n
