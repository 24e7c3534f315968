"""One-vs-rest maps of each class's probability, renormalised: isotonic regression and histogram binning.

A row whose mapped probabilities are all 0 keeps the probabilities it came with.
"""

from dataclasses import dataclass
from typing import Any, final

import torch

from swag.calibrators.inputs import labels_of, normalised, probs_of, returned, same_classes
from swag.metrics.binning import bin_index
from swag.metrics.calibration import class_bins
from swag.metrics.inputs import as_count


@final
@dataclass(frozen=True, eq=False)
class IsotonicCalibration:
    r"""For each class the best non-decreasing function of its probability (Zadrozny and Elkan, 2002).

    Attributes:
        knots: for each class, (K_c,) float64, probabilities at which the function is given, rising.
        values: for each class, (K_c,) float64, its value there; between knots it is linear, outside constant.

    Example:
        >>> import torch
        >>> knots, rising = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0])
        >>> IsotonicCalibration((knots, knots), (rising, rising))(torch.tensor([[1.0, 0.0]]))
        tensor([[0.6667, 0.3333]])
    """

    knots: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @classmethod
    def fit(cls, probs: Any, labels: Any) -> "IsotonicCalibration":
        r"""Least squares by scikit-learn's pool-adjacent-violators, for each class on its own.

        Args:
            probs: (N, C) probabilities of validation rows, or a predictive. It takes some hundreds of rows a
                class; a function made of steps can give probabilities of 0, and so an infinite NLL.
            labels: (N,) integer class indices.

        Returns:
            The fitted calibrator.

        Raises:
            InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.
        """
        from sklearn.isotonic import IsotonicRegression

        p = probs_of(probs).double()
        targets = labels_of(labels, p)
        knots, values = [], []
        for index in range(p.shape[1]):
            fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
                p[:, index].cpu().numpy(), (targets == index).double().cpu().numpy()
            )
            knots.append(torch.from_numpy(fitted.X_thresholds_))
            values.append(torch.from_numpy(fitted.y_thresholds_))
        return cls(tuple(knots), tuple(values))

    def __call__(self, probs: Any) -> Any:
        """Calibrated probabilities (N, C), of the kind that came (of a predictive, a tensor)."""
        p = probs_of(probs).double()
        same_classes(p, len(self.knots))
        columns = [
            interpolated(p[:, index].contiguous(), knots.to(p), values.to(p))
            for index, (knots, values) in enumerate(zip(self.knots, self.values, strict=True))
        ]
        return returned(normalised(torch.stack(columns, dim=1), p), probs)


def interpolated(x: torch.Tensor, knots: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Piecewise linear through (knots, values), constant outside; (N,)."""
    if len(knots) == 1:
        return values.expand_as(x)
    right = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    low, high = knots[right - 1], knots[right]
    share = ((x - low) / (high - low)).clamp(0, 1)
    return values[right - 1] + share * (values[right] - values[right - 1])


@final
@dataclass(frozen=True, eq=False)
class HistogramBinning:
    r"""For each class and each bin of its probability, the share of rows that were of that class.

    Source: Zadrozny and Elkan, 2001. Bins are equal-width and right-closed; where a bin held no validation
    row, a probability stays as it is.

    Attributes:
        values: (C, B) float64, NaN in bins that held no row.

    Example:
        >>> import torch
        >>> HistogramBinning(torch.tensor([[0.2, 0.6], [0.4, 0.8]]))(torch.tensor([[0.75, 0.25]]))
        tensor([[0.6000, 0.4000]])
    """

    values: torch.Tensor

    @classmethod
    def fit(cls, probs: Any, labels: Any, *, n_bins: int = 15) -> "HistogramBinning":
        r"""The share of each class among the rows of each bin.

        Args:
            probs: (N, C) probabilities of validation rows, or a predictive.
            labels: (N,) integer class indices.
            n_bins: B.

        Returns:
            The fitted calibrator.

        Raises:
            InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.
        """
        counts, _, observed = class_bins(probs_of(probs), labels, as_count("n_bins", n_bins))
        return cls(observed / counts)

    def __call__(self, probs: Any) -> Any:
        """Calibrated probabilities (N, C), of the kind that came (of a predictive, a tensor)."""
        p = probs_of(probs)
        same_classes(p, len(self.values))
        index = bin_index(p.contiguous(), self.values.shape[1])
        mapped = self.values.to(p.device).double().gather(1, index.T).T
        return returned(normalised(torch.where(mapped.isnan(), p.double(), mapped), p.double()), probs)
