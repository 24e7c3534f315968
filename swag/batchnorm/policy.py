"""What a batch-norm policy is: it gives every member of an ensemble its running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from swag.batches import Forward

# A member's statistics: buffers by full name ("bn1.running_mean", …).
Buffers = dict[str, Tensor]


class Members(Protocol):
    """S weight vectors that can be loaded, one at a time, into one private module in eval mode."""

    @property
    def module(self) -> nn.Module:
        """The module they are loaded into."""

    @property
    def centre_of(self) -> list[int]:
        """For each member, which centre it was drawn around."""

    @property
    def n_centres(self) -> int:
        """How many centres there are: one for a Gaussian, one a component for a mixture."""

    @property
    def at_once(self) -> int:
        """How many members can be loaded in turn, again and again, at no cost; S, or what a budget holds."""

    def __len__(self) -> int:
        """S."""

    def load_(self, index: int) -> None:
        """Makes member `index` the module's weights."""

    def load_centre_(self, index: int) -> None:
        """Makes the mean weights of centre `index` the module's weights."""


@runtime_checkable
class BatchNormPolicy(Protocol):
    """How members get their statistics."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of layers it leaves as they are."""

    @property
    def needs_loader(self) -> bool:
        """Whether training data must be read."""

    def statistics(
        self,
        members: Members,
        layers: Mapping[str, _BatchNorm],
        loader: Iterable[Any],
        forward: Forward | None,
    ) -> list[Buffers]:
        """The statistics of every member for these layers."""


@final
@dataclass(frozen=True)
class KeepBatchNorm:
    """Every sample keeps the model's statistics: right only where they were frozen in training."""

    frozen: tuple[str, ...] = ()
    needs_loader: bool = False

    def statistics(
        self,
        members: Members,
        layers: Mapping[str, _BatchNorm],
        loader: Iterable[Any],
        forward: Forward | None,
    ) -> list[Buffers]:
        """Nothing of their own."""
        return [{} for _ in range(len(members))]
