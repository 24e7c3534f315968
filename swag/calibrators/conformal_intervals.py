"""Intervals that hold the outcome with a stated probability, from quantiles or from a mean and a variance.

For rows exchangeable with the calibration rows, P(lower ≤ y ≤ upper) ≥ level, on average over both.
"""

from dataclasses import dataclass
from typing import Any, final

import torch

from swag.calibrators.quantiles import conformal_quantile
from swag.metrics.inputs import above_zero, as_variance, as_vector, same_length
from swag.metrics.intervals import interval_inputs


@final
@dataclass(frozen=True)
class ConformalizedQuantileRegression:
    r"""Predicted quantiles moved outwards, or inwards, by one margin (Romano et al., 2019).

    The margin is the conformal quantile of max(lower − y, y − upper). Where a negative margin turns an
    interval upside down, both ends are put at its middle.

    Attributes:
        margin: in units of y.

    Example:
        >>> import torch
        >>> ConformalizedQuantileRegression(margin=0.5)(torch.tensor([0.0]), torch.tensor([1.0]))
        (tensor([-0.5000], dtype=torch.float64), tensor([1.5000], dtype=torch.float64))
    """

    margin: float

    @classmethod
    def fit(cls, lower: Any, upper: Any, y: Any, *, level: float = 0.9) -> "ConformalizedQuantileRegression":
        r"""The margin that covers `level` of rows like these.

        Args:
            lower: (n,) predicted lower quantiles of calibration rows, in units of y.
            upper: (n,) upper quantiles, at least `lower`.
            y: (n,) outcomes.
            level: coverage wanted, a fraction.

        Returns:
            The fitted intervals.

        Raises:
            InputError: shapes differ, a value is not finite, an interval is upside down, or `level` is wrong.
        """
        low, high = interval_inputs(lower, upper)
        outcomes = as_vector("y", y).to(low.device)
        same_length("lower", low, y=outcomes)
        return cls(conformal_quantile(torch.maximum(low - outcomes, outcomes - high), level))

    def __call__(self, lower: Any, upper: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper ends (N,), float64, in units of y."""
        low, high = interval_inputs(lower, upper)
        middle = (low + high) / 2
        return torch.minimum(low - self.margin, middle), torch.maximum(high + self.margin, middle)


@final
@dataclass(frozen=True)
class NormalizedResidualConformal:
    r"""mean ± factor √variance: intervals as wide as the prediction is uncertain (Papadopoulos et al., 2008).

    The factor is the conformal quantile of |y − mean|/√variance; for a right Gaussian, its two-sided
    quantile.

    Attributes:
        factor: without units.

    Example:
        >>> import torch
        >>> NormalizedResidualConformal(factor=2.0)(torch.tensor([0.0]), torch.tensor([4.0]))
        (tensor([-4.], dtype=torch.float64), tensor([4.], dtype=torch.float64))
    """

    factor: float

    @classmethod
    def fit(cls, mean: Any, variance: Any, y: Any, *, level: float = 0.9) -> "NormalizedResidualConformal":
        r"""The factor that covers `level` of rows like these.

        Args:
            mean: (n,) predictions of calibration rows, in units of y.
            variance: (n,) > 0, in units of y squared.
            y: (n,) outcomes.
            level: coverage wanted, a fraction.

        Returns:
            The fitted intervals.

        Raises:
            InputError: shapes differ, a value is not finite, a variance is not above 0, or `level` is wrong.
        """
        means, sigma = means_and_sigmas(mean, variance)
        outcomes = as_vector("y", y).to(means.device)
        same_length("mean", means, y=outcomes)
        return cls(conformal_quantile((outcomes - means).abs() / sigma, level))

    def __call__(self, mean: Any, variance: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper ends (N,), float64, in units of y."""
        means, sigma = means_and_sigmas(mean, variance)
        return means - self.factor * sigma, means + self.factor * sigma


def means_and_sigmas(mean: Any, variance: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and standard deviations > 0, float64 (N,) on one device."""
    means, variances = as_vector("mean", mean), above_zero("variance", as_variance(variance))
    same_length("mean", means, variance=variances)
    return means, variances.to(means.device).sqrt()
