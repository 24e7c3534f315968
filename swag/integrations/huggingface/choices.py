"""How the next token is chosen from the averaged distribution."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from swag.errors import InputError
from swag.noise import checked_seed


@runtime_checkable
class Choice(Protocol):
    """Chooses tokens, step after step."""

    def chooser(self, device: torch.device) -> Chooser:
        """A fresh one for one generation."""


class Chooser(Protocol):
    """One generation's choices."""

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Token ids (B,) from log p̄ (B, V)."""


@final
@dataclass(frozen=True)
class Greedy:
    """The likeliest token (the first of several)."""

    def chooser(self, device: torch.device) -> Chooser:
        return _largest


@final
@dataclass(frozen=True)
class Sampling:
    """A token drawn from p̄^(1/temperature), cut to the likeliest and renormalised.

    Args:
        temperature: above 0; 1 draws from p̄ itself.
        top_k: keep the k likeliest tokens; None for all.
        top_p: of what top_k leaves, renormalised, keep the likeliest until their sum reaches this; None for
            all. (Temperature, top_k, top_p: the order of transformers' own `generate`.)
        seed: of the draws.

    Raises:
        InputError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.temperature, bool) or not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature: got {self.temperature!r}; pass a number above 0, or use Greedy()")
        if self.top_k is not None and (
            isinstance(self.top_k, bool) or not isinstance(self.top_k, int | Integral) or self.top_k < 1
        ):
            raise InputError(f"top_k: got {self.top_k!r}; pass an integer of at least 1, or None")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p: got {self.top_p!r}; pass a number above 0 and at most 1, or None")
        checked_seed(self.seed)

    def chooser(self, device: torch.device) -> Chooser:
        # On the CPU: the same tokens whatever the device.
        generator = torch.Generator().manual_seed(self.seed)

        def choose(log_probs: Tensor) -> Tensor:
            probs = self.cut((log_probs / self.temperature).softmax(1)).cpu()
            return torch.multinomial(probs, 1, generator=generator)[:, 0].to(log_probs.device)

        return choose

    def cut(self, probs: Tensor) -> Tensor:
        """Probabilities (B, V) without those that top_k and top_p leave out, not renormalised."""
        if self.top_k is None and self.top_p is None:
            return probs
        ordered, order = probs.sort(dim=1, descending=True, stable=True)
        keep = torch.ones_like(ordered, dtype=torch.bool)
        if self.top_k is not None:
            keep[:, self.top_k :] = False
        if self.top_p is not None:
            left = ordered * keep
            # A token stays where those before it do not reach top_p yet: one stays always.
            keep &= left.cumsum(1) - left < self.top_p * left.sum(1, keepdim=True)
        return torch.zeros_like(probs).scatter_(1, order, ordered * keep)


def _largest(log_probs: Tensor) -> Tensor:
    return log_probs.argmax(1)
