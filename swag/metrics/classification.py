"""Scores of class probabilities against labels: accuracy, NLL, Brier.

The prediction is the first maximum of a row, so a tie counts once. Sums are float64; half types are worked on
in float32.
"""

import itertools
import math
from dataclasses import dataclass

import torch

from swag.errors import InputError
from swag.metrics.inputs import Values, as_count, as_labels, as_vector
from swag.metrics.sweep import Need, check_probs, chunk_bounds, sweep


def accuracy(probs: Values, labels: Values) -> float:
    r"""Fraction of rows whose label is the first maximum: 1/N Σ_i 1[argmax_c p_ic = y_i].

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.

    Returns:
        A fraction.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([0, 1]))
        0.5
    """
    hits, n = 0, 0
    for rows in sweep(probs, labels, Need.TOP):
        hits += int(rows.correct.sum())
        n += len(rows.correct)
    return hits / n


def top_k_accuracy(probs: Values, labels: Values, k: int) -> float:
    r"""Fraction of rows whose label is among the k most probable classes, of equal ones the first.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        k: how many classes may be named, 1..C.

    Returns:
        A fraction; `accuracy` for k = 1.

    Raises:
        InputError: `k` is not in 1..C, or as for `accuracy`.

    Example:
        >>> import torch
        >>> top_k_accuracy(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([1, 2]), k=2)
        0.5
    """
    tensor = check_probs(probs)
    n, n_classes = tensor.shape
    targets = as_labels(labels, n, n_classes, tensor.device)
    if as_count("k", k) > n_classes:
        raise InputError(f"k is {k}, but probs has {n_classes} classes; give k in 1..{n_classes}")
    classes, hits = torch.arange(n_classes, device=tensor.device), 0
    for start, stop in chunk_bounds(tensor):
        part, label = tensor[start:stop], targets[start:stop].unsqueeze(1)
        own = part.gather(1, label)
        before = (part > own) | ((part == own) & (classes < label))
        hits += int((before.sum(1) < k).sum())
    return hits / n


def nll(probs: Values, labels: Values) -> float:
    r"""Negative log-likelihood: −1/N Σ_i ln p_i[y_i], a mean in nats.

    Nothing is clipped: it is +∞ where a true class had probability 0; `n_impossible` counts those rows.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.

    Returns:
        Nats per row, 0 or more.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> round(nll(torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([0, 1])), 4)
        0.4904
    """
    total, n = 0.0, 0
    for rows in sweep(probs, labels, Need.LABEL):
        total += float(rows.nll.sum(dtype=torch.float64))
        n += len(rows.nll)
    return total / n


def n_impossible(probs: Values, labels: Values) -> int:
    r"""Rows whose true class had probability 0; each makes the NLL infinite.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.

    Returns:
        A number of rows.

    Raises:
        InputError: as for `nll`.

    Example:
        >>> import torch
        >>> n_impossible(torch.tensor([[1.0, 0.0], [0.25, 0.75]]), torch.tensor([1, 1]))
        1
    """
    return sum(int((rows.p_true == 0).sum()) for rows in sweep(probs, labels, Need.LABEL))


def brier(probs: Values, labels: Values) -> float:
    r"""Brier score summed over classes: 1/N Σ_i Σ_c (p_ic − 1[c = y_i])² (Brier, 1950).

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.

    Returns:
        0 (certain and right) to 2 (certain and wrong). For two classes this is twice the one-column score.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> round(brier(torch.tensor([[0.75, 0.25]]), torch.tensor([0])), 6)
        0.125
    """
    total, n = 0.0, 0
    for rows in sweep(probs, labels, Need.SQUARES):
        total += rows.brier_sum
        n += len(rows.p_true)
    return max(0.0, total / n)


@dataclass(frozen=True)
class RowScores:
    """What each row adds to a mean; what a bootstrap resamples.

    Attributes:
        confidence: (N,) the first maximum's probability, float32 or float64.
        correct: (N,) bool.
        nll: (N,) float64, nats, +∞ where the true class had probability 0.
        brier: (N,) float64.
    """

    confidence: torch.Tensor
    correct: torch.Tensor
    nll: torch.Tensor
    brier: torch.Tensor


def row_scores(probs: Values, labels: Values) -> RowScores:
    r"""Confidence, correctness, NLL and Brier score of every row, in one pass.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.

    Returns:
        Four vectors (N,), whose means are the scores; on the device of `probs`.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> row_scores(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0])).correct.tolist()
        [True, False]
    """
    blocks = [
        (rows.confidence, rows.correct, rows.nll.double(), rows.brier)
        for rows in sweep(probs, labels, Need.TOP)
    ]
    confidence, correct, nlls, briers = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return RowScores(confidence, correct, nlls, briers)


def deep_ensemble_equivalent(nll_value: float, ensemble_nlls: Values) -> float:
    r"""How many independently trained networks reach this NLL, as a real number.

    The smallest ℓ ≥ 1 with nll_DE(ℓ) ≤ nll_value, where nll_DE interpolates linearly between the sizes given
    and, an ensemble that got worse by growing being noise, never rises (Ashukha et al., 2020, who use the
    calibrated NLL).

    Args:
        nll_value: the method's NLL in nats, preferably `calibrated_nll`.
        ensemble_nlls: (K,) the same NLL of deep ensembles of 1, 2, …, K networks.

    Returns:
        1 where one network is already as good; +∞ where even K networks are not.

    Raises:
        InputError: a value is not finite, or there are none.

    Example:
        >>> deep_ensemble_equivalent(0.35, [0.5, 0.4, 0.3])
        2.5
    """
    if not math.isfinite(nll_value):
        raise InputError(f"nll_value is {nll_value}; give a finite NLL in nats")
    best = as_vector("ensemble_nlls", ensemble_nlls).cummin(0).values.tolist()
    if nll_value >= best[0]:
        return 1.0
    for size, (worse, better) in enumerate(itertools.pairwise(best), start=1):
        if nll_value >= better:
            return size + (worse - nll_value) / (worse - better)
    return math.inf
