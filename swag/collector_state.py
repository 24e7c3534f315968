"""What a collector's state_dict holds, and whether one fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from swag.errors import InputError
from swag.moments import all_finite
from swag.parameters import Layout

STATE_VERSION = 1


def checked_state(
    state: Mapping[str, Any], layout: Layout, rank: int, deviation_dtype: torch.dtype
) -> tuple[int, dict[str, Tensor]]:
    """n and the tensors of a state, after checking that it fits a collector of these settings.

    Raises:
        InputError: another layout, rank, row dtype or version, or a tensor missing or of the wrong shape.
    """
    if not isinstance(state, Mapping):
        raise InputError(
            f"state: got a {type(state).__name__}; pass what Collector.state_dict() returned (a file goes "
            "through torch.load or swag.load first)"
        )
    if state.get("version") != STATE_VERSION:
        raise InputError(
            f"state: version {state.get('version')!r} is unknown, this library reads {STATE_VERSION}; "
            "pass what Collector.state_dict() returned"
        )
    missing = [key for key in ("layout", "rank", "deviation_dtype", "n_collected") if key not in state]
    if missing:
        raise InputError(f"state: lacks '{missing[0]}'; pass what Collector.state_dict() returned")
    difference = layout.first_difference(Layout.from_list(state["layout"]))
    if difference is not None:
        raise InputError(
            f"state: belongs to another model ({difference}); build the collector from the same one"
        )
    row_dtype = str(deviation_dtype).removeprefix("torch.")
    if (state["rank"], state["deviation_dtype"]) != (rank, row_dtype):
        raise InputError(
            f"state: has rank {state['rank']} with {state['deviation_dtype']} rows, this collector has rank "
            f"{rank} with {row_dtype}; build the collector with the same settings"
        )
    n, size = state["n_collected"], layout.size
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise InputError(f"state: 'n_collected' is {n!r}, not a number of snapshots; the state is damaged")
    if n == 0:
        return 0, {}
    shapes = {"origin": (size,), "offset_mean": (size,), "sq_dev": (size,)}
    shapes["deviations"] = (min(n, rank), size)  # type: ignore[assignment]
    for key, shape in shapes.items():
        if not isinstance(state.get(key), Tensor) or tuple(state[key].shape) != shape:
            came = (
                tuple(state[key].shape)
                if isinstance(state.get(key), Tensor)
                else type(state.get(key)).__name__
            )
            raise InputError(f"state: '{key}' should be a tensor of shape {shape}, got {came}")
        if not all_finite([state[key]]):
            raise InputError(f"state: '{key}' holds NaN or infinite values; the state is damaged")
    return n, {key: state[key] for key in shapes}
