"""Calibration errors from bins of confidence: is a row with confidence .8 right four times out of five?

Two ways to cut: equal widths (k/B, (k+1)/B], the usual ECE, or equally many rows. The confidence is the
probability of the predicted class, the first maximum. All errors are fractions, not percentages.
"""

import torch

from swag.metrics.binning import BinSums, ReliabilityCurve, bin_index, equal_mass_curve
from swag.metrics.inputs import Values, as_count, as_labels, working
from swag.metrics.sweep import Need, check_probs, chunk_bounds, sweep


def reliability_curve(probs: Values, labels: Values, n_bins: int = 15) -> ReliabilityCurve:
    r"""Mean confidence and accuracy in equal-width, right-closed bins of confidence.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B.

    Returns:
        Edges, counts, confidence and accuracy, NaN in empty bins; and `gaps`, `ece`, `mce`, `rmsce`.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> reliability_curve(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]), n_bins=2)
        ReliabilityCurve(edges=(0.0, 0.5, 1.0), counts=(0, 2), confidence=(nan, 0.75), accuracy=(nan, 0.5))
    """
    bins = BinSums(n_bins)
    for rows in sweep(probs, labels, Need.TOP):
        bins.add(rows.confidence, rows.correct)
    return bins.curve()


def equal_mass_reliability_curve(probs: Values, labels: Values, n_bins: int = 15) -> ReliabilityCurve:
    r"""Mean confidence and accuracy in bins of equally many rows.

    Rows with one confidence count with the mean accuracy of their tie, so the order of rows does not matter.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B; with fewer rows, N.

    Returns:
        The curve; inner edges lie midway between neighbouring bins' rows.

    Raises:
        InputError: as for `reliability_curve`.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> equal_mass_reliability_curve(probs, torch.tensor([0, 0]), n_bins=2).accuracy
        (1.0, 1.0)
    """
    confidence, correct = top_label(probs, labels)
    return equal_mass_curve(confidence, correct, n_bins)


def top_label(probs: Values, labels: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's confidence (N,) and whether it was right (N,) bool."""
    blocks = [(rows.confidence, rows.correct) for rows in sweep(probs, labels, Need.TOP)]
    return torch.cat([block[0] for block in blocks]), torch.cat([block[1] for block in blocks])


def ece(probs: Values, labels: Values, n_bins: int = 15) -> float:
    r"""Expected calibration error: Σ_b n_b/N |accuracy_b − confidence_b| over equal-width bins.

    Source: Naeini et al., 2015; Guo et al., 2017. Biased upwards on small data: see `debiased_ece`.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B.

    Returns:
        A fraction, 0 to 1.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> ece(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]))
        0.25
    """
    return reliability_curve(probs, labels, n_bins).ece


def mce(probs: Values, labels: Values, n_bins: int = 15) -> float:
    r"""Maximum calibration error: max_b |accuracy_b − confidence_b| over equal-width bins that hold rows.

    Source: Naeini et al., 2015. One row in a bin is enough to set it: read it beside the counts.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B.

    Returns:
        A fraction, 0 to 1.

    Raises:
        InputError: as for `ece`.

    Example:
        >>> import torch
        >>> mce(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 0]))
        0.5
    """
    return reliability_curve(probs, labels, n_bins).mce


def rmsce(probs: Values, labels: Values, n_bins: int = 15) -> float:
    r"""Root mean squared calibration error: √(Σ_b n_b/N (accuracy_b − confidence_b)²), equal-width bins.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B.

    Returns:
        A fraction between the ECE and the MCE.

    Raises:
        InputError: as for `ece`.

    Example:
        >>> import torch
        >>> rmsce(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]))
        0.25
    """
    return reliability_curve(probs, labels, n_bins).rmsce


def adaptive_ece(probs: Values, labels: Values, n_bins: int = 15) -> float:
    r"""ECE over bins of equally many rows: Σ_b n_b/N |accuracy_b − confidence_b| (Nguyen and O'Connor, 2015).

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B; with fewer rows, N.

    Returns:
        A fraction, 0 to 1, that does not depend on the order of rows.

    Raises:
        InputError: as for `ece`.

    Example:
        >>> import torch
        >>> adaptive_ece(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 0]), n_bins=2)
        0.375
    """
    return equal_mass_reliability_curve(probs, labels, n_bins).ece


def classwise_ece(probs: Values, labels: Values, n_bins: int = 15) -> float:
    r"""Mean over classes of the one-vs-rest ECE: 1/C Σ_c Σ_b n_bc/N |share of class c_b − mean p_c_b|.

    Every probability counts, not the largest only; equal-width bins (Kull et al., 2019). With many classes
    most probabilities are near 0, so it shrinks like 1/C.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B.

    Returns:
        A fraction, 0 to 1.

    Raises:
        InputError: as for `ece`.

    Example:
        >>> import torch
        >>> classwise_ece(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]))
        0.5
    """
    counts, predicted, observed = class_bins(probs, labels, n_bins)
    return float((observed - predicted).abs().sum() / counts.sum())


def class_bins(probs: Values, labels: Values, n_bins: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each class and each equal-width bin of its probability: rows, Σ p, and rows of that class.

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: B.

    Returns:
        Three (C, B) float64 tensors on the CPU.
    """
    tensor = check_probs(probs)
    n, n_classes = tensor.shape
    targets = as_labels(labels, n, n_classes, tensor.device)
    size = n_classes * as_count("n_bins", n_bins)
    counts, predicted, observed = (torch.zeros(size, dtype=torch.float64, device="cpu") for _ in range(3))
    offsets = torch.arange(n_classes, device=tensor.device) * n_bins
    for start, stop in chunk_bounds(tensor):
        part, label = working(tensor[start:stop]), targets[start:stop].unsqueeze(1)
        key = bin_index(part, n_bins) + offsets
        counts += torch.bincount(key.flatten(), minlength=size).cpu()
        predicted += torch.bincount(key.flatten(), weights=part.double().flatten(), minlength=size).cpu()
        observed += torch.bincount(key.gather(1, label).flatten(), minlength=size).cpu()
    shape = (n_classes, n_bins)
    return counts.view(shape), predicted.view(shape), observed.view(shape)
