"""Regression scores of rows that come in pieces: float64 sums that can be added, saved, and merged."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch

from swag.errors import InputError
from swag.metrics.binning import bin_edges, bin_index
from swag.metrics.inputs import Values, above_zero, as_count, as_level
from swag.metrics.intervals import PitHistogram
from swag.metrics.regression import gaussian_crps_rows, gaussian_inputs

SUMS = ("nll", "crps", "squared_error", "variance")


@dataclass(frozen=True)
class RegressionScores:
    """What one pass over Gaussian predictions gives.

    Attributes:
        n: rows.
        rmse: root mean squared error, in units of y.
        nll: mean −ln density, nats.
        crps: continuous ranked probability score, in units of y.
        coverage: fraction of outcomes inside the central interval of probability `level`.
        level: that probability.
        sharpness: root mean variance, in units of y.
        pit: histogram of Φ((y − m)/√v).
    """

    n: int
    rmse: float
    nll: float
    crps: float
    coverage: float
    level: float
    sharpness: float
    pit: PitHistogram


class StreamingRegression:
    r"""RMSE, NLL, CRPS, coverage, sharpness and PIT histogram of Gaussian predictions that come in pieces.

    Args:
        level: the probability the counted interval claims, a fraction.
        n_bins: bins of the PIT histogram.

    Raises:
        InputError: `level` is not in (0, 1), or `n_bins` not a whole number ≥ 1.

    Example:
        >>> scores = StreamingRegression()
        >>> scores.update([0.0], [1.0], [1.0])
        >>> scores.update([0.0], [1.0], [-1.0])
        >>> scores.compute().rmse, scores.compute().coverage
        (1.0, 1.0)
    """

    def __init__(self, level: float = 0.95, n_bins: int = 20) -> None:
        self.level = as_level("level", level)
        self.n_bins = as_count("n_bins", n_bins)
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64, device="cpu")
        self._n_covered = 0
        self._pit_counts = torch.zeros(self.n_bins, dtype=torch.int64, device="cpu")

    @property
    def n(self) -> int:
        """Rows so far."""
        return int(self._pit_counts.sum())

    def update(self, mean: Values, variance: Values, y: Values) -> None:
        """Adds rows; if one of them is refused, none is added.

        Args:
            mean: (N,) predictions, in units of y.
            variance: (N,) > 0, in units of y squared.
            y: (N,) outcomes.

        Raises:
            InputError: shapes differ, a value is not finite, or a variance is not above 0.
        """
        means, variances, outcomes = gaussian_inputs(mean, variance, y)
        above_zero("variance", variances)
        error = outcomes - means
        z = error / variances.sqrt()
        nll = 0.5 * (math.log(2 * math.pi) + variances.log() + error.square() / variances)
        crps = gaussian_crps_rows(means, variances, outcomes)
        rows = (nll, crps, error.square(), variances)
        self._sums += torch.stack([row.sum() for row in rows]).cpu()
        half = NormalDist().inv_cdf((1 + self.level) / 2) * variances.sqrt()
        self._n_covered += int((error.abs() <= half).sum())
        index = bin_index(torch.special.ndtr(z), self.n_bins)
        self._pit_counts += torch.bincount(index, minlength=self.n_bins).cpu()

    def merge(self, other: "StreamingRegression") -> None:
        """Adds another's rows.

        Raises:
            InputError: it was made with another level or number of bins.
        """
        if (other.level, other.n_bins) != (self.level, self.n_bins):
            raise InputError(
                f"other has level {other.level} and {other.n_bins} bins but this has {self.level} and "
                f"{self.n_bins}; make both alike"
            )
        self._sums += other._sums
        self._n_covered += other._n_covered
        self._pit_counts += other._pit_counts

    def compute(self) -> RegressionScores:
        """The scores of the rows so far.

        Raises:
            InputError: there are none.
        """
        n = self.n
        if n == 0:
            raise InputError("there are no rows to score; call update(mean, variance, y) first")
        means = dict(zip(SUMS, (self._sums / n).tolist(), strict=True))
        counts = self._pit_counts.tolist()
        return RegressionScores(
            n=n,
            rmse=math.sqrt(means["squared_error"]),
            nll=means["nll"],
            crps=means["crps"],
            coverage=self._n_covered / n,
            level=self.level,
            sharpness=math.sqrt(means["variance"]),
            pit=PitHistogram(
                bin_edges(self.n_bins), tuple(counts), tuple(c * self.n_bins / n for c in counts)
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, copies of the state."""
        return {
            "level": self.level,
            "n_bins": self.n_bins,
            "sums": self._sums.clone(),
            "n_covered": self._n_covered,
            "pit_counts": self._pit_counts.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state.

        Raises:
            InputError: a key is missing, or it was saved with another level or number of bins.
        """
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise InputError(f"state lacks {missing}; give what state_dict() returned")
        if (state["level"], state["n_bins"]) != (self.level, self.n_bins):
            raise InputError(
                f"state has level {state['level']} and {state['n_bins']} bins but this has {self.level} and "
                f"{self.n_bins}; make this with the same"
            )
        self._sums = state["sums"].clone()
        self._n_covered = int(state["n_covered"])
        self._pit_counts = state["pit_counts"].clone()


def regression_scores(
    mean: Values, variance: Values, y: Values, *, level: float = 0.95, n_bins: int = 20
) -> RegressionScores:
    r"""RMSE, NLL, CRPS, coverage, sharpness and PIT histogram of Gaussian predictions in one call.

    Args:
        mean: (N,) predictions, in units of y.
        variance: (N,) > 0, in units of y squared.
        y: (N,) outcomes.
        level: the probability the counted interval claims, a fraction.
        n_bins: bins of the PIT histogram.

    Returns:
        Every score.

    Raises:
        InputError: shapes differ, a value is not finite, or a variance is not above 0.

    Example:
        >>> regression_scores([0.0, 0.0], [1.0, 1.0], [3.0, 0.0]).coverage
        0.5
    """
    stream = StreamingRegression(level, n_bins)
    stream.update(mean, variance, y)
    return stream.compute()
