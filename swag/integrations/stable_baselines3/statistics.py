"""Action statistics, and their sums over the members of an ensemble, taken one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from gymnasium import spaces
from torch import Tensor


@final
@dataclass(frozen=True)
class DiscreteActions:
    r"""S policies π_s on N observations, A actions; in nats.

    Args:
        n_samples: S.
        probs: π̄ = (1/S) Σ π_s (N, A); of DQN, the share of samples whose greedy action it is.
        variance: (1/S) Σ (π_s − π̄)² (N, A), the epistemic part.
        entropy: H(π̄) (N,).
        expected_entropy: (1/S) Σ H(π_s) (N,), the randomness that the policies mean to have.
        mutual_information: their difference (N,), ≥ 0: what they disagree on.
    """

    n_samples: int
    probs: Tensor
    variance: Tensor
    entropy: Tensor
    expected_entropy: Tensor
    mutual_information: Tensor

    @property
    def action(self) -> Tensor:
        """The most probable action on average (N,)."""
        return self.probs.argmax(-1)

    @property
    def disagreement(self) -> Tensor:
        """One number an observation (N,), 0 where all agree: the mutual information, in nats."""
        return self.mutual_information


@final
@dataclass(frozen=True)
class ContinuousActions:
    r"""The deterministic actions a_s of S policies on N observations, in the environment's units.

    Args:
        n_samples: S.
        mean: ā = (1/S) Σ a_s (N, …).
        variance: (1/S) Σ (a_s − ā)² (N, …), the epistemic part, in squared units of the action.
        half_range: half of high − low of the action space (…).
    """

    n_samples: int
    mean: Tensor
    variance: Tensor
    half_range: Tensor

    @property
    def action(self) -> Tensor:
        """ā."""
        return self.mean

    @property
    def disagreement(self) -> Tensor:
        """One number an observation (N,), 0 where all agree: the variance of actions scaled to [−1, 1].

        The mean over the action's components.
        """
        return (self.variance / self.half_range.square()).flatten(1).mean(1)


ActionStatistics = DiscreteActions | ContinuousActions


@final
@dataclass(frozen=True)
class Actions:
    """A likelihood for `Ensemble` whose outputs are actions, or their probabilities."""

    space: spaces.Discrete[Any] | spaces.Box
    device: torch.device

    def accumulator(self, *, keep_members: bool | None = None) -> _DiscreteSums | _ContinuousSums:
        if isinstance(self.space, spaces.Discrete):
            return _DiscreteSums()
        high, low = (torch.as_tensor(b, device=self.device) for b in (self.space.high, self.space.low))
        half = (high - low) / 2
        return _ContinuousSums(torch.where(half.isfinite(), half, 1.0))


class _Welford:
    """Mean and variance of tensors of one shape, in float64 where they are float64."""

    def __init__(self) -> None:
        self.n = 0
        self._mean: Tensor | None = None
        self._sq_dev: Tensor | None = None

    def update(self, x: Tensor) -> None:
        self.n += 1
        if self._mean is None or self._sq_dev is None:
            self._mean, self._sq_dev = x.clone(), torch.zeros_like(x)
            return
        off = x - self._mean
        self._mean = self._mean + off / self.n
        self._sq_dev = self._sq_dev + off * (x - self._mean)

    @property
    def mean(self) -> Tensor:
        assert self._mean is not None
        return self._mean

    @property
    def variance(self) -> Tensor:
        assert self._sq_dev is not None
        return self._sq_dev / self.n


class _DiscreteSums:
    def __init__(self) -> None:
        self._probs, self._entropies = _Welford(), _Welford()

    def update(self, outputs: Tensor) -> None:
        self._probs.update(outputs)
        self._entropies.update(_entropy(outputs))

    def compute(self) -> DiscreteActions:
        probs, expected = self._probs.mean, self._entropies.mean
        entropy = _entropy(probs)
        # Rounding may leave it a hair below 0 where all agree.
        information = (entropy - expected).clamp(min=0)
        return DiscreteActions(self._probs.n, probs, self._probs.variance, entropy, expected, information)


class _ContinuousSums:
    def __init__(self, half_range: Tensor) -> None:
        self._half_range, self._actions = half_range, _Welford()

    def update(self, outputs: Tensor) -> None:
        self._actions.update(outputs)

    def compute(self) -> ContinuousActions:
        found = self._actions
        return ContinuousActions(found.n, found.mean, found.variance, self._half_range)


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(-1)
