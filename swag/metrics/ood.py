"""How well a score tells out-of-distribution inputs from in-distribution ones: higher = further out.

Ties are split evenly by the AUROC and taken together by every threshold. "Positive" means out-of-distribution
unless a name ends in `_in`.
"""

import math

import torch

from swag.metrics.inputs import Values, as_level, as_vector


def score_inputs(scores_in: Values, scores_out: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sets of scores, float64 (N,) and (M,) on one device."""
    inside, outside = as_vector("scores_in", scores_in), as_vector("scores_out", scores_out)
    return inside, outside.to(inside.device)


def counts_above(negative: torch.Tensor, positive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For every distinct score from high to low as a threshold: negatives and positives at or above it.

    Args:
        negative: (N,) scores.
        positive: (M,) scores.

    Returns:
        False positives and true positives, float64 (K,), ending at N and M.
    """
    scores = torch.cat([negative, positive])
    is_positive = torch.cat([torch.zeros_like(negative), torch.ones_like(positive)])
    ordered, order = scores.sort(descending=True)
    last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool, device=scores.device)])
    hits = is_positive[order].cumsum(0)
    flagged = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)
    return (flagged - hits)[last], hits[last]


def auroc(scores_in: Values, scores_out: Values) -> float:
    r"""Area under the ROC curve: P(score_out > score_in) + ½ P(score_out = score_in).

    Args:
        scores_in: (N,) scores of in-distribution inputs; higher = more out-of-distribution.
        scores_out: (M,) scores of out-of-distribution inputs.

    Returns:
        1 for a perfect score, ½ for a useless one; the same whichever set is called positive.

    Raises:
        InputError: one set is empty, or a score is not finite.

    Example:
        >>> auroc([0.1, 0.2, 0.3], [0.3, 0.9])  # doctest: +ELLIPSIS
        0.9166...
    """
    inside, outside = score_inputs(scores_in, scores_out)
    ordered = inside.sort().values
    below = torch.searchsorted(ordered, outside)
    not_above = torch.searchsorted(ordered, outside, right=True)
    return int((below + not_above).sum()) / (2 * len(inside) * len(outside))


def average_precision(negative: torch.Tensor, positive: torch.Tensor) -> float:
    """Σ_k (recall_k − recall_{k−1}) precision_k over distinct thresholds from high to low."""
    false_positives, true_positives = counts_above(negative, positive)
    precision = true_positives / (true_positives + false_positives)
    gained = torch.diff(true_positives, prepend=true_positives.new_zeros(1)) / len(positive)
    return float((gained * precision).sum())


def aupr(scores_in: Values, scores_out: Values) -> float:
    r"""Area under the precision–recall curve, out-of-distribution inputs positive; the same as `aupr_out`.

    Args:
        scores_in: (N,) scores of in-distribution inputs; higher = more out-of-distribution.
        scores_out: (M,) scores of out-of-distribution inputs.

    Returns:
        Average precision; a useless score gives M/(N + M).

    Raises:
        InputError: one set is empty, or a score is not finite.

    Example:
        >>> aupr([0.1, 0.8], [0.9, 0.7])  # doctest: +ELLIPSIS
        0.8333...
    """
    return aupr_out(scores_in, scores_out)


def aupr_out(scores_in: Values, scores_out: Values) -> float:
    r"""Average precision, out-of-distribution inputs positive: Σ_k (R_k − R_{k−1}) P_k, not interpolated.

    Args:
        scores_in: (N,) scores of in-distribution inputs; higher = more out-of-distribution.
        scores_out: (M,) scores of out-of-distribution inputs.

    Returns:
        A fraction; a useless score gives M/(N + M).

    Raises:
        InputError: one set is empty, or a score is not finite.

    Example:
        >>> aupr_out([0.1, 0.2], [0.8, 0.9])
        1.0
    """
    inside, outside = score_inputs(scores_in, scores_out)
    return average_precision(inside, outside)


