"""Keeps what running chains give: draws after burn-in and thinning, counts, an eye on chains that hang.

The chains' own state is a few numbers each, and lives in numpy: its operations cost a fraction of torch's.
The log-likelihood alone runs in torch, on whatever device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, NoReturn, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swag.arguments import whole
from swag.progress import track
from swag.subspace.chains import Chains
from swag.subspace.space import Subspace
from swag.subspace.target import DensityError, Target, check_values, shown

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


@final
class Recorder:
    """Chains that advance each at its own pace, a tick evaluating one proposal of each.

    Args:
        target: the density.
        z: the starts (n, k).
        n_samples: draws kept of each chain.
        burn_in: transitions left out first.
        thin: transitions a draw.
        sampler: its name.
    """

    # A chain that ends this many transitions in a row where it began is not moving.
    PATIENCE: ClassVar[int] = 50

    def __init__(
        self, target: Target, z: Tensor, n_samples: int, burn_in: int, thin: int, sampler: str
    ) -> None:
        self._n_samples = whole("n_samples", n_samples, 1)
        self._burn_in = whole("burn_in", burn_in, 0)
        self._thin = whole("thin", thin, 1)
        self._target, self._sampler = target, sampler
        n, k = z.shape
        self._total = self._burn_in + self._n_samples * self._thin
        # Draw by draw, so that what a tick writes lies together.
        self._z = np.empty((self._n_samples, n, k), dtype=_as_numpy(z).dtype)
        self._heights = np.empty((self._n_samples, n))
        # Transitions done by each chain, proposals evaluated for them, and transitions without a move.
        self.steps = np.zeros(n, dtype=np.int64)
        self._proposals = np.zeros(n, dtype=np.int64)
        self._still = np.zeros(n, dtype=np.int64)
        self.running: Mask = np.ones(n, dtype=bool)
        self._slowest = 0
        self.n_ticks = 0

    def start(self, z: Tensor) -> tuple[Array, Array]:
        """The starts and their log-likelihoods, in numpy.

        Raises:
            DensityError: the log-likelihood is −∞, NaN or +∞ there.
        """
        first = _as_numpy(z).copy()
        heights = self.evaluate(first)
        impossible = np.flatnonzero(heights == -math.inf)
        if len(impossible):
            row = int(impossible[0])
            refuse_start(z[row], row)
        return first, heights

    def evaluate(self, z: Array) -> Array:
        """log p(D|z)/T (n,) at proposals (n, k); chains that have all their draws are no longer looked at.

        Raises:
            DensityError: NaN or +∞ at a running chain.
        """
        point = torch.from_numpy(z).to(self._target.device)
        heights = self._target.log_likelihood(point).detach().cpu().numpy()
        # A sum is NaN or +∞ where an entry is.
        if not heights.sum() < math.inf:
            heights = np.where(self.running, heights, -math.inf)
            check_values(torch.from_numpy(heights), point, torch.from_numpy(self.steps), self.chain)
        return heights

    def ticks(self) -> Iterator[int]:
        """Until every chain has its draws; `n_ticks` counts the ticks done."""
        for step in track(range(self._total), self._sampler):
            while self._slowest <= step:
                yield self.n_ticks
                self.n_ticks += 1

    def take(self, z: Array, heights: Array, done: Mask, moved_from: Array) -> None:
        """After a tick: chains where `done` (n,) have ended a transition at z (n, k)."""
        self._proposals += self.running
        ended = np.flatnonzero(done & self.running)
        if not len(ended):
            return
        after = self.steps[ended] - self._burn_in
        draws, rest = np.divmod(after, self._thin)
        keep = (after >= 0) & (rest == self._thin - 1)
        rows, draws = ended[keep], draws[keep]
        self._z[draws, rows] = z[rows]
        self._heights[draws, rows] = heights[rows]
        stays = (z[ended] == moved_from[ended]).all(1)
        self._still[ended] = np.where(stays, self._still[ended] + 1, 0)
        self.steps[ended] += 1
        self.running[ended] = self.steps[ended] < self._total
        self._slowest = int(self.steps.min())
        if stays.any() and (self._still[ended] >= self.PATIENCE).any():
            row = int(ended[np.argmax(self._still[ended])])
            self.refuse_stuck(z, row)

    def chain(self, row: int) -> Tensor:
        """The draws of one chain so far (m, k)."""
        n_draws = (int(self.steps[row]) - self._burn_in) // self._thin
        return torch.from_numpy(self._z[: max(0, n_draws), row].copy())

    def chains(self, subspace: Subspace | None, approximation: str) -> Chains:
        """All of it, once the ticks have ended."""
        device = self._target.device
        return Chains(
            z=torch.from_numpy(self._z.swapaxes(0, 1).copy()).to(device),
            log_likelihood=torch.from_numpy(self._heights.T.copy()).to(device),
            acceptance=torch.from_numpy(self._total / self._proposals),
            n_evaluations=(1 + self.n_ticks) * len(self.steps),
            sampler=self._sampler,
            subspace=subspace,
            approximation=approximation,
        )

    def refuse_stuck(self, z: Array, row: int) -> NoReturn:
        """Raises DensityError for a chain that does not move."""
        where = f" of chain {row}" if len(z) > 1 else ""
        at = torch.from_numpy(z[row].copy())
        refuse_stuck(f"{self._sampler} sampler{where}", at, int(self.steps[row]), self.chain(row))


def refuse_stuck(who: str, z: Tensor, step: int, chain: Tensor) -> NoReturn:
    """Raises DensityError for a chain that does not move."""
    raise DensityError(
        f"log_likelihood: the {who} stays at z = {shown(z)} at step {step}: no other point is ever accepted. "
        "Either the density there is a needle (raise temperature, lower prior_std, or start elsewhere with "
        "z0), or log_likelihood is −inf around it, or differs from call to call (dropout, minibatches)",
        z=z.clone(),
        step=step,
        chain=chain,
    )


def refuse_start(z: Tensor, row: int | None) -> NoReturn:
    """Raises DensityError for a start that the data excludes."""
    where = "" if row is None else f" of chain {row}"
    raise DensityError(
        f"z0: the log-likelihood is −inf at the start{where}, z = {shown(z)}; start where the data is "
        "possible, such as zeros (the subspace's offset)",
        z=z.clone(),
        step=0,
    )


def _as_numpy(z: Tensor) -> Array:
    return z.detach().cpu().numpy()
