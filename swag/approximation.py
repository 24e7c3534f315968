"""What an approximation costs: the same members with and without it, beside the Monte-Carlo error."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from swag.batches import check_loader
from swag.batchnorm import ExactBatchNorm, batchnorm_modules
from swag.forwarding import Forwarding
from swag.members import MemberStack


@final
@dataclass(frozen=True)
class ApproximationError:
    """Differences of the averaged outputs, as probabilities for logits (N, C) with C > 1.

    Attributes:
        mean: mean |Δ| over rows and columns.
        maximum: the largest.
        monte_carlo: the mean standard error of the average of ALL the ensemble's members.
        n_samples: members compared. The average over more members has a smaller difference still where
            the errors of members are independent.
    """

    mean: float
    maximum: float
    monte_carlo: float
    n_samples: int

    @property
    def ratio(self) -> float:
        """mean / monte_carlo: well below 1, the approximation drowns in the sampling noise."""
        return self.mean / self.monte_carlo if self.monte_carlo > 0 else float("inf")


def bn_error(
    members: MemberStack,
    forwarding: Forwarding,
    batch: Any,
    bn_loader: Iterable[Any],
    names: Collection[str],
    n_samples: int,
) -> ApproximationError:
    """The members' own batch-norm statistics against exact ones for the layers of these names."""
    check_loader("bn_loader", bn_loader)
    few = members.part(0, n_samples)
    layers = {n: layer for n, layer in batchnorm_modules(few.module).items() if n in names}
    exact = few.part(0, len(few))
    if layers:
        with exact.scratch_buffers():
            statistics = ExactBatchNorm().statistics(exact, layers, bn_loader, forwarding.run)
        exact.buffers = statistics
    few.buffers = members.buffers[: len(few)]
    return _compare(forwarding.of(few), forwarding.of(exact), batch, len(members))


def autocast_error(
    members: MemberStack, forwarding: Forwarding, batch: Any, n_samples: int
) -> ApproximationError:
    """Predictions under autocast against the model's own precision."""
    few = members.part(0, n_samples)
    few.buffers = members.buffers[:n_samples]
    plain = forwarding.of(few, autocast=None)
    return _compare(forwarding.of(few), plain, batch, len(members))


def _compare(one: Forwarding, other: Forwarding, batch: Any, n_members: int) -> ApproximationError:
    mine, theirs = _all(one, batch), _all(other, batch)
    difference = (mine.mean(0) - theirs.mean(0)).abs()
    n = len(mine)
    spread = theirs.std(0) if n > 1 else torch.full_like(difference, float("nan"))
    return ApproximationError(
        mean=float(difference.mean()),
        maximum=float(difference.max()),
        monte_carlo=float(spread.mean()) / n_members**0.5,
        n_samples=n,
    )


def _all(forwarding: Forwarding, batch: Any) -> Tensor:
    outputs: list[Tensor] = []
    forwarding.each(batch, outputs.append)
    stacked = torch.stack(outputs).float()
    return stacked.softmax(-1) if stacked.ndim == 3 and stacked.shape[-1] > 1 else stacked
