"""All mass on one weight vector, sharded: the SWA solution of a model divided over ranks."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from swag.distributed.saving import save_whole
from swag.distributed.shards import Shards
from swag.parameters import Layout
from swag.posterior import PointMass


@final
class ShardedPointMass:
    """δ(θ − mean), of which each rank holds its part.

    Args:
        local: this rank's part.
        shards: where it belongs.
    """

    def __init__(self, local: PointMass, shards: Shards) -> None:
        self.local = local
        self.shards = shards

    @property
    def layout(self) -> Layout:
        """This rank's shapes, by parameter name."""
        return self.shards.local

    @property
    def mean(self) -> Tensor:
        """This rank's part of the mean (D_local,)."""
        return self.local.mean

    @property
    def atoms(self) -> Tensor:
        """The one point (1, D_local)."""
        return self.local.atoms

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """n_samples copies of this rank's mean (n_samples, D_local); `generator` is not used."""
        return self.local.sample(n_samples, generator=generator)

    def sample_range(self, start: int, stop: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Copies of this rank's mean (stop − start, D_local)."""
        return self.local.sample_range(start, stop, generator=generator)

    __swag_save__ = save_whole

    def __repr__(self) -> str:
        return f"ShardedPointMass(D={self.shards.layout.size:,}, {self.mean.numel():,} of them here)"
