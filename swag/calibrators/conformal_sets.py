"""Sets of classes that hold the true one with a stated probability, by split conformal prediction.

For rows exchangeable with the calibration rows, P(label ∈ set) ≥ level, on average over both; not for each
class or each input. A wrong model gives large sets, not wrong coverage.
"""

from dataclasses import dataclass
from typing import Any, final

import torch

from swag.calibrators.inputs import labels_of, probs_of, same_classes
from swag.calibrators.quantiles import conformal_quantile
from swag.errors import InputError
from swag.metrics.inputs import as_count

# Odd constants of the splitmix64 generator, as signed 64-bit integers.
GOLDEN, MIX_1, MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


@final
@dataclass(frozen=True)
class ConformalLAC:
    r"""Classes with 1 − p_c ≤ threshold: the smallest sets on average (Sadinle et al., 2019).

    A row on which every class is improbable gets an empty set.

    Attributes:
        threshold: the calibration rows' quantile of 1 − p[label].
        n_classes: C.

    Example:
        >>> import torch
        >>> ConformalLAC(threshold=0.8, n_classes=3)(torch.tensor([[0.7, 0.2, 0.1]]))
        tensor([[ True,  True, False]])
    """

    threshold: float
    n_classes: int

    @classmethod
    def fit(cls, probs: Any, labels: Any, *, level: float = 0.9) -> "ConformalLAC":
        r"""The threshold that covers `level` of rows like these.

        Args:
            probs: (n, C) probabilities of calibration rows, not used in training, or a predictive.
            labels: (n,) integer class indices.
            level: coverage wanted, a fraction.

        Returns:
            The fitted sets.

        Raises:
            InputError: shapes, dtypes, labels or `level` are wrong, or a row is not a distribution.
        """
        p = probs_of(probs).double()
        own = p.gather(1, labels_of(labels, p).unsqueeze(1)).squeeze(1)
        return cls(conformal_quantile(1 - own, level), p.shape[1])

    def __call__(self, probs: Any) -> torch.Tensor:
        """Sets as a bool tensor (N, C)."""
        p = probs_of(probs).double()
        same_classes(p, self.n_classes)
        return 1 - p <= self.threshold


def cumulative_scores(p: torch.Tensor, uniforms: torch.Tensor, penalty: float, n_free: int) -> torch.Tensor:
    """For each class, the probability ranked before it, a share of its own, and a penalty on its rank.

    Args:
        p: (N, C) float64.
        uniforms: (N, 1) in (0, 1], the share of its own probability that counts.
        penalty: added for each rank beyond `n_free`.
        n_free: ranks without penalty.

    Returns:
        (N, C) float64.
    """
    ordered, order = p.sort(dim=1, descending=True, stable=True)
    ranks = torch.arange(1, p.shape[1] + 1, dtype=p.dtype, device=p.device)
    scores = ordered.cumsum(1) - (1 - uniforms) * ordered + penalty * (ranks - n_free).clamp_min(0)
    return torch.empty_like(scores).scatter_(1, order, scores)


def uniforms_for(p: torch.Tensor, seed: int | None) -> torch.Tensor:
    """(N, 1) float64 in (0, 1]: ones without a seed, else a hash of the seed and of the row's own bits.

    A function of the row keeps the guarantee, since scores stay exchangeable, and makes a row's set
    independent of the batch it comes in and of its place there.
    """
    if seed is None:
        return p.new_ones(len(p), 1)
    columns = mixed(torch.arange(1, p.shape[1] + 1, device=p.device) * GOLDEN + seed) | 1
    bits = (p + 0.0).contiguous().view(torch.int64)  # + 0.0 makes −0.0 the same as 0.0
    keys = mixed((mixed(bits) * columns).sum(1, keepdim=True))
    return ((keys >> 11) & (2**53 - 1)).double().add_(1).div_(2**53)


