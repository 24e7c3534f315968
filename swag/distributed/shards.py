"""Which part of θ this rank holds: the one file that knows how parameters are divided over ranks.

A parameter is a DTensor split along its first dimension (`Shard(0)`, what FSDP2's `fully_shard` makes) over
one dimension of its mesh and repeated over the others (HSDP); or an ordinary tensor, whole on every rank
(DDP). Either way what a rank holds of it is one run of the global θ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from swag.distributed.ranks import Ranks
from swag.errors import InputError
from swag.parameters import Layout, Select, unwrap


class Run(NamedTuple):
    """This rank's θ[start:stop] is θ[first : first + stop − start] of the whole."""

    start: int
    stop: int
    first: int


@final
@dataclass(frozen=True)
class _Place:
    """One parameter: this rank's shape, its first value's number in the parameter, and whether it counts.

    `counts` is true on exactly one of the ranks that hold the same values. `spec` is the mesh and the
    placements of a DTensor.
    """

    shape: tuple[int, ...]
    first: int
    counts: bool
    spec: tuple[Any, Any] | None


@final
class Shards:
    """This rank's part θ (D_local,) of a model's θ (D,).

    Args:
        model: tells how parameters are divided; not kept.
        layout: the parameters, whole.
        ranks: the processes it is divided over.

    Attributes:
        layout: names and global shapes.
        local: the same names in the same order with this rank's shapes (a first side of 0: it has nothing).
        runs: where θ (D_local,) stands in the whole.

    Raises:
        InputError: FSDP1's flat parameters, a split along another dimension or more than one, or a rank
            outside of the mesh.
    """

    def __init__(self, model: nn.Module, layout: Layout, ranks: Ranks) -> None:
        _refuse_flat(model)
        reshard_(model)
        self.layout = layout
        self.ranks = ranks
        names, parameters = layout.names, layout.tensors(model)
        self._places = [_place(name, p, ranks) for name, p in zip(names, parameters, strict=True)]
        self.local = Layout(
            (e.name, p.shape, e.dtype) for e, p in zip(layout.entries, self._places, strict=True)
        )
        self.runs: tuple[Run, ...] = _joined(
            Run(mine.start, mine.stop, whole.start + place.first)
            for mine, whole, place in zip(self.local.entries, layout.entries, self._places, strict=True)
        )

    @classmethod
    def of(cls, model: nn.Module, select: Select, ranks: Ranks) -> Shards:
        """Of the selected parameters; see `Layout.of`."""
        _refuse_flat(model)
        reshard_(model)
        return cls(model, Layout.of(model, select), ranks)

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that count where ranks add up: over all ranks each weight of θ once."""
        return _joined(
            Run(mine.start, mine.stop, whole.start + place.first)
            for mine, whole, place in zip(self.local.entries, self.layout.entries, self._places, strict=True)
            if place.counts
        )

    def describe(self) -> list[str]:
        """What must be the same on all ranks, line by line."""
        return [f"'{e.name}' {e.shape} {e.dtype}" for e in self.layout.entries]

    def module(self, model: nn.Module) -> nn.Module:
        """A module that holds nothing but this rank's shards, the model's own memory, by the same names.

        Its layout is `local`, so whatever works on a model's parameters works on it, and talks to no other
        rank. Parameters that a forward pass left unsharded are given back first.

        Raises:
            InputError: the model is divided otherwise than the one at construction.
        """
        reshard_(model)
        root = nn.Module()
        with torch.no_grad():
            for entry, parameter in zip(self.local.entries, self.layout.tensors(model), strict=True):
                tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                if tensor.numel() != entry.stop - entry.start:
                    raise InputError(
                        f"model: this rank holds {tensor.numel():,} values of '{entry.name}' now and held "
                        f"{entry.stop - entry.start:,} at construction; pass a model that is divided alike"
                    )
                _put(root, entry.name, tensor.detach().view(entry.shape))
        return root

    def write_(self, model: nn.Module, theta: Tensor) -> None:
        """Copies θ (D_local,) into this rank's shards, in place."""
        self.local.write_(self.module(model), theta)

    def like(self, values: Tensor) -> dict[str, Tensor]:
        """Views of a vector (D_local,) by name, as DTensors where the parameters are."""
        found: dict[str, Tensor] = {}
        for mine, whole, place in zip(self.local.entries, self.layout.entries, self._places, strict=True):
            view = values[mine.start : mine.stop].view(mine.shape)
            if place.spec is not None:
                # The same memory as a storage of its own: DCP's staging takes a DTensor whose local tensor
                # begins inside its storage for no wrapper, and fails (torch 2.13).
                view = torch.from_dlpack(view) if view.numel() else torch.empty_like(view)
                strides = torch.empty(whole.shape, device="meta").stride()
                meta = TensorMeta(torch.Size(whole.shape), strides, view.dtype)
                # Not by from_local, which moves statistics that live on the host to the mesh's device.
                view = DTensor(view, DTensorSpec(*place.spec, tensor_meta=meta), requires_grad=False)
            found[mine.name] = view
        return found


