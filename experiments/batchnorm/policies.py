"""What the control variate is compared with: subsets of training rows without a correction."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import swag
from swag.batchnorm import Members

Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class PlainSubset:
    """Each sample's own statistics over `rows` rows, drawn afresh for every sample."""

    rows: int
    seed: int
    frozen: tuple[str, ...] = ()
    needs_loader: bool = True

    def statistics(
        self,
        members: Members,
        layers: Mapping[str, _BatchNorm],
        loader: Iterable[Tensor],
        forward: Forward | None,
    ) -> list[dict[str, Tensor]]:
        """One refresh a sample, the subset as one batch."""
        images = torch.cat(list(loader))
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for index in range(len(members)):
            members.load_(index)
            subset = images[torch.randperm(len(images), generator=generator)[: self.rows]]
            swag.refresh_batchnorm_(members.module, [subset], forward=forward)
            found.append(buffers(layers))
        return found


@dataclass(frozen=True)
class ReferenceSubset:
    """The option `subset` of the SWAG paper's code: the first batches of a freshly shuffled loader.

    As there: the network in train mode, the fraction rounded down to whole batches, every batch's mean and
    unbiased variance averaged with momentum n_b/n. (That turns dropout on; these networks have none.)
    """

    fraction: float
    batch: int
    seed: int
    frozen: tuple[str, ...] = ()
    needs_loader: bool = True

    def rows_of(self, n_rows: int) -> int:
        """The rows a sample takes out of n."""
        return int(-(-n_rows // self.batch) * self.fraction) * self.batch

    def statistics(
        self,
        members: Members,
        layers: Mapping[str, _BatchNorm],
        loader: Iterable[Tensor],
        forward: Forward | None,
    ) -> list[dict[str, Tensor]]:
        """One pass over a part of the loader a sample."""
        images = torch.cat(list(loader))
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for index in range(len(members)):
            members.load_(index)
            order = torch.randperm(len(images), generator=generator).split(self.batch)
            members.module.train()
            seen = 0
            for chosen in itertools.islice(order, int(len(order) * self.fraction)):
                for layer in layers.values():
                    layer.momentum = len(chosen) / (seen + len(chosen))
                seen += len(chosen)
                with torch.no_grad():
                    members.module(images[chosen])
            members.module.eval()
            found.append(buffers(layers))
        return found


def buffers(layers: Mapping[str, _BatchNorm]) -> dict[str, Tensor]:
    """The layers' running statistics as they are now."""
    return {
        f"{name}.{leaf}": buffer.clone()
        for name, layer in layers.items()
        for leaf, buffer in layer.named_buffers()
    }
