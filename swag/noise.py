"""Randomness: one seed taken from the caller's generator, then streams of our own.

Every sampler takes exactly one 63-bit number from its `generator` (or from torch's global one), so what
it consumes does not depend on how much is drawn, and the first m of n samples do not depend on n.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = (1 << 63) - 1
# Fractional part of the golden ratio: the additive sequence with the least discrepancy in one dimension.
_GOLDEN = 0.6180339887498949


def take_seed(generator: torch.Generator | None = None) -> int:
    """One seed from `generator`, or from torch's global generator."""
    device = generator.device if generator is not None else torch.device("cpu")
    return int(torch.randint(_LARGEST, (), generator=generator, device=device, dtype=torch.int64))


def generator_for(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on a device."""
    return torch.Generator(device).manual_seed(seed)


def split_seeds(seed: int, n: int) -> list[int]:
    """n seeds from one; the first m do not depend on n."""
    generator = generator_for(seed)
    return [take_seed(generator) for _ in range(n)]


def balanced_uniform(n: int, n_items: int, seed: int) -> Tensor:
    """n indices below n_items (n,): one random permutation after another, so every prefix is balanced.

    >>> balanced_uniform(6, 3, seed=0).bincount().tolist()
    [2, 2, 2]
    """
    generator = generator_for(seed)
    blocks = [torch.randperm(n_items, generator=generator) for _ in range(-(-n // n_items))]
    return torch.cat(blocks)[:n] if blocks else torch.empty(0, dtype=torch.int64)


def balanced_weighted(n: int, weights: Tensor, seed: int) -> Tensor:
    """n indices (n,) distributed as `weights` (M,), from a golden-ratio sequence with a random start.

    Each index alone has exactly the distribution `weights`; every stretch of the sequence holds each
    item within O(log n) of its expected number.
    """
    start = torch.rand((), generator=generator_for(seed), dtype=torch.float64)
    points = (start + torch.arange(n, dtype=torch.float64) * _GOLDEN) % 1.0
    edges = weights.double().cumsum(0)
    # The last item of positive weight takes the rounding of the sum.
    last = int(weights.nonzero()[-1])
    return torch.searchsorted(edges, points, right=True).clamp_(max=last)
