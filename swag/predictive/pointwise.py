"""The average of members' densities of targets that they have seen: one number a row, not a distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from swag.errors import InputError, StateError


@final
@dataclass(frozen=True)
class Pointwise:
    """Outputs are losses −log p(y_n | x_n, θ_s) (N,), as a loss with `reduction="none"` gives them.

    For targets whose distribution is too large to keep, such as the next word, or has no form that the other
    likelihoods know. The `forward` of the ensemble sees the targets:

        def losses(model, batch):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

        swag.Ensemble(model, posterior, likelihood=swag.Pointwise(), forward=losses)

    >>> Pointwise().accumulator()
    PointwiseAccumulator(n=0)
    """

    def accumulator(self, *, keep_members: bool | None = None) -> PointwiseAccumulator:
        """A fresh accumulator; members are not kept.

        Raises:
            InputError: `keep_members` is true.
        """
        if keep_members:
            raise InputError("keep_members: Pointwise keeps no members; leave it out")
        return PointwiseAccumulator()


@final
@dataclass(frozen=True, eq=False, repr=False)
class PointwisePredictive:
    r"""p̄_n = (1/S) Σ_s p(y_n | x_n, θ_s) of the N targets that were there.

    The sum of log p̄_n is the log pointwise predictive density of Gelman, Hwang & Vehtari 2014.

    Attributes:
        log_density: (N,) log p̄_n, nats.
        relative_variance: (N,) of the members' densities around p̄_n, divided by p̄_n²; population.
        n_samples: S.
    """

    log_density: Tensor
    relative_variance: Tensor
    n_samples: int

    @property
    def n_rows(self) -> int:
        """N."""
        return len(self.log_density)

    @property
    def nll(self) -> float:
        """−(1/N) Σ log p̄_n, nats a row."""
        return -float(self.log_density.double().mean())

    @property
    def perplexity(self) -> float:
        """e^nll; ∞ where that is too large for a float."""
        return float(torch.tensor(self.nll, dtype=torch.float64, device="cpu").exp())

    @property
    def monte_carlo_error(self) -> float:
        """The standard error of p̄_n from S members over p̄_n, √(relative variance/(S−1)), mean over rows.

        About the error of log p̄_n, where it is small. NaN for one member.
        """
        if self.n_samples < 2:
            return math.nan
        return float((self.relative_variance / (self.n_samples - 1)).sqrt().mean())

    def log_prob(self, y: Tensor) -> Tensor:
        """log p̄_n (N,): `y` says nothing new, the members have seen it.

        Raises:
            InputError: there are other numbers of targets.
        """
        if y.numel() != self.n_rows:
            raise InputError(f"y: got {tuple(y.shape)}, there were {self.n_rows:,} targets; pass those")
        return self.log_density

    def merge(self, other: PointwisePredictive) -> PointwisePredictive:
        """The average over the members of both, for the same targets; weighted by their numbers.

        Raises:
            InputError: other rows.
        """
        if other.n_rows != self.n_rows:
            raise InputError(
                f"other: has {other.n_rows:,} rows, this {self.n_rows:,}; both need the same targets"
            )
        return _merged(self, other)

    def to(self, device: torch.device | str) -> PointwisePredictive:
        """The same on another device."""
        return PointwisePredictive(
            self.log_density.to(device), self.relative_variance.to(device), self.n_samples
        )

    @classmethod
    def concatenate(cls, parts: Sequence[PointwisePredictive]) -> PointwisePredictive:
        """Rows after rows.

        Raises:
            InputError: no part, or parts of differently many members.
        """
        found = sorted({part.n_samples for part in parts})
        if len(found) != 1:
            raise InputError(f"parts: of {found} members; pass one part or more, of one ensemble")
        return cls(
            torch.cat([part.log_density for part in parts]),
            torch.cat([part.relative_variance for part in parts]),
            parts[0].n_samples,
        )

    def __repr__(self) -> str:
        return f"PointwisePredictive(N={self.n_rows:,}, n_samples={self.n_samples})"


@final
class PointwiseAccumulator:
    """log p̄ and the relative variance, member by member: 2 N numbers, whatever S is.

    >>> accumulator = PointwiseAccumulator()
    >>> for density in (0.5, 0.1):
    ...     accumulator.update(torch.tensor([density]).log().neg())
    >>> round(accumulator.compute().log_density.exp().item(), 4)
    0.3
    """

    def __init__(self) -> None:
        self._found: PointwisePredictive | None = None

    def update(self, outputs: Tensor) -> None:
        """Adds one member's losses −log p_s (N,), in any floating dtype; kept in float32 or better.

        Raises:
            InputError: another shape, integers, NaN, or a loss of −∞ (a density without bound).
        """
        if outputs.ndim != 1 or not outputs.is_floating_point():
            raise InputError(
                f"outputs: Pointwise takes losses (N,), the model gave {outputs.dtype} "
                f'{tuple(outputs.shape)}; pass a forward= that gives a loss with reduction="none", flattened'
            )
        log_density = -(outputs if outputs.dtype == torch.float64 else outputs.float())
        if self._found is not None and len(log_density) != self._found.n_rows:
            raise InputError(
                f"outputs: {len(log_density):,} losses, other members gave {self._found.n_rows:,}; members "
                "must see the same targets"
            )
        if not bool((log_density < math.inf).all()):
            raise InputError(
                "outputs: a member's loss is NaN or −∞; look at the inputs, or draw with a smaller scale"
            )
        one = PointwisePredictive(log_density, torch.zeros_like(log_density), 1)
        self._found = one if self._found is None else _merged(self._found, one)

    def compute(self) -> PointwisePredictive:
        """The predictive of the members so far.

        Raises:
            StateError: there were none.
        """
        if self._found is None:
            raise StateError("compute: no member was added yet; call update first")
        return self._found

    def __repr__(self) -> str:
        return f"PointwiseAccumulator(n={0 if self._found is None else self._found.n_samples})"


def _merged(one: PointwisePredictive, other: PointwisePredictive) -> PointwisePredictive:
    """Both sets of members, by Chan's formula for p over the larger p̄, so that nothing underflows or cancels.

    p̄ = (a·p + b·q)/n,   variance = (a·var_p + b·var_q)/n + (a·b/n²)·(p − q)²
    """
    a, b = one.n_samples, other.n_samples
    n = a + b
    largest = torch.maximum(one.log_density, other.log_density)
    largest = largest.clamp(min=torch.finfo(largest.dtype).min)  # −∞ less −∞ would be NaN
    p, q = (one.log_density - largest).exp(), (other.log_density - largest).exp()
    mean = (a * p + b * q) / n
    within = (a * one.relative_variance * p.square() + b * other.relative_variance * q.square()) / n
    variance = within + (a * b / n**2) * (p - q).square()
    # Where all densities are 0 there is nothing that varies.
    relative = (variance / mean.square()).nan_to_num(0.0)
    return PointwisePredictive(largest + mean.log(), relative, n)
