"""Reliability in bins: which bin a confidence falls in, sums per bin, and the curve they make.

Bins are right-closed, (k/B, (k+1)/B], and the first also holds 0. Confidences are compared with edges in
their own precision (half types in float32), so that a float32 0.2 lies in the bin that ends at 0.2; sums are
float64.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch

from swag.metrics.inputs import as_count


def bin_edges(n_bins: int) -> tuple[float, ...]:
    """The n_bins + 1 edges k/B of equal-width bins, in float64."""
    return tuple(k / n_bins for k in range(n_bins + 1))


def bin_index(values: torch.Tensor, n_bins: int) -> torch.Tensor:
    """The right-closed bin of each value.

    Args:
        values: any shape, float32 or float64, in [0, 1].
        n_bins: B.

    Returns:
        int64 of the same shape, 0..B−1.
    """
    if values.dtype != torch.float32:
        return torch.bucketize(
            values, torch.tensor(bin_edges(n_bins)[1:-1], dtype=torch.float64, device="cpu").to(values)
        )
    # Faster than a search: in float64 B · value is exact, so rounding up gives the bin between the edges k/B.
    # The float32 edge lies above k/B for some k, and only a value on that very edge is then one bin too high.
    index = values.double().mul_(n_bins).ceil_().sub_(1)
    on_edge = (index / n_bins).float() == values
    return index.sub_(on_edge.double()).clamp_min_(0).long()


@dataclass(frozen=True)
class ReliabilityCurve:
    """Mean confidence against accuracy, bin by bin; plain numbers, ready for JSON or a plot.

    Attributes:
        edges: B + 1 edges, from low to high.
        counts: rows in each bin.
        confidence: mean confidence in each bin, NaN where it is empty.
        accuracy: fraction right in each bin, NaN where it is empty.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def n(self) -> int:
        """Rows in all bins."""
        return sum(self.counts)

    @property
    def gaps(self) -> tuple[float, ...]:
        """accuracy − confidence in each bin: below 0 is overconfident; NaN where it is empty."""
        return tuple(a - c for a, c in zip(self.accuracy, self.confidence, strict=True))

    @property
    def weighted_gaps(self) -> tuple[tuple[float, float], ...]:
        """(share of the rows, |accuracy − confidence|) of each bin that holds rows."""
        return tuple((n / self.n, abs(gap)) for n, gap in zip(self.counts, self.gaps, strict=True) if n)

    @property
    def ece(self) -> float:
        """Σ_b n_b/N |accuracy_b − confidence_b|, a fraction."""
        return math.fsum(share * gap for share, gap in self.weighted_gaps)

    @property
    def mce(self) -> float:
        """max_b |accuracy_b − confidence_b|, a fraction."""
        return max(gap for _, gap in self.weighted_gaps)

    @property
    def rmsce(self) -> float:
        """√(Σ_b n_b/N (accuracy_b − confidence_b)²), a fraction."""
        return math.sqrt(math.fsum(share * gap**2 for share, gap in self.weighted_gaps))


class BinSums:
    """Counts, confidences and hits per equal-width bin; adding two of them is exact for counts.

    Args:
        n_bins: B.
    """

    def __init__(self, n_bins: int) -> None:
        self.n_bins = as_count("n_bins", n_bins)
        self.counts = torch.zeros(n_bins, dtype=torch.int64, device="cpu")
        self.correct = torch.zeros(n_bins, dtype=torch.int64, device="cpu")
        self.confidence = torch.zeros(n_bins, dtype=torch.float64, device="cpu")

    def add(self, confidence: torch.Tensor, correct: torch.Tensor) -> None:
        """Adds rows.

        Args:
            confidence: (n,) float32 or float64 in [0, 1].
            correct: (n,) bool.
        """
        index = bin_index(confidence, self.n_bins)
        by_hit = torch.bincount(torch.add(index, correct, alpha=self.n_bins), minlength=2 * self.n_bins)
        missed, hit = by_hit.cpu().split(self.n_bins)
        self.counts += missed + hit
        self.correct += hit
        self.confidence += torch.bincount(index, weights=confidence.double(), minlength=self.n_bins).cpu()

    def merge(self, other: "BinSums") -> None:
        """Adds another's rows, of the same number of bins."""
        self.counts += other.counts
        self.correct += other.correct
        self.confidence += other.confidence

    def curve(self) -> ReliabilityCurve:
        """The curve of the rows so far."""
        return curve_from_sums(bin_edges(self.n_bins), self.counts, self.confidence, self.correct)


def curve_from_sums(
    edges: Any, counts: torch.Tensor, confidence: torch.Tensor, correct: torch.Tensor
) -> ReliabilityCurve:
    """A curve from what each bin sums to: n_b, Σ confidence, Σ right (integers or shares of ties)."""

    def means(sums: torch.Tensor) -> tuple[float, ...]:
        # One and the same NaN in every empty bin, so that equal curves compare equal.
        return tuple(total / n if n else math.nan for total, n in zip(sums.tolist(), sizes, strict=True))

    sizes = tuple(int(count) for count in counts)
    return ReliabilityCurve(tuple(float(edge) for edge in edges), sizes, means(confidence), means(correct))


def equal_mass_curve(confidence: torch.Tensor, correct: torch.Tensor, n_bins: int) -> ReliabilityCurve:
    """Bins of equally many rows, cut at ranks ⌊k N/B⌋ of the sorted confidences, whatever the order of rows.

    Rows that share a confidence cannot be told apart, so each counts with the mean accuracy of its tie before
    the cut. With fewer rows than bins every row is its own bin.

    Args:
        confidence: (N,).
        correct: (N,) bool.
        n_bins: B.

    Returns:
        The curve; its inner edges are midway between the confidences on either side of a cut.
    """
    n = len(confidence)
    n_bins = min(as_count("n_bins", n_bins), n)
    ordered, order = confidence.sort()
    ordered = ordered.double().cpu()
    share = tie_means(ordered, correct[order].cpu())
    cuts = [k * n // n_bins for k in range(n_bins + 1)]
    sizes = torch.tensor([stop - start for start, stop in itertools.pairwise(cuts)], device="cpu")
    owner = torch.repeat_interleave(torch.arange(n_bins, device="cpu"), sizes)
    inner = [float(ordered[cut - 1] + ordered[cut]) / 2 for cut in cuts[1:-1]]
    return curve_from_sums(
        [0.0, *inner, 1.0],
        sizes,
        torch.bincount(owner, weights=ordered, minlength=n_bins),
        torch.bincount(owner, weights=share, minlength=n_bins),
    )


def tie_means(ordered: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Each value replaced by the mean over the rows that share its key.

    Args:
        ordered: (N,) sorted keys.
        values: (N,) numbers or bools in that order.

    Returns:
        (N,) float64, independent of the order within a tie up to rounding (exact for bools).
    """
    _, group, sizes = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    totals = torch.bincount(group, weights=values.double(), minlength=len(sizes))
    return (totals / sizes)[group]
