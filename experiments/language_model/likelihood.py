"""What `swag.Ensemble` averages here: each member's probability of the word that came, one number a word.

A categorical predictive keeps several tensors (words, vocabulary); a test text would need gigabytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class WordsPredictive:
    """log p̄ = log (1/S) Σ_s p_s of N words that came.

    Attributes:
        log_likelihood: (N,), nats.
        n_samples: S.
    """

    log_likelihood: Tensor
    n_samples: int

    @property
    def n_rows(self) -> int:
        """N."""
        return len(self.log_likelihood)

    @property
    def monte_carlo_error(self) -> float:
        """Not kept."""
        return math.nan

    def log_prob(self, y: Tensor) -> Tensor:
        """log p̄ (N,) of the words that came, which the network has seen already: `y` says nothing new."""
        del y
        return self.log_likelihood

    def to(self, device: torch.device | str) -> WordsPredictive:
        """The same on another device."""
        return WordsPredictive(self.log_likelihood.to(device), self.n_samples)

    @classmethod
    def concatenate(cls, parts: Sequence[WordsPredictive]) -> WordsPredictive:
        """Words after words."""
        return cls(torch.cat([part.log_likelihood for part in parts]), parts[0].n_samples)


@final
class WordsAverage:
    """log Σ_s p_s, member by member."""

    def __init__(self) -> None:
        self._log_sum: Tensor | None = None
        self._n = 0

    def update(self, outputs: Tensor) -> None:
        """Adds one member's losses −log p_s (N,)."""
        log_probs = -outputs.double()
        self._log_sum = log_probs if self._log_sum is None else self._log_sum.logaddexp(log_probs)
        self._n += 1

    def compute(self) -> WordsPredictive:
        """The average so far."""
        assert self._log_sum is not None
        return WordsPredictive(self._log_sum - math.log(self._n), self._n)


@final
@dataclass(frozen=True)
class Words:
    """The likelihood for `swag.Ensemble(..., likelihood=Words(), forward=word_losses)`."""

    def accumulator(self, *, keep_members: bool | None = None) -> WordsAverage:
        return WordsAverage()
