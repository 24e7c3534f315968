"""The averaged predictive of Gaussian regressors: an exact mixture of S Gaussians a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from swag.arguments import tensor_of
from swag.errors import InputError, StateError

# Bisection halves a bracket: 60 steps take any float64 bracket below its resolution.
_BISECTIONS = 60


@final
class GaussianPredictive:
    r"""p̄(y|x) = (1/S) Σ_s N(y; μ_s(x), σ²_s(x)) for N inputs.

    `mean`, `aleatoric`, `epistemic`, `variance` follow the law of total variance; `log_prob`, `cdf` and
    `quantile` are those of the mixture itself, not of the moment-matched Gaussian.

    Args:
        member_means: (S, N) μ_s.
        member_variances: (S, N) σ²_s > 0.

    >>> predictive = GaussianPredictive(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
    >>> predictive.mean.item(), predictive.aleatoric.item(), predictive.epistemic.item()
    (1.0, 2.0, 1.0)
    """

    def __init__(self, member_means: Tensor, member_variances: Tensor) -> None:
        member_means, member_variances = tensor_of(member_means), tensor_of(member_variances)
        accumulator = GaussianAccumulator()
        if member_means.ndim != 2 or member_means.shape != member_variances.shape or not len(member_means):
            raise InputError(
                f"member_means, member_variances: got {tuple(member_means.shape)} and "
                f"{tuple(member_variances.shape)}; both must be (S, N), S ≥ 1"
            )
        for mean, variance in zip(member_means, member_variances, strict=True):
            accumulator.add(mean, variance)
        self._take(accumulator)

    @classmethod
    def _of(cls, accumulator: GaussianAccumulator) -> GaussianPredictive:
        predictive = cls.__new__(cls)
        predictive._take(accumulator)
        return predictive

    def _take(self, accumulator: GaussianAccumulator) -> None:
        self.n_samples: int = accumulator.n_samples
        self.mean: Tensor = accumulator.mean.clone()
        self.aleatoric: Tensor = accumulator.aleatoric.clone()
        self.epistemic: Tensor = accumulator.sq_dev / accumulator.n_samples
        kept = accumulator.members
        self._means = torch.stack([mean for mean, _ in kept]) if kept else None
        self._variances = torch.stack([variance for _, variance in kept]) if kept else None

    @property
    def n_rows(self) -> int:
        """N."""
        return self.mean.shape[0]

    @property
    def variance(self) -> Tensor:
        """aleatoric + epistemic (N,)."""
        return self.aleatoric + self.epistemic

    @property
    def monte_carlo_error(self) -> float:
        """The standard error of the mean from S members in units of the predictive std, mean over rows.

        NaN for one member, whose spread is unknown.
        """
        if self.n_samples < 2:
            return float("nan")
        return float((self.epistemic / (self.n_samples - 1) / self.variance).sqrt().mean())

    @property
    def member_means(self) -> Tensor:
        """μ_s (S, N); StateError where members were not kept."""
        return self._members("member_means")[0]

    @property
    def member_variances(self) -> Tensor:
        """σ²_s (S, N); StateError where members were not kept."""
        return self._members("member_variances")[1]

    def log_prob(self, y: Tensor) -> Tensor:
        """log p̄(y) (N,) in nats, by log-sum-exp over the members.

        Raises:
            StateError: the members were not kept.
            InputError: y is not (N,).
        """
        means, variances = self._members("log_prob")
        y = self._targets(y)
        terms = -0.5 * ((y - means).square() / variances + variances.log() + math.log(2 * math.pi))
        return terms.logsumexp(0) - math.log(self.n_samples)

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y ≤ y) (N,) of the mixture; raises as `log_prob`."""
        means, variances = self._members("cdf")
        return torch.special.ndtr((self._targets(y) - means) / variances.sqrt()).mean(0)

    def quantile(self, q: float | Tensor) -> Tensor:
        """The mixture's quantile: (N,) for a number q in (0, 1), (Q, N) for a vector of Q levels.

        By bisection of the cdf between the least and the greatest of the members' own q-quantiles, which
        enclose it.

        Raises:
            StateError: the members were not kept.
            InputError: q outside (0, 1).
        """
        means, variances = self._members("quantile")
        levels = torch.as_tensor(q, dtype=torch.float64, device=means.device)
        if levels.ndim > 1 or not bool(((levels > 0) & (levels < 1)).all()):
            raise InputError(f"q: got {q!r}; pass a number or a vector of numbers strictly between 0 and 1")
        means, std = means.double(), variances.double().sqrt()
        results = []
        for level in levels.reshape(-1):
            own = means + std * torch.special.ndtri(level)
            low, high = own.amin(0), own.amax(0)
            for _ in range(_BISECTIONS):
                middle = (low + high) / 2
                above = torch.special.ndtr((middle - means) / std).mean(0) >= level
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            results.append((low + high) / 2)
        stacked = torch.stack(results).to(self.mean.dtype)
        return stacked[0] if levels.ndim == 0 else stacked

    def to(self, device: torch.device | str) -> GaussianPredictive:
        """The same on another device."""
        moved = GaussianPredictive.__new__(GaussianPredictive)
        for name, value in vars(self).items():
            setattr(moved, name, value.to(device) if isinstance(value, Tensor) else value)
        return moved

    @classmethod
    def concatenate(cls, parts: Sequence[GaussianPredictive]) -> GaussianPredictive:
        """Rows after rows; InputError where the parts average different numbers of members."""
        if len({part.n_samples for part in parts}) != 1:
            raise InputError("parts: need at least one, all with the same number of members")
        joined = cls.__new__(cls)
        joined.n_samples = parts[0].n_samples
        for name in ("mean", "aleatoric", "epistemic"):
            setattr(joined, name, torch.cat([getattr(part, name) for part in parts]))
        kept = all(part._means is not None for part in parts)
        joined._means = torch.cat([part.member_means for part in parts], 1) if kept else None
        joined._variances = torch.cat([part.member_variances for part in parts], 1) if kept else None
        return joined

    def _members(self, what: str) -> tuple[Tensor, Tensor]:
        if self._means is None or self._variances is None:
            raise StateError(
                f"{what}: needs the members' means and variances, which were not kept; build the ensemble "
                "with keep_members=True (2·S·N floats)"
            )
        return self._means, self._variances

    def _targets(self, y: Tensor) -> Tensor:
        y = torch.as_tensor(y, device=self.mean.device)
        if y.shape != self.mean.shape:
            raise InputError(f"y: got shape {tuple(y.shape)}, expected (N={self.n_rows},)")
        return y.to(torch.promote_types(y.dtype, self.mean.dtype))

    def __repr__(self) -> str:
        return f"GaussianPredictive(N={self.n_rows:,}, n_samples={self.n_samples})"


@final
class GaussianAccumulator:
    """Welford over members' means, a running mean of their variances, and the members where kept.

    Args:
        keep_members: keep means and variances (2·S·N floats), which the exact mixture needs.
    """

    def __init__(self, *, keep_members: bool = True) -> None:
        self.n_samples = 0
        self.members: list[tuple[Tensor, Tensor]] | None = [] if keep_members else None
        self.mean: Tensor
        self.aleatoric: Tensor
        self.sq_dev: Tensor

    def add(self, mean: Tensor, variance: Tensor) -> None:
        """Adds one member's means and variances, both (N,).

        Raises:
            InputError: shapes differ, or a variance is not positive.
        """
        if mean.ndim != 1 or mean.shape != variance.shape:
            raise InputError(
                f"mean, variance: got {tuple(mean.shape)} and {tuple(variance.shape)}; both must be (N,)"
            )
        if not bool((variance > 0).all()):
            raise InputError("variance: a member's variance is zero, negative or NaN; it must be positive")
        mean, variance = mean.detach(), variance.detach()
        mean = mean if mean.dtype == torch.float64 else mean.float()
        variance = variance.to(mean.dtype)
        if self.n_samples == 0:
            self.mean, self.aleatoric, self.sq_dev = mean.clone(), variance.clone(), torch.zeros_like(mean)
        else:
            if mean.shape != self.mean.shape:
                raise InputError(
                    f"outputs: this member gave {tuple(mean.shape)}, the ones before "
                    f"{tuple(self.mean.shape)}; all members must see the same rows"
                )
            delta = mean - self.mean
            self.mean.add_(delta, alpha=1 / (self.n_samples + 1))
            self.sq_dev.addcmul_(delta, mean - self.mean)
            self.aleatoric.add_(variance - self.aleatoric, alpha=1 / (self.n_samples + 1))
        self.n_samples += 1
        if self.members is not None:
            self.members.append((mean, variance))

    def compute(self) -> GaussianPredictive:
        """The predictive of the members so far; StateError where there is none."""
        if self.n_samples == 0:
            raise StateError("compute: no member's outputs were added yet; call add first")
        return GaussianPredictive._of(self)
