"""Models divided over ranks and, beside each, the same one whole: the oracle for everything sharded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

import swag
from swag.distributed import ShardedCollector
from swag.parameters import Layout
from tests.cases import walk


class Odd(nn.Module):
    """Sides that 2 and 4 divide, others that they do not (some ranks hold nothing); ties; batch norm."""

    def __init__(self, *, batchnorm: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.norm = nn.BatchNorm1d(8) if batchnorm else nn.Identity()
        self.middle = nn.Linear(8, 8, bias=False)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.middle.weight
        self.odd = nn.Linear(8, 5)
        self.head = nn.Linear(5, 3)
        self.fixed = nn.Linear(3, 3, bias=False).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.again(torch.relu(self.middle(x))))
        return self.fixed(self.head(torch.relu(self.odd(x))))


def whole(*, batchnorm: bool = True, seed: int = 0) -> Odd:
    """The same weights on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Odd(batchnorm=batchnorm)


def divided(
    mesh: DeviceMesh | None = None, *, batchnorm: bool = True, seed: int = 0, dtype: torch.dtype | None = None
) -> Odd:
    """`whole`, sharded by FSDP2 in two groups."""
    model = whole(batchnorm=batchnorm, seed=seed).to(dtype or torch.float32)
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model.first, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def part_of(parameter: Tensor, value: Tensor) -> Tensor:
    """This rank's piece of a whole value, as torch.chunk divides."""
    if not isinstance(parameter, DTensor):
        return value
    for dim, placement in enumerate(parameter.placements):
        if placement.is_shard():
            chunks = value.chunk(parameter.device_mesh.size(dim))
            coordinate = parameter.device_mesh.get_coordinate()
            assert coordinate is not None
            return chunks[coordinate[dim]] if coordinate[dim] < len(chunks) else value[:0]
    return value


def set_(model: nn.Module, like: nn.Module) -> None:
    """Gives a divided model the weights of a whole one."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    values = dict(like.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            local.copy_(part_of(parameter, values[name].to(local.dtype)))


def local_part(model: nn.Module, layout: Layout, values: Tensor) -> Tensor:
    """This rank's (…, D_local) of whole vectors (…, D)."""
    parameters = dict(model.named_parameters())
    named = layout.unflatten(values)
    lead = values.shape[:-1]
    parts = [
        torch.stack([part_of(parameters[name], v) for v in value.reshape(-1, *value.shape[len(lead) :])])
        for name, value in named.items()
    ]
    return torch.cat([part.flatten(1) for part in parts], 1).view(*lead, -1)


def both(
    model: nn.Module, n: int = 7, rank: int = 4, *, reference: nn.Module | None = None, **settings: Any
) -> tuple[ShardedCollector, swag.Collector]:
    """A sharded and an ordinary collector of the same snapshots; the ring of rows has gone round."""
    reference = whole(batchnorm=hasattr(model.norm, "running_mean")) if reference is None else reference
    sharded = ShardedCollector(model, rank=rank, **settings)
    settings.pop("group", None)
    plain = swag.Collector(reference, rank=rank, **settings)
    for step in walk(reference, n):
        set_(model, step)
        sharded.collect(model)
        plain.collect(step)
    return sharded, plain


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_rounding(got: Tensor, expected: Tensor, size: Tensor | float, units: float = 8) -> None:
    """Equal to `units` units in the last place (2⁻²⁴) of `size`."""
    assert got.shape == expected.shape, (got.shape, expected.shape)
    error = (got.double() - expected.double()).abs()
    limit = units * 2.0**-24 * torch.as_tensor(size, dtype=torch.float64)
    assert bool((error <= limit).all()), f"off by {float((error / limit).max()):.2f} of what is allowed"


class Wire(TorchDispatchMode):
    """What goes through c10d inside the block: (operation, bytes that this rank receives in a ring)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        namespace, _, name = func.name().partition("::")
        if namespace in ("c10d", "_c10d_functional"):
            self.calls.append((name.partition(".")[0], _received(name, args)))
        return func(*args, **(kwargs or {}))

    @property
    def n_bytes(self) -> int:
        return sum(size for _, size in self.calls)


def _received(name: str, args: tuple[Any, ...]) -> int:
    size = dist.get_world_size()
    tensors = list(_tensors(args[:2]))
    if name.startswith("_allgather_base_"):
        return tensors[0].nbytes * (size - 1) // size
    if name.startswith("allgather_"):
        return tensors[-1].nbytes * (size - 1)
    if name.startswith("allreduce_"):
        return 2 * tensors[0].nbytes * (size - 1) // size
    return tensors[0].nbytes


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
