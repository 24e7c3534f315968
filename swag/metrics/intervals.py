"""Scores of quantiles, intervals and PIT values, whatever distribution they come from."""

import math
from dataclasses import dataclass

import torch

from swag.arguments import tensor_of
from swag.errors import InputError
from swag.metrics.binning import bin_edges, bin_index
from swag.metrics.inputs import Values, as_count, as_level, as_vector, same_length
from swag.metrics.regression import pit


def interval_inputs(lower: Values, upper: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """Both ends, float64 (N,), in order."""
    low, high = as_vector("lower", lower), as_vector("upper", upper)
    same_length("lower", low, upper=high)
    high = high.to(low.device)
    crossed = low > high
    if bool(crossed.any()):
        row = int(crossed.int().argmax())
        raise InputError(
            f"lower row {row} is {float(low[row]):g}, above upper, {float(high[row]):g}; "
            "swap them, or sort the quantiles"
        )
    return low, high


def interval_coverage(lower: Values, upper: Values, y: Values) -> float:
    r"""Fraction of outcomes with lower ≤ y ≤ upper.

    Args:
        lower: (N,) lower ends, in units of y.
        upper: (N,) upper ends.
        y: (N,) outcomes.

    Returns:
        A fraction.

    Raises:
        InputError: shapes differ, a value is not finite, or an interval is upside down.

    Example:
        >>> interval_coverage([0.0, 0.0], [1.0, 1.0], [1.0, 2.0])
        0.5
    """
    low, high = interval_inputs(lower, upper)
    outcomes = as_vector("y", y).to(low.device)
    same_length("lower", low, y=outcomes)
    return float(((low <= outcomes) & (outcomes <= high)).double().mean())


def interval_width(lower: Values, upper: Values) -> float:
    r"""Mean of upper − lower, in units of y.

    Args:
        lower: (N,) lower ends, in units of y.
        upper: (N,) upper ends.

    Returns:
        0 or more.

    Raises:
        InputError: as for `interval_coverage`.

    Example:
        >>> interval_width([0.0, 0.0], [1.0, 2.0])
        1.5
    """
    low, high = interval_inputs(lower, upper)
    return float((high - low).mean())


def interval_score(lower: Values, upper: Values, y: Values, level: float = 0.95) -> float:
    r"""Width plus a penalty for misses: mean of (u − l) + 2/α (l − y)₊ + 2/α (y − u)₊, α = 1 − level.

    A proper score for central intervals (Gneiting and Raftery, 2007): the smaller the better.

    Args:
        lower: (N,) l, the α/2 quantile.
        upper: (N,) u, the 1 − α/2 quantile.
        y: (N,) outcomes.
        level: the probability the interval claims, a fraction.

    Returns:
        0 or more, in units of y.

    Raises:
        InputError: as for `interval_coverage`, or `level` is not in (0, 1).

    Example:
        >>> interval_score([0.0], [1.0], [2.0], level=0.5)
        5.0
    """
    low, high = interval_inputs(lower, upper)
    outcomes = as_vector("y", y).to(low.device)
    same_length("lower", low, y=outcomes)
    miss = (low - outcomes).clamp_min(0) + (outcomes - high).clamp_min(0)
    return float((high - low + 2 / (1 - as_level("level", level)) * miss).mean())


def pinball(quantile_values: Values, y: Values, q: float) -> float:
    r"""Quantile loss: mean of max(q (y − t), (q − 1)(y − t)) for predicted q-quantiles t.

    Args:
        quantile_values: (N,) t, in units of y.
        y: (N,) outcomes.
        q: which quantile, a fraction.

    Returns:
        0 or more, in units of y; least where t is the q-quantile. At q = ½, half the mean absolute error.

    Raises:
        InputError: shapes differ, a value is not finite, or `q` is not in (0, 1).

    Example:
        >>> pinball([0.0], [1.0], q=0.9)
        0.9
    """
    values, outcomes = as_vector("quantile_values", quantile_values), as_vector("y", y)
    same_length("quantile_values", values, y=outcomes)
    level, error = as_level("q", q), outcomes.to(values.device) - values
    return float(torch.maximum(level * error, (level - 1) * error).mean())


@dataclass(frozen=True)
class PitHistogram:
    """How often the PIT fell where; flat at density 1 if the predictions are right.

    Attributes:
        edges: B + 1 edges k/B.
        counts: rows in each right-closed bin, the first also holding 0.
        density: counts B/N.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    density: tuple[float, ...]


def pit_histogram(pit_values: Values, n_bins: int = 20) -> PitHistogram:
    r"""Histogram of PIT values: ∪-shaped is overconfident, ∩-shaped underconfident, a slope is bias.

    Args:
        pit_values: (N,) from `pit` or `mixture_pit`.
        n_bins: B.

    Returns:
        Edges, counts and density.

    Raises:
        InputError: a value is outside [0, 1] or not finite, or `n_bins` is not a whole number ≥ 1.

    Example:
        >>> pit_histogram([0.1, 0.2, 0.3, 0.9], n_bins=2).counts
        (3, 1)
    """
    values, bins = pit_inputs(pit_values), as_count("n_bins", n_bins)
    counts = torch.bincount(bin_index(values, bins), minlength=bins).tolist()
    return PitHistogram(bin_edges(bins), tuple(counts), tuple(count * bins / len(values) for count in counts))


def pit_inputs(pit_values: Values) -> torch.Tensor:
    """PIT values, float64 (N,) in [0, 1]."""
    values = as_vector("pit_values", pit_values)
    outside = (values < 0) | (values > 1)
    if bool(outside.any()):
        row = int(outside.int().argmax())
        raise InputError(
            f"pit_values row {row} is {float(values[row]):g}, not in [0, 1]; "
            "give pit(mean, variance, y), not residuals"
        )
    return values


def pit_calibration_error(pit_values: Values, n_levels: int = 99) -> float:
    r"""Mean over levels p_j = j/(J+1) of |share of PIT values ≤ p_j − p_j|.

    Args:
        pit_values: (N,) from `pit` or `mixture_pit`.
        n_levels: J.

    Returns:
        A fraction, 0 to ½; about 0.6/√N for right predictions.

    Raises:
        InputError: a value is outside [0, 1] or not finite, or `n_levels` is not a whole number ≥ 1.

    Example:
        >>> round(pit_calibration_error([0.125, 0.375, 0.625, 0.875], n_levels=3), 4)
        0.0
    """
    values = pit_inputs(pit_values).sort().values
    n_levels = as_count("n_levels", n_levels)
    levels = torch.arange(1, n_levels + 1, dtype=torch.float64, device=values.device) / (n_levels + 1)
    observed = torch.searchsorted(values, levels, right=True).double() / len(values)
    return math.fsum((observed - levels).abs().tolist()) / n_levels


def regression_calibration_error(mean: Values, variance: Values, y: Values, n_levels: int = 99) -> float:
    r"""Mean over levels p_j = j/(J+1) of |share of outcomes below their p_j-quantile − p_j|, for normals.

    Source: Kuleshov et al., 2018, who square the differences. For mixtures: `pit_calibration_error`.

    Args:
        mean: (N,) m.
        variance: (N,) v > 0, in units of y squared.
        y: (N,) outcomes.
        n_levels: J.

    Returns:
        A fraction, 0 to ½.

    Raises:
        InputError: shapes differ, a value is not finite, or a variance is not above 0.

    Example:
        >>> regression_calibration_error([0.0], [1.0], [0.5], n_levels=1)
        0.5
    """
    return pit_calibration_error(pit(tensor_of(mean), variance, y), n_levels)