def mixed(x: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser: every bit of the result depends on every bit of x (Steele et al., 2014)."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


@final
@dataclass(frozen=True)
class ConformalAPS:
    r"""The most probable classes until their probabilities add up to the threshold (Romano et al., 2020).

    The score of a class is what is ranked before it plus u times its own probability. With a seed u is
    uniform, a draw for each row, and the coverage is exact to 1/(n + 1); without, u = 1 and the sets are
    larger than need be. Sets adapt to a row's difficulty, at the price of being larger than LAC's.

    Attributes:
        threshold: the calibration rows' quantile of the label's score.
        n_classes: C.
        seed: of the uniforms, None for none.

    Example:
        >>> import torch
        >>> ConformalAPS(threshold=0.9, n_classes=3)(torch.tensor([[0.7, 0.2, 0.1]]))
        tensor([[ True,  True, False]])
    """

    threshold: float
    n_classes: int
    seed: int | None = None

    @classmethod
    def fit(cls, probs: Any, labels: Any, *, level: float = 0.9, seed: int | None = None) -> "ConformalAPS":
        r"""The threshold that covers `level` of rows like these.

        Args:
            probs: (n, C) probabilities of calibration rows, not used in training, or a predictive.
            labels: (n,) integer class indices.
            level: coverage wanted, a fraction.
            seed: of the uniforms; None for deterministic, larger sets.

        Returns:
            The fitted sets.

        Raises:
            InputError: shapes, dtypes, labels or `level` are wrong, or a row is not a distribution.
        """
        threshold, n_classes = fitted_threshold(probs, labels, level, seed, 0.0, 0)
        return cls(threshold, n_classes, seed)

    def __call__(self, probs: Any) -> torch.Tensor:
        """Sets as a bool tensor (N, C)."""
        p = probs_of(probs).double()
        same_classes(p, self.n_classes)
        return cumulative_scores(p, uniforms_for(p, self.seed), 0.0, 0) <= self.threshold


@final
@dataclass(frozen=True)
class ConformalRAPS:
    r"""APS with a penalty for every class beyond the first few: smaller sets (Angelopoulos et al., 2021).

    Attributes:
        threshold: the calibration rows' quantile of the label's score.
        n_classes: C.
        penalty: λ, added to the score for each rank beyond `n_free`, in units of probability.
        n_free: k_reg, ranks without penalty.
        seed: of the uniforms, None for none.

    Example:
        >>> import torch
        >>> sets = ConformalRAPS(threshold=0.95, n_classes=3, penalty=0.1, n_free=1)
        >>> sets(torch.tensor([[0.7, 0.2, 0.1]]))
        tensor([[ True, False, False]])
    """

    threshold: float
    n_classes: int
    penalty: float
    n_free: int
    seed: int | None = None

    @classmethod
    def fit(
        cls,
        probs: Any,
        labels: Any,
        *,
        level: float = 0.9,
        penalty: float = 0.01,
        n_free: int = 5,
        seed: int | None = None,
    ) -> "ConformalRAPS":
        r"""The threshold that covers `level` of rows like these.

        Args:
            probs: (n, C) probabilities of calibration rows, not used in training, or a predictive.
            labels: (n,) integer class indices.
            level: coverage wanted, a fraction.
            penalty: λ ≥ 0; chosen before the calibration rows are looked at.
            n_free: k_reg ≥ 0; likewise.
            seed: of the uniforms; None for deterministic, larger sets.

        Returns:
            The fitted sets.

        Raises:
            InputError: shapes, dtypes, labels, `level`, `penalty` or `n_free` are wrong, or a row is not a
                distribution.
        """
        if not penalty >= 0:
            raise InputError(f"penalty is {penalty!r}; give a number ≥ 0, in units of probability")
        as_count("n_free", n_free, lowest=0)
        threshold, n_classes = fitted_threshold(probs, labels, level, seed, penalty, n_free)
        return cls(threshold, n_classes, penalty, n_free, seed)

    def __call__(self, probs: Any) -> torch.Tensor:
        """Sets as a bool tensor (N, C)."""
        p = probs_of(probs).double()
        same_classes(p, self.n_classes)
        uniforms = uniforms_for(p, self.seed)
        return cumulative_scores(p, uniforms, self.penalty, self.n_free) <= self.threshold


def fitted_threshold(
    probs: Any, labels: Any, level: float, seed: int | None, penalty: float, n_free: int
) -> tuple[float, int]:
    """The quantile of the labels' cumulative scores, and C."""
    p = probs_of(probs).double()
    targets = labels_of(labels, p).unsqueeze(1)
    scores = cumulative_scores(p, uniforms_for(p, seed), penalty, n_free)
    return conformal_quantile(scores.gather(1, targets).squeeze(1), level), p.shape[1]
