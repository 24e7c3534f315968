"""Where a Brier score comes from: wrong probabilities, what they tell apart, and how hard the task is."""

from dataclasses import dataclass

from swag.metrics.calibration import class_bins
from swag.metrics.classification import brier
from swag.metrics.inputs import Values


@dataclass(frozen=True)
class BrierDecomposition:
    """brier = reliability − resolution + uncertainty + within_bin.

    Attributes:
        brier: the whole, summed over classes, 0 to 2.
        reliability: squared distance of the bins' probabilities from their frequencies; 0 is calibrated.
        resolution: squared distance of the bins' frequencies from the classes' shares; more is better.
        uncertainty: Σ_c ō_c (1 − ō_c) of the labels alone.
        within_bin: what a bin's spread adds (its variance less twice its covariance with the outcome); it
            goes to 0 with narrower bins, and may be negative.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float


def brier_decomposition(probs: Values, labels: Values, n_bins: int = 15) -> BrierDecomposition:
    r"""The Brier score as reliability − resolution + uncertainty + within_bin, each class against the rest.

    For each class c, rows are put into equal-width bins b of p_c, with mean p̄_bc, share of the class ō_bc,
    and overall share ō_c:

        reliability = Σ_c Σ_b n_bc/N (p̄_bc − ō_bc)²,  resolution = Σ_c Σ_b n_bc/N (ō_bc − ō_c)²,
        uncertainty = Σ_c ō_c (1 − ō_c),  within_bin = what is left (Murphy, 1973; Stephenson et al., 2008).

    Args:
        probs: (N, C) probabilities, tensor or array.
        labels: (N,) integer class indices.
        n_bins: bins of each class's probability.

    Returns:
        The five figures.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> parts = brier_decomposition(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]))
        >>> round(parts.brier, 6), parts.reliability, parts.resolution, parts.uncertainty
        (0.625, 0.625, 0.0, 0.0)
    """
    counts, predicted, observed = class_bins(probs, labels, n_bins)
    n = counts[0].sum()
    rows = counts.clamp(min=1)
    share = observed.sum(1, keepdim=True) / n
    reliability = float((counts / n * (predicted / rows - observed / rows).square()).sum())
    resolution = float((counts / n * (observed / rows - share).square()).sum())
    uncertainty = float((share * (1 - share)).sum())
    total = brier(probs, labels)
    return BrierDecomposition(
        total, reliability, resolution, uncertainty, total - (reliability - resolution + uncertainty)
    )
