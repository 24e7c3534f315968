"""What predictives and their accumulators have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Predictive(Protocol):
    """The average of S members' predictions for N inputs."""

    @property
    def n_samples(self) -> int:
        """S, the members averaged."""

    @property
    def n_rows(self) -> int:
        """N."""

    @property
    def monte_carlo_error(self) -> float:
        """How far the average of S members is from that of infinitely many, as one number; NaN for S = 1."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Rows after rows; all parts must average equally many members."""


class Accumulator(Protocol):
    """Takes members' outputs one by one and keeps statistics only."""

    def update(self, outputs: Tensor) -> None:
        """Adds one member's outputs for the same N inputs."""

    def compute(self) -> Predictive:
        """The predictive of all members so far."""
