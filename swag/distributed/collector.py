"""The moments of a training trajectory, shard by shard: no rank ever holds more than its own part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from swag import moments
from swag.batches import Forward
from swag.collector import Collector
from swag.distributed.applied import applied
from swag.distributed.gaussian import ShardedGaussian
from swag.distributed.point import ShardedPointMass
from swag.distributed.ranks import Ranks
from swag.distributed.saving import save_whole
from swag.distributed.shards import Shards
from swag.distributed.states import load_state, state_of
from swag.errors import StateError
from swag.moments import Kernel
from swag.parameters import Select


@final
class ShardedCollector:
    r"""Collects snapshots of a model that is divided over ranks (`fully_shard`), or repeated on them (DDP).

    Every statistic is elementwise, so it lives beside the shard it belongs to: `collect` issues no
    collective, and memory is 4·(3 + K) bytes for each weight that THIS rank holds. The constructor compares
    the ranks' models and settings by one collective, the posteriors the ranks' numbers of snapshots.

    It is `Stateful`: put it into what `torch.distributed.checkpoint` saves and loads, beside the model. Its
    tensors go to the file as they are, without a copy on the way, and N ranks' checkpoint loads on M.

    Args:
        model: as in `swag.Collector`; its DTensor parameters are split by Shard(0) along one dimension of
            their mesh. Optimizers, autocast and compiling are as you please.
        rank: K, the deviation rows kept (not a process' rank).
        select: which parameters, as in `swag.Collector`.
        deviation_dtype: dtype of the rows; bfloat16 halves their memory.
        device: where the statistics live; by default beside the parameters, "cpu" offloads them.
        kernel: one step on tensors, as in `swag.Collector`.
        group: the processes that hold the model; None for all.

    Raises:
        InputError: on ALL ranks, where one has another layout or other settings, or where its parameters
            cannot be read (FSDP1, other placements).
        StateError: a rank did not come within the group's timeout.

    >>> model = nn.Linear(3, 1)
    >>> collector = ShardedCollector(model, rank=2)  # without a process group: one rank
    >>> for _ in range(5):
    ...     _ = nn.init.normal_(model.weight)
    ...     collector.collect(model)
    >>> collector.swag().sample(2).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        rank: int = 20,
        *,
        select: Select = None,
        deviation_dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        kernel: Kernel = moments.accumulate_,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        ranks = Ranks(group)

        def make() -> tuple[Shards, Collector]:
            shards = Shards.of(model, select, ranks)
            beside = device or shards.layout.tensors(model)[0].device
            inner = Collector.for_layout(
                shards.local, rank, deviation_dtype=deviation_dtype, device=beside, kernel=kernel
            )
            return shards, inner

        def describe(made: tuple[Shards, Collector]) -> list[str]:
            shards, inner = made
            return [f"rank={inner.rank}", f"deviation_dtype={inner.deviation_dtype}", *shards.describe()]

        self.shards, self._inner = ranks.alike("model", make, describe)

    @classmethod
    def from_parts(cls, shards: Shards, inner: Collector) -> ShardedCollector:
        """A collector around this rank's statistics, as `load` reads them."""
        collector = cls.__new__(cls)
        collector.shards, collector._inner = shards, inner
        return collector

    @property
    def rank(self) -> int:
        """K, the deviation rows kept."""
        return self._inner.rank

    @property
    def device(self) -> torch.device:
        """Where the statistics live."""
        return self._inner.device

    @property
    def local(self) -> Collector:
        """This rank's statistics, as an ordinary collector of its shards."""
        return self._inner

    @property
    def n_collected(self) -> int:
        """n, the snapshots taken so far by this rank."""
        return self._inner.n_collected

    @property
    def mean(self) -> Tensor:
        """This rank's θ̄ (D_local,), a fresh tensor."""
        return self._inner.mean

    @property
    def sq_dev(self) -> Tensor:
        """This rank's Σ (θ_i − θ̄)² (D_local,), a fresh tensor."""
        return self._inner.sq_dev

    @property
    def deviations(self) -> Tensor:
        """This rank's rows (k, D_local), oldest first; a fresh tensor."""
        return self._inner.deviations

    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot of this rank's shards. No collective: ranks need not come at the same time.

        Parameters that a forward pass without a backward left unsharded are resharded first.

        Raises:
            InputError: as `swag.Collector.collect`, on the rank where it is so: the others do not know yet,
                and would hear of it at the next posterior.
        """
        self._inner.collect(self.shards.module(model))

    def swa(self) -> ShardedPointMass:
        """The SWA solution θ̄, sharded; collective.

        Raises:
            StateError: no snapshot yet, or ranks took differing numbers of them.
        """
        self._check_alike("swa()")
        return ShardedPointMass(self._inner.swa(), self.shards)

    def swag_diag(self, scale: float = 1.0) -> ShardedGaussian:
        """SWAG-diag, sharded; see `swag.Collector.swag_diag`. Collective.

        Raises:
            StateError: fewer than two snapshots, or ranks took differing numbers of them.
        """
        self._check_alike("swag_diag()")
        return ShardedGaussian(self._inner.swag_diag(scale), self.shards)

    def swag(self, scale: float = 0.5) -> ShardedGaussian:
        """SWAG, sharded; see `swag.Collector.swag`. Collective.

        Raises:
            StateError: fewer than two snapshots, or ranks took differing numbers of them.
            InputError: rank below 2, or a negative scale.
        """
        self._check_alike("swag()")
        return ShardedGaussian(self._inner.swag(scale), self.shards)

    def applied(
        self, model: nn.Module, *, bn_loader: Iterable[Any] | None = None, forward: Forward | None = None
    ) -> AbstractContextManager[nn.Module]:
        """`with collector.applied(model):` the model holds θ̄, afterwards its own weights; see `applied`.

        Raises:
            StateError: no snapshot yet.
        """
        return applied(model, self.shards, self.mean, bn_loader=bn_loader, forward=forward)

    def state_dict(self) -> dict[str, Any]:
        """Views of the statistics as DTensors like the parameters, for `torch.distributed.checkpoint`.

        Allocates the statistics where there are none yet: loading reads into them.
        """
        return state_of(self._inner, self.shards)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the statistics of `state_dict()`, which a checkpoint has been read into.

        Raises:
            InputError: it was saved with another rank, row dtype or version. The collector is then empty: its
                memory has been read into already.
        """
        load_state(state, self._inner, self.shards)

    def _check_alike(self, what: str) -> None:
        self.shards.ranks.alike(
            what, lambda: self._inner.n_collected, lambda n: [f"{n} snapshots collected"], StateError
        )

    __swag_save__ = save_whole

    def __repr__(self) -> str:
        shards = self.shards
        return (
            f"ShardedCollector({self.n_collected} snapshots, rank={self.rank}, D={shards.layout.size:,}, "
            f"{shards.local.size:,} of them on rank {shards.ranks.index} of {shards.ranks.size})"
        )
