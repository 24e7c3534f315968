r"""From bootstrap replicates to intervals: BCa for means, percentile for the rest, an inversion for the ECE.

Which interval, and why (each measured by simulation in tests/test_bootstrap.py):

- Means over rows (NLL, Brier) and AUROC: BCa (Efron 1987), whose bias constant comes from the replicates and
  whose acceleration is known in closed form from the rows' influence. A plain percentile interval of a skewed
  NLL misses too often on small sets.
- Accuracy: Wilson's score interval, which says something even when every row is right.
- AURC, AUPR and FPR at 95 % TPR: percentile.
- ECE: the plug-in ECE of N rows is too high on average, and its resamples twice over, so percentile intervals
  can lie wholly above the truth. `ece_interval` asks which true miscalibrations would give an ECE like the
  one seen.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]


def quantile(replicates: Array, levels: Array) -> Array:
    """Order statistics without interpolation, so infinities stay what they are: (…, R), (…, L) → (…, L)."""
    ordered = np.sort(replicates, axis=-1)
    last = ordered.shape[-1] - 1
    index = np.clip(np.round(levels * (last + 1) - 0.5), 0, last).astype(np.intp)
    return np.take_along_axis(ordered, index, axis=-1)


def percentile_interval(replicates: Array, level: float) -> Interval:
    """The central `level` of the replicates (R,)."""
    low, high = quantile(replicates, np.array([0.5 - level / 2, 0.5 + level / 2]))
    return float(low), float(high)


def bca_interval(replicates: Array, value: float, acceleration: float, level: float) -> Interval:
    r"""Bias-corrected and accelerated interval.

    The ends are the replicates' quantiles at Φ(z₀ + (z₀ + z)/(1 − a (z₀ + z))) for z = Φ⁻¹((1 ∓ level)/2),
    with z₀ = Φ⁻¹(share of replicates below the value, ties one half).

    Args:
        replicates: (R,).
        value: The figure on all rows.
        acceleration: a, see `acceleration`.
        level: E.g. 0.95.
    """
    n = len(replicates)
    below = ((replicates < value).sum() + 0.5 * (replicates == value).sum()) / n
    bias = ndtri(np.clip(below, 0.5 / n, 1 - 0.5 / n))
    z = bias + ndtri(np.array([0.5 - level / 2, 0.5 + level / 2]))
    low, high = quantile(replicates, ndtr(bias + z / np.maximum(1 - acceleration * z, 1e-3)))
    return float(low), float(high)


def acceleration(*influences: Array) -> float:
    r"""a = Σ u³ / (6 (Σ u²)^{3/2}) over the centred influences u of every row of one or more samples.

    For a mean of x over N rows u = (x − x̄)/N; for a two-sample statistic give one array per sample.
    """
    u = np.concatenate([influence - influence.mean() for influence in influences])
    scale = float(np.abs(u).max(initial=0.0))
    if scale == 0.0:
        return 0.0
    u = u / scale
    return float((u**3).sum() / (6 * (u**2).sum() ** 1.5))


def wilson_interval(successes: npt.ArrayLike, trials: npt.ArrayLike, level: float) -> tuple[Array, Array]:
    """Wilson's score interval of a proportion, elementwise; NaN where there were no trials."""
    successes, trials = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    z = float(ndtri(0.5 + level / 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = successes / trials
        centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


def ece_interval(gap_sums: Array, replicates: Array, n_rows: int, level: float) -> Interval:
    r"""Interval for the binned ECE of the population, by inverting the resamples along shrunken gaps.

    Let g_b be the bin sums of (correct − confidence) and e_rb = g*_rb − g_b their resampling errors. A
    population with gaps t·g_b, whose ECE is t·ÊCE, would show ECEs T_r(t) = Σ_b |t g_b + e_rb| / N. The
    interval holds every t·ÊCE under which the ÊCE seen lies within the central `level` of T(t), each end
    found by bisection. It can reach 0, and for a calibrated model it does; its upper end is never below the
    ÊCE that is printed next to it.

    Args:
        gap_sums: (B,) Σ over the bin's rows of correct − confidence.
        replicates: (B, R) the same in each resample.
        n_rows: N.
        level: E.g. 0.95.
    """
    errors = replicates - gap_sums[:, None]
    seen = np.abs(gap_sums).sum()
    tail = 0.5 - level / 2

    def share_above(t: float) -> float:
        return float((np.abs(t * gap_sums[:, None] + errors).sum(axis=0) >= seen - 1e-9).mean())

    if seen == 0.0:
        return 0.0, 0.0
    low = 0.0 if share_above(0.0) > tail else _bisect(lambda t: share_above(t) > tail, 0.0, 1.0)
    high = 1.0 if share_above(1.0) > 1 - tail else _bisect(lambda t: share_above(t) > 1 - tail, 1.0, 4.0)
    return float(low * seen / n_rows), float(min(high * seen / n_rows, 1.0))


def ece_corrected(gap_sums: Array, replicates: Array, n_rows: int) -> float:
    r"""The ECE whose population would on average show the one seen: t·ÊCE with E_r T_r(t) = ÊCE, or 0.

    Arguments as in `ece_interval`.
    """
    errors = replicates - gap_sums[:, None]
    seen = np.abs(gap_sums).sum()

    def too_high(t: float) -> bool:
        return bool(np.abs(t * gap_sums[:, None] + errors).sum(axis=0).mean() >= seen)

    return 0.0 if seen == 0.0 or too_high(0.0) else float(_bisect(too_high, 0.0, 1.0) * seen / n_rows)


def difference_from_intervals(
    first: float, first_interval: Interval, second: float, second_interval: Interval, correlation: float
) -> Interval:
    r"""Interval of a difference from the intervals of its two terms (Zou & Donner 2008, "MOVER").

    low = x − y − √((x − l_x)² + (u_y − y)² − 2ρ (x − l_x)(u_y − y)), and high likewise with the other ends.
    It hands on what makes the two intervals right (here: that they know the ECE's bias), which resampling the
    difference would lose.

    Args:
        first: x.
        first_interval: (l_x, u_x), holding x.
        second: y.
        second_interval: (l_y, u_y), holding y.
        correlation: ρ of the two figures over the paired resamples.
    """
    down, up = first - first_interval[0], first_interval[1] - first
    other_down, other_up = second - second_interval[0], second_interval[1] - second
    low = np.sqrt(max(down**2 + other_up**2 - 2 * correlation * down * other_up, 0.0))
    high = np.sqrt(max(up**2 + other_down**2 - 2 * correlation * up * other_down, 0.0))
    return float(first - second - low), float(first - second + high)


def _bisect(passed: Callable[[float], bool], left: float, right: float) -> float:
    """Where a condition that is False at `left` turns True, or `right`."""
    for _ in range(24):
        middle = (left + right) / 2
        left, right = (left, middle) if passed(middle) else (middle, right)
    return right
