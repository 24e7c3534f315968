"""Scores of rows that come in pieces: sums that can be added, saved, and merged across processes.

The sums are counts and float64, so neither the order of the pieces nor the way they are divided matters
beyond float64 rounding. The one-shot `classification_scores` is a stream of one piece.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from swag.errors import InputError
from swag.metrics.binning import BinSums, ReliabilityCurve
from swag.metrics.inputs import as_count
from swag.metrics.sweep import Need, sweep


@dataclass(frozen=True)
class ClassificationScores:
    """What one pass over the rows gives.

    Attributes:
        n: rows.
        accuracy: fraction whose label is the first maximum.
        nll: mean −ln p_true in nats; +∞ where a true class had probability 0.
        n_impossible: rows whose true class had probability 0.
        brier: mean Σ_c (p_c − y_c)², 0 to 2.
        ece: expected calibration error over equal-width bins, a fraction.
        mce: the largest bin's gap, a fraction.
        rmsce: root mean squared gap, a fraction.
        reliability: the curve the last three come from.
    """

    n: int
    accuracy: float
    nll: float
    n_impossible: int
    brier: float
    ece: float
    mce: float
    rmsce: float
    reliability: ReliabilityCurve


class StreamingClassification:
    r"""Accuracy, NLL, Brier score and calibration of rows that come in pieces.

    State: counts and float64 sums, O(bins). `merge` adds another's; across processes, gather the
    `state_dict`s (or sum them elementwise: every entry is additive but `n_bins`).

    Args:
        n_bins: equal-width bins of confidence.

    Raises:
        InputError: `n_bins` is not a whole number ≥ 1.

    Example:
        >>> import torch
        >>> scores = StreamingClassification()
        >>> scores.update(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))
        >>> scores.update(torch.tensor([[0.4, 0.6]]), torch.tensor([0]))
        >>> scores.compute().accuracy, round(scores.compute().nll, 4)
        (0.5, 0.5697)
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.n_bins = as_count("n_bins", n_bins)
        self._bins = BinSums(self.n_bins)
        self._n_impossible = 0
        self._nll_sum = torch.zeros((), dtype=torch.float64, device="cpu")
        self._brier_sum = torch.zeros((), dtype=torch.float64, device="cpu")

    @property
    def n(self) -> int:
        """Rows so far."""
        return int(self._bins.counts.sum())

    def update(self, probs: Any, labels: Any) -> None:
        """Adds rows; if one of them is refused, none is added.

        Args:
            probs: (N, C) probabilities, tensor or array.
            labels: (N,) integer class indices.

        Raises:
            InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.
        """
        piece = StreamingClassification(self.n_bins)
        for rows in sweep(probs, labels, Need.TOP):
            piece._bins.add(rows.confidence, rows.correct)
            piece._brier_sum += rows.brier_sum
            nll = rows.nll.sum(dtype=torch.float64).cpu()
            if math.isinf(nll):
                possible = rows.p_true > 0
                piece._n_impossible += int((~possible).sum())
                nll = rows.nll[possible].sum(dtype=torch.float64).cpu()
            piece._nll_sum += nll
        self.merge(piece)

    def merge(self, other: "StreamingClassification") -> None:
        """Adds another's rows.

        Raises:
            InputError: it was made with another number of bins.
        """
        if other.n_bins != self.n_bins:
            raise InputError(
                f"other has {other.n_bins} bins but this has {self.n_bins}; make both with the same n_bins"
            )
        self._bins.merge(other._bins)
        self._n_impossible += other._n_impossible
        self._nll_sum += other._nll_sum
        self._brier_sum += other._brier_sum

    def compute(self) -> ClassificationScores:
        """The scores of the rows so far.

        Raises:
            InputError: there are none.
        """
        n = self.n
        if n == 0:
            raise InputError("there are no rows to score; call update(probs, labels) first")
        curve = self._bins.curve()
        return ClassificationScores(
            n=n,
            accuracy=int(self._bins.correct.sum()) / n,
            nll=math.inf if self._n_impossible else float(self._nll_sum) / n,
            n_impossible=self._n_impossible,
            brier=max(0.0, float(self._brier_sum) / n),
            ece=curve.ece,
            mce=curve.mce,
            rmsce=curve.rmsce,
            reliability=curve,
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and whole numbers, copies of the state."""
        return {
            "n_bins": self.n_bins,
            "counts": self._bins.counts.clone(),
            "correct": self._bins.correct.clone(),
            "confidence": self._bins.confidence.clone(),
            "n_impossible": self._n_impossible,
            "nll_sum": self._nll_sum.clone(),
            "brier_sum": self._brier_sum.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state.

        Raises:
            InputError: a key is missing, or it was saved with another number of bins.
        """
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise InputError(f"state lacks {missing}; give what state_dict() returned")
        if state["n_bins"] != self.n_bins:
            raise InputError(
                f"state has {state['n_bins']} bins but this has {self.n_bins}; make this with the same n_bins"
            )
        self._bins.counts = state["counts"].clone()
        self._bins.correct = state["correct"].clone()
        self._bins.confidence = state["confidence"].clone()
        self._n_impossible = int(state["n_impossible"])
        self._nll_sum = state["nll_sum"].clone()
        self._brier_sum = state["brier_sum"].clone()


def classification_scores(probs: Any, labels: Any, n_bins: int = 15) -> ClassificationScores:
    r"""Accuracy, NLL, Brier score and calibration in one pass over the probabilities.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: equal-width bins of confidence.

    Returns:
        Every score, and the reliability curve.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> scores = classification_scores(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]))
        >>> scores.accuracy, round(scores.brier, 6), scores.ece
        (0.5, 0.625, 0.25)
    """
    stream = StreamingClassification(n_bins)
    stream.update(probs, labels)
    return stream.compute()
