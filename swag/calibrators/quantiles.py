"""The finite-sample quantile split conformal prediction rests on.

With n calibration scores and a new one exchangeable with them, the new one is at most the ⌈(n + 1) level⌉-th
smallest with probability ≥ level, and ≤ level + 1/(n + 1) if there are no ties (Vovk et al., 2005).
"""

import logging
import math

import torch

from swag.metrics.inputs import as_level

logger = logging.getLogger(__name__)


def conformal_quantile(scores: torch.Tensor, level: float) -> float:
    """The ⌈(n + 1) level⌉-th smallest score, +∞ (logged) where n is too small to have one.

    Args:
        scores: (n,) float64, of calibration rows.
        level: the coverage wanted, a fraction.

    Returns:
        A score.

    Raises:
        InputError: `level` is not in (0, 1).
    """
    n = len(scores)
    rank = math.ceil((n + 1) * as_level("level", level) * (1 - 1e-12))  # .9 · 10 is 9, whatever its rounding
    if rank > n:
        needed = math.ceil(level / (1 - level) * (1 - 1e-12))
        logger.warning(
            "%d calibration rows are too few for level %g, which needs at least %d: every set will hold all",
            n,
            level,
            needed,
        )
        return math.inf
    return float(scores.kthvalue(rank).values)