def reshard_(model: nn.Module) -> None:
    """Gives back what a forward pass without a backward left unsharded; no communication."""
    for module in unwrap(model).modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _place(name: str, parameter: Tensor, ranks: Ranks) -> _Place:
    shape = tuple(parameter.shape)
    if not isinstance(parameter, DTensor):
        return _Place(shape, 0, ranks.index == 0, None)
    mesh, placements = parameter.device_mesh, parameter.placements
    divided = [dim for dim, placement in enumerate(placements) if not placement.is_replicate()]
    if len(divided) > 1 or any(placements[dim] != Shard(0) for dim in divided):
        raise InputError(
            f"model: parameter '{name}' is placed as {tuple(placements)}; only Shard(0) over one dimension "
            "of the mesh (fully_shard, also with replicas) leaves each rank one run of it: leave such "
            "parameters out with select="
        )
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise InputError(f"model: this rank is outside of the mesh of '{name}'; pass group= its ranks")
    rest = torch.Size(shape[1:]).numel()
    start, stop = 0, shape[0] if shape else 1
    for dim in divided:
        # As torch.chunk divides: all but the last shards are equal, and some may be empty.
        chunk = -(-shape[0] // mesh.size(dim))
        start = min(coordinate[dim] * chunk, shape[0])
        stop = min(start + chunk, shape[0])
    with torch.no_grad():
        held = parameter.to_local().numel()
    if held != (stop - start) * rest:
        raise InputError(
            f"model: this rank holds {held:,} values of '{name}', expected {(stop - start) * rest:,}; only "
            "shards as torch.chunk divides are read"
        )
    first_copy = all(coordinate[dim] == 0 for dim in range(mesh.ndim) if dim not in divided)
    return _Place((stop - start, *shape[1:]) if shape else (), start * rest, first_copy, (mesh, placements))


def _refuse_flat(model: nn.Module) -> None:
    if any(isinstance(module, FullyShardedDataParallel) for module in unwrap(model).modules()):
        raise InputError(
            "model: FullyShardedDataParallel keeps flat parameters without names; shard the model with "
            "torch.distributed.fsdp.fully_shard"
        )


def _joined(runs: Iterator[Run] | Sequence[Run]) -> tuple[Run, ...]:
    """Empty runs left out, runs that go on where the one before ended made one."""
    found: list[Run] = []
    for run in runs:
        if run.start == run.stop:
            continue
        last = found[-1] if found else None
        if last and last.stop == run.start and last.first + last.stop - last.start == run.first:
            found[-1] = Run(last.start, run.stop, last.first)
        else:
            found.append(run)
    return tuple(found)


def _put(root: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = root
    for part in owner.split(".") if owner else ():
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    # Not a Parameter: it is the memory of one.
    module._parameters[leaf] = tensor  # type: ignore[assignment]
