"""The members' weights: all of them in memory, or drawn again whenever they are needed."""

from __future__ import annotations

import logging
from typing import Protocol, final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.posterior import Posterior
from swag.posterior.protocol import centres, sample_range

_log = logging.getLogger(__name__)


class Weights(Protocol):
    """S weight vectors θ (D,)."""

    @property
    def at_once(self) -> int:
        """How many are in memory together; going through them in blocks of so many draws each once."""

    def __len__(self) -> int:
        """S."""

    def __getitem__(self, index: int) -> Tensor:
        """Member `index` (D,); good until others are asked for."""

    def block(self, start: int, stop: int) -> Tensor:
        """Members start … stop − 1 (stop − start, D)."""

    def part(self, start: int, stop: int) -> Weights:
        """Members start … stop − 1 alone."""


@final
class Kept:
    """Weights in memory.

    Args:
        thetas: (S, D).
    """

    def __init__(self, thetas: Tensor) -> None:
        self._thetas = thetas

    @property
    def at_once(self) -> int:
        """S."""
        return max(len(self._thetas), 1)

    def __len__(self) -> int:
        return len(self._thetas)

    def __getitem__(self, index: int) -> Tensor:
        return self._thetas[index]

    def block(self, start: int, stop: int) -> Tensor:
        """Members start … stop − 1 (stop − start, D), a view."""
        return self._thetas[start:stop]

    def part(self, start: int, stop: int) -> Kept:
        """Members start … stop − 1, views."""
        return Kept(self._thetas[start:stop])


@final
class Redrawn:
    """Weights that a posterior gives again whenever they are asked for, a block of them at a time.

    Args:
        posterior: what they are drawn from; it must not change meanwhile.
        seed: of the draws.
        members: which of the sequence's samples.
        at_once: the block.
        device: where they are wanted.
    """

    def __init__(
        self, posterior: Posterior, seed: int, members: range, at_once: int, device: torch.device
    ) -> None:
        self._posterior, self._seed, self._members = posterior, seed, members
        self._at_once, self._device = at_once, device
        self._there = range(0)
        self._held: Tensor | None = None

    @property
    def at_once(self) -> int:
        """The block."""
        return self._at_once

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Tensor:
        if index not in self._there:
            start = index - index % self._at_once
            self._there = range(start, min(start + self._at_once, len(self)))
            self._held = self.block(self._there.start, self._there.stop)
        assert self._held is not None
        return self._held[index - self._there.start]

    def block(self, start: int, stop: int) -> Tensor:
        """Members start … stop − 1 (stop − start, D), drawn now."""
        chosen = self._members[start:stop]
        generator = torch.Generator().manual_seed(self._seed)
        return sample_range(self._posterior, chosen.start, chosen.stop, generator=generator).to(self._device)

    def part(self, start: int, stop: int) -> Redrawn:
        """Members start … stop − 1 of the same sequence."""
        return Redrawn(self._posterior, self._seed, self._members[start:stop], self._at_once, self._device)


def draw(
    posterior: Posterior, n_samples: int, seed: int, *, device: torch.device, budget: int | None = None
) -> tuple[Weights, list[Tensor], list[int]]:
    """The weights of an ensemble, the points they were drawn around, and each member's point.

    A posterior of a few points of equal mass is taken once a point where n_samples is a multiple of their
    number: the average is the same.

    Args:
        posterior: what to draw from.
        n_samples: S.
        seed: of the draws.
        device: where they are wanted.
        budget: bytes; None keeps all of them. Where S·D numbers take more, as many as fit are there at once.

    Raises:
        InputError: a budget below one weight vector, or a posterior that cannot draw a part of a sequence.
    """
    at_once = n_samples if budget is None else _at_once(posterior.mean.nbytes, n_samples, budget)
    atoms: Tensor | None = getattr(posterior, "atoms", None)
    if atoms is not None and n_samples % len(atoms) == 0:
        if len(atoms) < n_samples:
            _log.info("%r: each of its points is predicted once, not %d times", posterior, n_samples)
        # A copy, where there is room: what the caller does to the posterior later changes no prediction.
        own = (atoms.clone() if at_once >= len(atoms) else atoms).to(device)
        return Kept(own), list(own), list(range(len(own)))
    points, point_of = centres(posterior, n_samples, generator=torch.Generator().manual_seed(seed))
    if at_once < n_samples:
        if not hasattr(posterior, "sample_range"):
            raise InputError(
                f"memory_budget: {n_samples} members of {posterior.mean.nbytes:,} bytes do not fit, and a "
                f"{type(posterior).__name__} has no sample_range(start, stop) to draw them in parts; pass a "
                "larger budget"
            )
        return Redrawn(posterior, seed, range(n_samples), at_once, device), points, point_of
    thetas = posterior.sample(n_samples, generator=torch.Generator().manual_seed(seed))
    return Kept(thetas.to(device)), points, point_of


def _at_once(size: int, n_samples: int, budget: int) -> int:
    """How many members of so many bytes a budget holds."""
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 2 * size:
        raise InputError(
            f"memory_budget: got {budget!r}; pass bytes, at least {2 * size:,} for two weight vectors, or "
            "None to keep all members"
        )
    # Half of it: the module refers to a block until the next one is there.
    return n_samples if budget >= n_samples * size else max(1, budget // (2 * size))
