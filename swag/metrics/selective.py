"""Selective prediction: if the least confident rows may be left to someone else, how wrong is the rest?

Rows that share a confidence cannot be told apart, so each counts with the mean error of its tie: the result
does not depend on the order of rows, and is the average over all orders of the ties.
"""

from dataclasses import dataclass

import torch

from swag.metrics.binning import tie_means
from swag.metrics.calibration import top_label
from swag.metrics.inputs import Values, as_count, as_vector, at_least_zero, same_length


@dataclass(frozen=True)
class RiskCoverageCurve:
    """The mean error of the most confident rows, as more and more are kept.

    Attributes:
        coverage: share of the rows kept, rising to 1.
        risk: mean error of those.
        aurc: area under the whole curve, however many points are given here.
        excess_aurc: that less the area of the best possible order of the same errors.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    aurc: float
    excess_aurc: float


def risk_coverage(probs: Values, labels: Values, *, max_points: int = 1000) -> RiskCoverageCurve:
    r"""Error rate among the k most confident rows, for k = 1..N; the confidence is the largest probability.

    risk_k = 1/k Σ_{i ≤ k} 1[wrong_i], coverage_k = k/N (El-Yaniv and Wiener, 2010).

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        max_points: of more rows, this many evenly spaced points are given, the last always.

    Returns:
        The curve and its areas.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> curve = risk_coverage(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        >>> curve.coverage, curve.risk
        ((0.5, 1.0), (0.0, 0.5))
    """
    confidence, correct = top_label(probs, labels)
    return risk_coverage_from_scores(confidence, (~correct).double(), max_points=max_points)


def risk_coverage_from_scores(
    confidence: Values, errors: Values, *, max_points: int = 1000
) -> RiskCoverageCurve:
    r"""The same for any confidence and any error ≥ 0 of a row: a negated entropy, a squared error.

    Args:
        confidence: (N,) higher = kept longer; any units.
        errors: (N,) ≥ 0, in the units the risk is wanted in.
        max_points: of more rows, this many evenly spaced points are given, the last always.

    Returns:
        The curve and its areas.

    Raises:
        InputError: shapes differ, a value is not finite, or an error is negative.

    Example:
        >>> risk_coverage_from_scores([3.0, 2.0, 1.0], [0.0, 1.0, 0.5]).risk
        (0.0, 0.5, 0.5)
    """
    keys, losses = as_vector("confidence", confidence), at_least_zero("errors", as_vector("errors", errors))
    same_length("confidence", keys, errors=losses)
    n = len(keys)
    ordered, order = keys.sort(descending=True)
    risks = running_means(tie_means(ordered, losses.to(keys.device)[order]))
    area = float(risks.mean())
    best = float(running_means(losses.sort().values).mean())
    points = min(as_count("max_points", max_points), n)
    kept = torch.tensor([(k * n) // points for k in range(1, points + 1)], device=risks.device)
    return RiskCoverageCurve(
        coverage=tuple((kept.double() / n).tolist()),
        risk=tuple(risks[kept - 1].tolist()),
        aurc=area,
        excess_aurc=max(0.0, area - best),
    )


def running_means(values: torch.Tensor) -> torch.Tensor:
    """Mean of the first k, for every k; (N,) float64."""
    return values.cumsum(0) / torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)


def aurc(probs: Values, labels: Values) -> float:
    r"""Area under the risk–coverage curve: 1/N Σ_k risk_k (Geifman et al., 2019).

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.

    Returns:
        A fraction, 0 to 1; smaller is better.

    Raises:
        InputError: as for `risk_coverage`.

    Example:
        >>> import torch
        >>> aurc(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        0.25
    """
    return risk_coverage(probs, labels, max_points=1).aurc


def excess_aurc(probs: Values, labels: Values) -> float:
    r"""AURC less that of the best order of the same errors, all wrong rows last (Geifman et al., 2019).

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.

    Returns:
        0 where every wrong row is less confident than every right one.

    Raises:
        InputError: as for `risk_coverage`.

    Example:
        >>> import torch
        >>> excess_aurc(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([1, 0]))
        0.5
    """
    return risk_coverage(probs, labels, max_points=1).excess_aurc
