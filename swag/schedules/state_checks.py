"""Whether the numbers in a schedule's state can be used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from swag.errors import InputError
from swag.schedules.shapes import check_length, is_number


def check_numbers(found: Mapping[str, Any]) -> None:
    """Raises InputError where a state's numbers are none, or not as many as there should be."""
    shapes, base, last = found["_shapes"], found["base_lrs"], found["_last_lr"]
    epoch, previous, stride, count = (
        found[name] for name in ("last_epoch", "_previous", "_stride", "_step_count")
    )
    faults = {
        "last_epoch": not is_number(epoch) or not -1 <= epoch < math.inf,
        "previous_epoch": not is_number(previous) or not -1 <= previous < math.inf,
        "stride": stride is not None and (not is_number(stride) or not 0 <= stride <= 1),
        "step_count": isinstance(count, bool) or not isinstance(count, Integral) or count < 0,
        "shapes": not shapes,
        "base_lrs": not 1 <= len(base) <= len(shapes) or not all(map(_is_rate, base)),
        "last_lr": not 1 <= len(last) <= len(base) or not all(map(_is_rate, last)),
    }
    for name, fault in faults.items():
        if fault:
            raise InputError(f"state_dict: damaged: '{name}' cannot be used")
    if found["_end"] is not None:
        check_length("epochs", found["_end"])


def _is_rate(value: object) -> bool:
    return is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