def aupr_in(scores_in: Values, scores_out: Values) -> float:
    r"""Average precision with the in-distribution inputs positive, ranked by low scores.

    Args:
        scores_in: (N,) scores of in-distribution inputs; higher = more out-of-distribution.
        scores_out: (M,) scores of out-of-distribution inputs.

    Returns:
        A fraction; a useless score gives N/(N + M).

    Raises:
        InputError: one set is empty, or a score is not finite.

    Example:
        >>> aupr_in([0.1, 0.2], [0.8, 0.9])
        1.0
    """
    inside, outside = score_inputs(scores_in, scores_out)
    return average_precision(-outside, -inside)


def fpr_at_tpr(scores_in: Values, scores_out: Values, tpr: float = 0.95) -> float:
    r"""Share of in-distribution inputs flagged when at least `tpr` of the out-of-distribution ones are.

    The highest threshold that flags enough of `scores_out` is used; ties are flagged together, and nothing is
    interpolated. The literature also calls the in-distribution inputs positive: `fpr_at_tpr_in`.

    Args:
        scores_in: (N,) scores of in-distribution inputs; higher = more out-of-distribution.
        scores_out: (M,) scores of out-of-distribution inputs.
        tpr: a fraction.

    Returns:
        A fraction; 0 for a perfect score.

    Raises:
        InputError: one set is empty, a score is not finite, or `tpr` is not in (0, 1).

    Example:
        >>> fpr_at_tpr([0.1, 0.2, 0.6, 0.7], [0.5, 0.8, 0.9], tpr=0.95)
        0.5
    """
    inside, outside = score_inputs(scores_in, scores_out)
    return share_flagged(inside, outside, as_level("tpr", tpr))


def fpr_at_tpr_in(scores_in: Values, scores_out: Values, tpr: float = 0.95) -> float:
    r"""Share of out-of-distribution inputs accepted when at least `tpr` of the in-distribution ones are.

    The in-distribution inputs are positive here, as in Liang et al., 2018 (ODIN).

    Args:
        scores_in: (N,) scores of in-distribution inputs; higher = more out-of-distribution.
        scores_out: (M,) scores of out-of-distribution inputs.
        tpr: a fraction.

    Returns:
        A fraction; 0 for a perfect score.

    Raises:
        InputError: as for `fpr_at_tpr`.

    Example:
        >>> fpr_at_tpr_in([0.1, 0.2, 0.6], [0.5, 0.8], tpr=0.95)
        0.5
    """
    inside, outside = score_inputs(scores_in, scores_out)
    return share_flagged(-outside, -inside, as_level("tpr", tpr))


def share_flagged(negative: torch.Tensor, positive: torch.Tensor, tpr: float) -> float:
    """Share of negatives at or above the highest threshold that reaches `tpr` of the positives."""
    needed = math.ceil(tpr * len(positive) * (1 - 1e-12))  # 0.95 · 20 is 19, whatever its rounding
    threshold = positive.sort(descending=True).values[needed - 1]
    return float((negative >= threshold).double().mean())


def detection_error(scores_in: Values, scores_out: Values) -> float:
    r"""Least ½ P(missed) + ½ P(falsely flagged) over all thresholds (Liang et al., 2018).

    Args:
        scores_in: (N,) scores of in-distribution inputs; higher = more out-of-distribution.
        scores_out: (M,) scores of out-of-distribution inputs.

    Returns:
        0 for a perfect score, ½ for a useless one; the same whichever set is called positive.

    Raises:
        InputError: one set is empty, or a score is not finite.

    Example:
        >>> detection_error([0.1, 0.2, 0.6, 0.7], [0.5, 0.8])
        0.25
    """
    inside, outside = score_inputs(scores_in, scores_out)
    false_positives, true_positives = counts_above(inside, outside)
    errors = 0.5 * (1 - true_positives / len(outside)) + 0.5 * false_positives / len(inside)
    return min(0.5, float(errors.amin()))
