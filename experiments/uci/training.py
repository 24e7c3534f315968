"""SGD with momentum at a constant rate on B networks at once, with the moments of every one's trajectory.

Elementwise, a stack of B networks of D weights is one vector of B·D: one `swag.Collector` follows them all,
and network b's moments are the b-th row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import swag
from experiments.uci.network import Stack
from swag.noise import key_for
from swag.parameters import Layout
from swag.progress import track

MOMENTUM = 0.9


@final
@dataclass(frozen=True)
class Plan:
    """How long, and when snapshots are taken.

    Attributes:
        epochs: passes over the training rows.
        batch: rows of a step; a pass is cut into equal parts of at most as many.
        collect_from: the epoch after which the first snapshot is taken.
        collect_every: epochs between snapshots.
        rank: deviation rows kept.
        curve_epochs: passes for a curve between two solutions.
        clip: the largest norm a gradient may have before weight decay is added; longer ones are shortened.
            The curvature of the loss grows as 1/σ², so where a network fits closely one odd batch would throw
            it out.
        late_rate: the rate from `collect_from` on, as a share of the one before; it falls to it linearly over
            the 40 % of the epochs before.
    """

    epochs: int
    batch: int
    collect_from: int
    collect_every: int
    rank: int
    curve_epochs: int
    clip: float = float("inf")
    late_rate: float = 1.0

    def rate(self, epoch: int) -> float:
        """What the rate is multiplied by in an epoch, counted from 0."""
        start = 0.6 * self.collect_from
        done = min(max((epoch - start) / max(self.collect_from - start, 1), 0.0), 1.0)
        return 1 + done * (self.late_rate - 1)

    def collects(self, epoch: int) -> bool:
        """Whether a snapshot is taken after `epoch`, counted from 0."""
        past = epoch + 1 - self.collect_from
        return past >= 0 and past % self.collect_every == 0


@final
@dataclass(frozen=True)
class Rows:
    """Training rows of U data sets of equal size: x (U, N, features), y (U, N)."""

    x: Tensor
    y: Tensor


@final
@dataclass(frozen=True)
class Trajectories:
    """What B training runs left.

    Attributes:
        last: (B, D) the last iterates.
        mean: (B, D) SWA.
        variance: (B, D) Σ_diag.
        deviations: (K, B, D).
    """

    last: Tensor
    mean: Tensor
    variance: Tensor
    deviations: Tensor
    n_collected: int

    def networks(self, which: slice) -> Trajectories:
        """Some of the runs."""
        return Trajectories(
            self.last[which],
            self.mean[which],
            self.variance[which],
            self.deviations[:, which],
            self.n_collected,
        )

    def swag(self, b: int, scale: float, layout: Layout) -> swag.LowRankGaussian:
        """Network b's SWAG posterior."""
        return self._gaussian(b, self.deviations[:, b], scale, layout)

    def swag_diag(self, b: int, scale: float, layout: Layout) -> swag.LowRankGaussian:
        """Network b's SWAG-diag posterior."""
        return self._gaussian(b, self.deviations[:0, b], scale, layout)

    def _gaussian(self, b: int, rows: Tensor, scale: float, layout: Layout) -> swag.LowRankGaussian:
        return swag.LowRankGaussian.from_moments(
            self.mean[b], self.variance[b], rows, scale=scale, layout=layout, n_collected=self.n_collected
        )


def train(
    stack: Stack,
    theta: Tensor,
    rows: Rows,
    *,
    rate: Tensor,
    weight_decay: Tensor,
    order_of: Sequence[int],
    plan: Plan,
    seed: int,
    name: str,
) -> Trajectories:
    """Trains B = U·C networks, C on each data set, and collects them.

    Args:
        stack: the arithmetic.
        theta: (B, D) initial weights; network u·C + c trains on data set u.
        rows: U data sets.
        rate: (B,) learning rates.
        weight_decay: (B,) factors of ½|θ|².
        order_of: (U,) which order of batches a data set follows; equal numbers, equal orders.
        plan: epochs, batch and snapshots.
        seed: of the orders.
        name: for the progress bar.
    """
    theta = theta.clone()
    flat, moments = theta.view(-1), Layout([("stack", theta.shape, theta.dtype)])
    collector = swag.Collector.for_layout(moments, plan.rank)
    epochs = descend_(
        theta,
        rows,
        stack.gradient_,
        rate=rate,
        weight_decay=weight_decay,
        order_of=order_of,
        plan=plan,
        seed=seed,
    )
    for epoch in track(epochs, name, total=plan.epochs):
        if plan.collects(epoch):
            collector.collect_pieces([(0, len(flat), flat)])
    return Trajectories(
        last=theta,
        mean=collector.mean.view_as(theta),
        variance=(collector.sq_dev / collector.n_collected).view_as(theta),
        deviations=collector.deviations.view(-1, *theta.shape),
        n_collected=collector.n_collected,
    )


def descend_(
    theta: Tensor,
    rows: Rows,
    gradient_: Callable[[Tensor, Tensor, Tensor, Tensor], None],
    *,
    rate: Tensor,
    weight_decay: Tensor,
    order_of: Sequence[int],
    plan: Plan,
    seed: int,
) -> Iterator[int]:
    """Moves θ (B, D) in place, one epoch a step of the iterator, as `torch.optim.SGD` would each network.

    `gradient_(grad, theta, x, y)` writes the gradients; the other arguments are those of `train`.
    """
    n_sets, n_rows = rows.y.shape
    copies = len(theta) // n_sets
    grad, velocity = torch.empty_like(theta), torch.zeros_like(theta)
    step_size, decay = -rate.unsqueeze(1), weight_decay.unsqueeze(1)
    generators = {
        number: torch.Generator().manual_seed(key_for(seed, number) >> 1) for number in sorted(set(order_of))
    }
    cuts = torch.arange(n_rows).tensor_split(-(-n_rows // plan.batch))
    bounds = [(int(cut[0]), int(cut[-1]) + 1) for cut in cuts]
    sets = torch.arange(n_sets).unsqueeze(1)
    for epoch in range(plan.epochs):
        orders = {number: torch.randperm(n_rows, generator=g) for number, g in generators.items()}
        order = torch.stack([orders[number] for number in order_of])
        x, y = rows.x[sets, order], rows.y[sets, order]
        step = step_size * plan.rate(epoch)
        for start, stop in bounds:
            batch_x, batch_y = x[:, start:stop], y[:, start:stop]
            if copies > 1:
                batch_x = batch_x.repeat_interleave(copies, 0)
                batch_y = batch_y.repeat_interleave(copies, 0)
            gradient_(grad, theta, batch_x, batch_y)
            if plan.clip < float("inf"):
                norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
                grad.mul_((plan.clip / norm).clamp_(max=1))
            grad.addcmul_(theta, decay)
            velocity.mul_(MOMENTUM).add_(grad)
            theta.addcmul_(velocity, step)
        yield epoch
