"""The averaged predictive of classifiers, and its streaming accumulation over members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, final

import torch
from torch import Tensor

from swag.arguments import tensor_of
from swag.errors import InputError, StateError


@final
@dataclass(frozen=True, repr=False, eq=False)
class CategoricalPredictive:
    r"""p̄(c|x) = (1/S) Σ_s softmax(logits_s(x))_c for N inputs and C classes.

    Attributes:
        log_probs: (N, C) log p̄, exact where p̄ itself underflows.
        expected_entropy: (N,) (1/S) Σ_s H[p_s], nats: the aleatoric part of the entropy.
        prob_sq_dev: (N, C) Σ_s (p_s − p̄)².
        n_samples: S.
        energy: (N,) mean over members of −log Σ_c exp(logit_c), higher = more out-of-distribution; None
            where the predictive was made from probabilities.
        max_logit: (N,) mean over members of the largest logit; None likewise.
        members: (S, N, C) the members' probabilities, where they were asked for.
    """

    log_probs: Tensor
    expected_entropy: Tensor
    prob_sq_dev: Tensor
    n_samples: int
    energy: Tensor | None = None
    max_logit: Tensor | None = None
    members: Tensor | None = None

    @classmethod
    def from_logits(cls, logits: Tensor, *, keep_members: bool = False) -> CategoricalPredictive:
        """The predictive of one model, logits (N, C), or of S members, logits (S, N, C)."""
        logits = tensor_of(logits)
        accumulator = CategoricalAccumulator(keep_members=keep_members)
        for member in logits if logits.ndim == 3 else logits[None]:
            accumulator.update(member)
        return accumulator.compute()

    @classmethod
    def from_probs(cls, probs: Tensor, *, keep_members: bool = False) -> CategoricalPredictive:
        """The predictive of probabilities (N, C), or of S members' probabilities (S, N, C).

        Raises:
            InputError: negative entries or rows that do not sum to 1 (logits, perhaps).
        """
        probs = tensor_of(probs)
        if probs.ndim not in (2, 3):
            raise InputError(f"probs: got shape {tuple(probs.shape)}; pass (N, C), or (S, N, C) for members")
        probs = _float(probs)
        sums = probs.sum(-1)
        if not bool((probs >= 0).all()) or not bool(((sums - 1).abs() <= 1e-2).all()):
            raise InputError(
                f"probs: rows must be ≥ 0 and sum to 1, got sums from {float(sums.min()):.4g} to "
                f"{float(sums.max()):.4g}; for logits use from_logits"
            )
        accumulator = CategoricalAccumulator(keep_members=keep_members)
        for member in probs if probs.ndim == 3 else probs[None]:
            accumulator.update_log_probs(member.log())
        return accumulator.compute()

    @property
    def n_rows(self) -> int:
        """N."""
        return self.log_probs.shape[0]

    @property
    def probs(self) -> Tensor:
        """p̄ (N, C)."""
        return self.log_probs.exp()

    @property
    def entropy(self) -> Tensor:
        """H[p̄] (N,), nats: the whole uncertainty."""
        return _entropy(self.log_probs)

    @property
    def mutual_information(self) -> Tensor:
        """H[p̄] − (1/S) Σ_s H[p_s] ≥ 0 (N,), nats: the epistemic part; rounding below 0 is cut."""
        return (self.entropy - self.expected_entropy).clamp(min=0)

    @property
    def variance(self) -> Tensor:
        """(1/S) Σ_s (p_s − p̄)² (N, C): the members' spread (population variance)."""
        return self.prob_sq_dev / self.n_samples

    @property
    def monte_carlo_error(self) -> float:
        """The standard error of p̄ from S members, √(variance/(S−1)), largest over classes, mean over rows.

        NaN for one member, whose spread is unknown.
        """
        if self.n_samples < 2:
            return float("nan")
        return float((self.variance / (self.n_samples - 1)).sqrt().amax(1).mean())

    @property
    def member_probs(self) -> Tensor:
        """The members' probabilities (S, N, C).

        Raises:
            StateError: they were not kept.
        """
        if self.members is None:
            raise StateError(
                "member_probs: the members were not kept; build the ensemble with keep_members=True"
            )
        return self.members

    def to(self, device: torch.device | str) -> CategoricalPredictive:
        """The same on another device."""
        return CategoricalPredictive(**{f.name: _move(getattr(self, f.name), device) for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[CategoricalPredictive]) -> CategoricalPredictive:
        """Rows after rows.

        Raises:
            InputError: no part, differing classes or numbers of members.
        """
        if len({(part.n_samples, part.log_probs.shape[1]) for part in parts}) != 1:
            raise InputError("parts: need at least one, all with the same classes and number of members")

        def joined(name: str, dim: int = 0) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if any(value is None for value in values) else torch.cat(values, dim)

        return cls(
            log_probs=joined("log_probs"),
            expected_entropy=joined("expected_entropy"),
            prob_sq_dev=joined("prob_sq_dev"),
            n_samples=parts[0].n_samples,
            energy=joined("energy"),
            max_logit=joined("max_logit"),
            members=joined("members", 1),
        )

    def merge(self, other: CategoricalPredictive) -> CategoricalPredictive:
        """The predictive of both sets of members for the same inputs, exact up to rounding.

        Raises:
            InputError: other inputs or classes.
        """
        if self.log_probs.shape != other.log_probs.shape:
            raise InputError(
                f"other: predicts {tuple(other.log_probs.shape)}, this one {tuple(self.log_probs.shape)}; "
                "merge predictions for the same rows"
            )
        n, a, b = self.n_samples + other.n_samples, self.n_samples, other.n_samples
        shift = other.probs - self.probs

        def average(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            return None if mine is None or theirs is None else (a * mine + b * theirs) / n

        expected_entropy = average(self.expected_entropy, other.expected_entropy)
        assert expected_entropy is not None
        kept = self.members is not None and other.members is not None
        return CategoricalPredictive(
            log_probs=torch.logaddexp(self.log_probs + math.log(a / n), other.log_probs + math.log(b / n)),
            expected_entropy=expected_entropy,
            prob_sq_dev=self.prob_sq_dev + other.prob_sq_dev + shift.square() * (a * b / n),
            n_samples=n,
            energy=average(self.energy, other.energy),
            max_logit=average(self.max_logit, other.max_logit),
            members=torch.cat([self.member_probs, other.member_probs]) if kept else None,
        )

    def __repr__(self) -> str:
        n, c = self.log_probs.shape
        return f"CategoricalPredictive(N={n:,}, C={c}, n_samples={self.n_samples})"


@final
class CategoricalAccumulator:
    """Statistics over members in O(N·C) memory: log-sum-exp for p̄, Welford for its spread.

    Args:
        keep_members: also keep every member's probabilities (S·N·C floats).
    """

    def __init__(self, *, keep_members: bool = False) -> None:
        self._members: list[Tensor] | None = [] if keep_members else None
        self._n = 0
        self._has_logits = True

    def update(self, outputs: Tensor) -> None:
        """Adds one member's logits (N, C), in any floating dtype; statistics are float32 or better."""
        _check_outputs(outputs, "logits")
        logits = _float(outputs)
        # Shifted before the log-sum-exp: log p keeps its digits where all logits are large.
        largest = logits.amax(1)
        shifted = logits - largest[:, None]
        normaliser = shifted.logsumexp(1)
        self._add(shifted - normaliser[:, None], -(largest + normaliser), largest)

    def update_log_probs(self, log_probs: Tensor) -> None:
        """Adds one member's log-probabilities (N, C); energy and max-logit are then unknown."""
        _check_outputs(log_probs, "log_probs")
        self._add(_float(log_probs), None, None)

    def _add(self, log_probs: Tensor, energy: Tensor | None, max_logit: Tensor | None) -> None:
        probs, entropy = log_probs.exp(), _entropy(log_probs)
        if self._n == 0:
            self._log_sum, self._mean = log_probs.clone(), probs.clone()
            self._sq_dev, self._entropy = torch.zeros_like(probs), entropy
            self._energy, self._max_logit = energy, max_logit
        else:
            if log_probs.shape != self._log_sum.shape:
                raise InputError(
                    f"outputs: this member gave {tuple(log_probs.shape)}, the ones before "
                    f"{tuple(self._log_sum.shape)}; all members must see the same rows"
                )
            torch.logaddexp(self._log_sum, log_probs, out=self._log_sum)
            delta = probs - self._mean
            self._mean.add_(delta, alpha=1 / (self._n + 1))
            self._sq_dev.addcmul_(delta, probs - self._mean)
            self._entropy = self._entropy + entropy
            self._energy = None if energy is None or self._energy is None else self._energy + energy
            self._max_logit = (
                None if max_logit is None or self._max_logit is None else self._max_logit + max_logit
            )
        self._n += 1
        if self._members is not None:
            self._members.append(probs)

    def compute(self) -> CategoricalPredictive:
        """The predictive of the members so far.

        Raises:
            StateError: no member yet.
            InputError: a member's outputs held NaN.
        """
        if self._n == 0:
            raise StateError("compute: no member's outputs were added yet; call update first")
        n = self._n
        # Log-probabilities are ≤ 0, so their sum is NaN exactly where one of them is.
        if bool(self._log_sum.sum().isnan()):
            raise InputError(
                "outputs: a member's outputs are NaN, or infinite all over a row; look at the inputs, or "
                "draw with a smaller scale"
            )
        return CategoricalPredictive(
            log_probs=(self._log_sum - math.log(n)).clamp_(max=0),
            expected_entropy=self._entropy / n,
            prob_sq_dev=self._sq_dev.clone(),
            n_samples=n,
            energy=None if self._energy is None else self._energy / n,
            max_logit=None if self._max_logit is None else self._max_logit / n,
            members=None if self._members is None else torch.stack(self._members),
        )


def _entropy(log_probs: Tensor) -> Tensor:
    probs = log_probs.exp()
    # 0·log 0 = 0: xlogy would need log_probs' argument again, so mask the product instead.
    return -torch.where(probs > 0, probs * log_probs, torch.zeros_like(probs)).sum(-1)


def _float(x: Tensor) -> Tensor:
    x = x.detach()
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _move(value: Any, device: torch.device | str) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _check_outputs(outputs: Tensor, name: str) -> None:
    if outputs.ndim != 2 or not outputs.is_floating_point():
        raise InputError(
            f"outputs: classification takes {name} (N, C), the model gave shape {tuple(outputs.shape)} "
            f"{outputs.dtype}; reshape them with forward=, or pass another likelihood="
        )
