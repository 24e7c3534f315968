"""The collector behind the callback, whole or sharded, and its state as one checkpoint entry.

The entry is the same for both: the state of an ordinary collector of the whole model, so that a checkpoint of
many ranks resumes on any number of them, and is read without any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from swag.collector import Collector
from swag.collector_state import checked_state
from swag.distributed import ShardedCollector
from swag.distributed.shards import Shards
from swag.errors import InputError
from swag.parameters import Layout
from swag.selection import Select

AnyCollector = Collector | ShardedCollector
_VECTORS = ("origin", "offset_mean", "sq_dev")


def part_of(module: LightningModule, part: str | None) -> nn.Module:
    """The submodule of that name, or the module itself.

    Raises:
        InputError: there is none.
    """
    if part is None:
        return module
    try:
        return module.get_submodule(part)
    except AttributeError as error:
        names = ", ".join(name for name, _ in module.named_children())
        raise InputError(f"part: the module has no submodule {part!r}; it has {names}") from error


def collector_for(
    model: nn.Module, rank: int, select: Select, dtype: torch.dtype, device: torch.device | str | None
) -> AnyCollector:
    """A collector of the kind that the model's parameters need."""
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    kind = ShardedCollector if sharded else Collector
    return kind(model, rank, select=select, deviation_dtype=dtype, device=device)


def layout_of(collector: AnyCollector) -> Layout:
    """Names and whole shapes."""
    return collector.layout if isinstance(collector, Collector) else collector.shards.layout


def state_of(collector: AnyCollector, writes: bool) -> dict[str, Any]:
    """The state on the CPU; of a sharded collector gathered vector by vector (collective).

    Args:
        collector: on every rank.
        writes: whether this process writes the checkpoint; the others' states have no tensors.
    """
    if isinstance(collector, Collector):
        state = collector.state_views()
        if not writes:
            return _without_tensors(state)
        if "deviations" in state:
            state["deviations"] = _stacked(state["deviations"])
        return {k: v.detach().cpu().clone() if isinstance(v, Tensor) else v for k, v in state.items()}
    shards, state = collector.shards, collector.local.state_views()
    state["layout"] = shards.layout.to_list()
    for key in _VECTORS:
        if key in state:
            state[key] = _gathered(state[key], shards)
    if "deviations" in state:
        state["deviations"] = _stacked([_gathered(row, shards) for row in state["deviations"]])
    return state if writes else _without_tensors(state)


def load_(collector: AnyCollector, state: Mapping[str, Any]) -> None:
    """Takes a state over; checked whole before anything changes.

    Raises:
        InputError: another model, rank or row dtype, or a damaged state.
    """
    if isinstance(collector, Collector):
        collector.load_state_dict(state)
        return
    shards, local = collector.shards, collector.local
    n, tensors = checked_state(state, shards.layout, local.rank, local.deviation_dtype)
    own = {**state, "layout": shards.local.to_list()}
    if n > 0:
        own |= {key: _own(value, shards) for key, value in tensors.items()}
    local.load_state_dict(own)


def collector_of(state: Mapping[str, Any]) -> Collector:
    """A collector on the CPU out of a state alone.

    Raises:
        InputError: no such state, or a damaged one.
    """
    try:
        layout = Layout.from_list(state["layout"])
        dtype = getattr(torch, str(state["deviation_dtype"]))
        collector = Collector.for_layout(layout, state["rank"], deviation_dtype=dtype)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"state: not what SWAGCallback saves, or damaged ({error!r})") from error
    collector.load_state_dict(state)
    return collector


def _gathered(vector: Tensor, shards: Shards) -> Tensor:
    """θ (D,) on the CPU, from this rank's (D_local,) and the others'."""
    whole: list[Tensor] = []
    for value in shards.like(vector).values():
        if isinstance(value, DTensor):
            local, mesh = value.to_local(), value.device_mesh
            if local.device.type != mesh.device_type:  # statistics that live on the host
                moved = local.to(mesh.device_type)
                value = DTensor.from_local(
                    moved,
                    mesh,
                    value.placements,
                    run_check=False,
                    shape=value.shape,
                    stride=value.stride(),
                )
            value = value.full_tensor()
        whole.append(value.detach().flatten().cpu())
    return torch.cat(whole)


def _own(values: Tensor, shards: Shards) -> Tensor:
    """This rank's columns of (…, D)."""
    parts = [values[..., run.first : run.first + run.stop - run.start] for run in shards.runs]
    return torch.cat(parts, dim=-1) if parts else values[..., :0]


def _without_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k not in _VECTORS and k != "deviations"}


def _stacked(rows: Any) -> Tensor:
    return rows if isinstance(rows, Tensor) else torch.stack([row.detach().cpu() for row in rows])
