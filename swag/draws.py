"""Where an ensemble's members come from: drawn from a posterior, given their batch-norm statistics."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsFloat, final

from torch import nn

from swag.batches import check_loader, device_of, is_iterator, peeked
from swag.batchnorm import BatchNormPolicy, batchnorm_modules
from swag.errors import InputError
from swag.forwarding import Forwarding
from swag.members import MemberStack
from swag.parameters import Layout
from swag.posterior import Posterior
from swag.predictive import Predictive
from swag.shadow import Shadow
from swag.weights import draw

_log = logging.getLogger(__name__)

# Members drawn before the spread is known. With 8, the standard error itself is known to about 27 %.
PILOT = 8


@final
@dataclass(frozen=True)
class Source:
    """A posterior, a seed and a batch-norm policy: gives members, and more of the same sequence later."""

    posterior: Posterior
    seed: int
    policy: BatchNormPolicy
    refreshed: frozenset[str]
    bn_loader: Iterable[Any] | None
    budget: int | None = None

    def check_rereadable(self, why: str) -> None:
        """Raises InputError where the loader is an iterator, and `why` may need another pass."""
        if self.refreshed and self.bn_loader is not None and is_iterator(self.bn_loader):
            raise InputError(
                f"bn_loader: is an iterator, which can be read once; {why} may need another pass: pass a "
                "DataLoader or a list of batches"
            )

    def first(self, shadow: Shadow, n_samples: int) -> MemberStack:
        """The first n_samples members, without batch-norm statistics."""
        device = device_of(shadow.module)
        return MemberStack(
            shadow, *draw(self.posterior, n_samples, self.seed, device=device, budget=self.budget)
        )

    def refresh_(self, members: MemberStack, forwarding: Forwarding) -> None:
        """Gives the members their batch-norm statistics."""
        if not self.refreshed or self.bn_loader is None:
            return
        check_loader("bn_loader", self.bn_loader)
        found = batchnorm_modules(members.module)
        layers = {name: layer for name, layer in found.items() if name in self.refreshed}
        if members.at_once < len(members):
            self.check_rereadable("memory_budget")
        first, batches = peeked(self.bn_loader)
        forwarding.try_memory_format(first)
        with members.scratch_buffers():
            found_buffers = self.policy.statistics(members, layers, batches, forwarding.run)
        members.buffers = found_buffers

    def extend_(self, members: MemberStack, forwarding: Forwarding, n_samples: int) -> None:
        """Makes the members the first n_samples of the sequence; those there stay as they are."""
        longer, there = self.first(members.shadow, n_samples), len(members)
        if len(longer) <= there:
            return
        more = longer.part(there, len(longer))
        self.refresh_(more, forwarding)
        longer.buffers = [*members.buffers, *more.buffers]
        members.extend_(longer)


@final
@dataclass(frozen=True)
class Stopping:
    """How many members are enough: so many that the Monte-Carlo error is below a tolerance.

    Two stages (Stein 1945): the error ε of a pilot of S₀ members on the first batch gives
    S = S₀·(ε/tolerance)², at most `most`.
    """

    tolerance: float
    most: int

    def __post_init__(self) -> None:
        if not isinstance(self.tolerance, SupportsFloat) or not 0 < self.tolerance < 1:
            raise InputError(
                f"tolerance: got {self.tolerance!r}; pass a number between 0 and 1, such as 0.005"
            )
        if self.most < PILOT:
            raise InputError(f"max_samples: got {self.most}; pass {PILOT} or more")

    def needed(self, pilot: Predictive) -> int:
        """S, from what a pilot predicted; InputError where that has no error (no rows, NaN)."""
        error = pilot.monte_carlo_error
        if not math.isfinite(error):
            raise InputError(
                f"batch: its {pilot.n_rows} rows give no Monte-Carlo error ({error}), by which "
                'n_samples="auto" goes; pass a first batch with rows and finite outputs, or a number'
            )
        wanted = math.ceil(pilot.n_samples * (error / self.tolerance) ** 2)
        if wanted > self.most:
            expected = error * math.sqrt(pilot.n_samples / self.most)
            _log.warning(
                "n_samples: a Monte-Carlo error of %.2g takes %d samples; max_samples=%d gives about %.2g",
                self.tolerance,
                wanted,
                self.most,
                expected,
            )
        return max(pilot.n_samples, min(wanted, self.most))


def layers_to_refresh(
    model: nn.Module, policy: BatchNormPolicy, bn_loader: Iterable[Any] | None
) -> frozenset[str]:
    """Names of the layers that get statistics of their own for every member.

    Raises:
        InputError: there are some, and no `bn_loader`; or the policy is none.
    """
    if isinstance(policy, type) or not isinstance(policy, BatchNormPolicy):
        raise InputError(
            f"batchnorm: got {policy!r}; pass swag.ExactBatchNorm(), swag.ControlVariateBatchNorm() or "
            "swag.KeepBatchNorm()"
        )
    if not policy.needs_loader:
        return frozenset()
    layers = batchnorm_modules(model, policy.frozen)
    if layers and bn_loader is None:
        raise InputError(
            f"bn_loader: the model has {len(layers)} batch-norm layer(s) ('{next(iter(layers))}', …), whose "
            "statistics do not fit drawn weights; pass bn_loader=train_loader, or "
            "batchnorm=swag.KeepBatchNorm() where they were frozen in training"
        )
    return frozenset(layers)


def layout_for(model: nn.Module, posterior: Posterior) -> Layout:
    """The posterior's layout, or the model's where it has none and D agrees.

    Raises:
        InputError: something that cannot be sampled, or D differs.
    """
    if not callable(getattr(posterior, "sample", None)):
        raise InputError(
            f"posterior: a {type(posterior).__name__} cannot be sampled; pass a posterior, such as "
            "collector.swag() or collector.swa()"
        )
    if posterior.layout is not None:
        return posterior.layout
    layout = Layout.of(model)
    if layout.size != posterior.mean.numel():
        raise InputError(
            f"posterior: has D={posterior.mean.numel()} and no layout, the model's trainable parameters are "
            f"D={layout.size}; give the posterior the layout it was collected with"
        )
    return layout
