"""A sharded collector's statistics as `torch.distributed.checkpoint` wants them: tensors, and nothing else.

    counters                  (4,) int64: version, n, K, the rows' dtype
    origin, offset_mean, sq_dev, by parameter name
    deviations, by the ring's row ("0" … "K−1"), by parameter name

Each value is a view of the collector's own memory, as a DTensor where the parameter is one, so that DCP
knows which part of the whole it is. Snapshot i is in row (i − 1) mod K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from swag.collector import Collector
from swag.distributed.shards import Shards
from swag.errors import InputError
from swag.running import RunningMoments

_VERSION = 1
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_COUNTERS = ("version", "n_collected", "rank", "deviation_dtype")
_VECTORS = ("origin", "offset_mean", "sq_dev")


def state_of(collector: Collector, shards: Shards) -> dict[str, Any]:
    """The state, as views; every row of the ring is there from the start, since DCP reads into what is."""
    # Rows not yet written: whatever memory held would go to the file.
    statistics_of(collector).ring[collector.n_collected :].zero_()
    return _views(collector, shards)


def _views(collector: Collector, shards: Shards) -> dict[str, Any]:
    running, n = statistics_of(collector), collector.n_collected
    code = _DTYPES.index(collector.deviation_dtype)
    return {
        "counters": torch.tensor([_VERSION, n, collector.rank, code], device="cpu"),
        **{name: shards.like(getattr(running, name)) for name in _VECTORS},
        "deviations": {str(index): shards.like(row) for index, row in enumerate(running.ring)},
    }


def load_state(state: Mapping[str, Any], collector: Collector, shards: Shards) -> None:
    """Takes a state over; what DCP has read in place is not copied again."""
    counters = state.get("counters")
    if not isinstance(counters, Tensor) or counters.shape != (len(_COUNTERS),):
        raise InputError("state: lacks 'counters'; pass what ShardedCollector.state_dict() gave")
    version, n, rank, code = (int(counter) for counter in counters)
    mine = _views(collector, shards)
    expected = [int(counter) for counter in mine["counters"]]
    found = [version, n, rank, code]
    for name, a, b in zip(_COUNTERS, found, expected, strict=True):
        if a != b and name != "n_collected":
            set_n_collected(collector, 0)
            raise InputError(
                f"state: has {name} {a} and this collector has {b}; build it with the settings of the "
                "one that was saved (it is empty now)"
            )
    for name in _VECTORS:
        _copy(mine[name], state[name])
    for index, row in mine["deviations"].items():
        _copy(row, state["deviations"][index])
    set_n_collected(collector, n)


def statistics_of(collector: Collector) -> RunningMoments:
    """The memory behind a collector, allocated where it is not yet."""
    return collector._allocated()


def set_n_collected(collector: Collector, n: int) -> None:
    """Says how many snapshots that memory stands for."""
    collector._n, collector._pending = n, None


def _copy(mine: dict[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    for name, tensor in mine.items():
        target, source = _local(tensor), _local(theirs[name])
        if target.data_ptr() != source.data_ptr():
            target.copy_(source)


def _local(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor
