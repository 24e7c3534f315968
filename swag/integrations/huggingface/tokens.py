"""What S members say about every token of a text, accumulated member by member."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from swag.errors import InputError

# Numbers in a temporary: the vocabulary is wide, so tokens are taken in pieces.
_AT_ONCE = 1 << 23


@final
@dataclass(frozen=True, eq=False, repr=False)
class TokenPredictive:
    r"""p̄(x_t | x_<t) = (1/S) Σ_s p(x_t | x_<t, θ_s) for the M tokens of N texts that have one before them.

    The whole distributions are not kept: M numbers each, whatever vocabulary and S are.

    Attributes:
        log_prob: (M,) log p̄ of the token that is there, nats.
        entropy: (M,) H[p̄], nats: the whole uncertainty about this token before it was seen.
        expected_entropy: (M,) (1/S) Σ_s H[p_s], nats: the aleatoric part.
        tokens: (M,) the tokens' ids.
        row: (M,) whose text, in the data set's order.
        position: (M,) the column in its batch, padding counted.
        n_samples: S.
    """

    log_prob: Tensor
    entropy: Tensor
    expected_entropy: Tensor
    tokens: Tensor
    row: Tensor
    position: Tensor
    n_samples: int

    @property
    def mutual_information(self) -> Tensor:
        """H[p̄] − (1/S) Σ_s H[p_s] ≥ 0 (M,), nats: the epistemic part; rounding below 0 is cut."""
        return (self.entropy - self.expected_entropy).clamp(min=0)

    @property
    def nll(self) -> float:
        """Mean −log p̄ over all M tokens, nats."""
        return -float(self.log_prob.double().mean())

    @property
    def perplexity(self) -> float:
        """e^nll."""
        return math.exp(self.nll)

    @classmethod
    def concatenate(cls, parts: Sequence[TokenPredictive]) -> TokenPredictive:
        """Texts after texts; rows go on counting by the caller."""
        names = ("log_prob", "entropy", "expected_entropy", "tokens", "row", "position")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return cls(**joined, n_samples=parts[0].n_samples)

    def __repr__(self) -> str:
        return f"TokenPredictive(M={len(self.log_prob):,}, n_samples={self.n_samples})"


@final
class TokenAccumulator:
    """Running sums over members for M tokens: Σ_s p_s (M, V), and three vectors.

    Args:
        targets: (M,) the ids of the tokens that are there.
    """

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets
        self._n = 0

    def update(self, logits: Tensor) -> None:
        """Adds one member's logits (M, V), in any floating dtype; the sums are float32 or better."""
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        if self._n == 0:
            self._sum = logits.new_zeros(logits.shape, dtype=dtype)
            self._log_sum = logits.new_full(logits.shape[:1], -math.inf, dtype=dtype)
            self._entropy = torch.zeros_like(self._log_sum)
        if logits.shape != self._sum.shape:
            raise InputError(
                f"model: gave logits {tuple(logits.shape)}, before {tuple(self._sum.shape)}; members must "
                "see the same tokens"
            )
        step = max(1, _AT_ONCE // logits.shape[1])
        for start in range(0, len(logits), step):
            piece = slice(start, start + step)
            log_probs = logits[piece].to(dtype).log_softmax(1)
            chosen = log_probs.gather(1, self._targets[piece, None])[:, 0]
            # By log-sum-exp: a probability may underflow where its logarithm is fine.
            self._log_sum[piece] = torch.logaddexp(self._log_sum[piece], chosen)
            probs = log_probs.exp()
            self._sum[piece] += probs
            self._entropy[piece] += _entropy(probs, log_probs)
        self._n += 1

    def compute(self, row: Tensor, position: Tensor) -> TokenPredictive:
        """The predictive of the members so far.

        Raises:
            InputError: a member's logits held NaN.
        """
        if bool(self._log_sum.isnan().any()):
            raise InputError(
                "model: a member's logits are NaN; look at the inputs, or draw with a smaller scale"
            )
        entropy = torch.empty_like(self._entropy)
        step = max(1, _AT_ONCE // self._sum.shape[1])
        for start in range(0, len(entropy), step):
            mean = self._sum[start : start + step] / self._n
            entropy[start : start + step] = _entropy(mean, mean.log())
        return TokenPredictive(
            log_prob=(self._log_sum - math.log(self._n)).clamp_(max=0),
            entropy=entropy,
            expected_entropy=self._entropy / self._n,
            tokens=self._targets,
            row=row,
            position=position,
            n_samples=self._n,
        )


def _entropy(probs: Tensor, log_probs: Tensor) -> Tensor:
    """−Σ p log p with 0·log 0 = 0."""
    return -torch.where(probs > 0, probs * log_probs, torch.zeros_like(probs)).sum(1)
