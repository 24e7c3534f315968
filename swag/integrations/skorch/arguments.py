"""What the callback's arguments may be, checked when training begins: a search sets them late."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch

from swag.collector import Collector
from swag.errors import InputError
from swag.parameters import Layout


def check_arguments(rank: Any, swa_start: Any, every: Any, every_steps: Any, swa_lr: Any) -> None:
    """Raises InputError where one of them cannot be used."""
    Collector.for_layout(Layout([("theta", (1,), torch.float32)]), rank)  # its error is the right one
    is_number = isinstance(swa_start, Real)
    is_share = is_number and not isinstance(swa_start, Integral)
    if not is_number or not swa_start >= 0 or (is_share and not swa_start < 1):
        raise InputError(
            f"swa_start: got {swa_start!r}; pass epochs (an integer) or a fraction of max_epochs below 1"
        )
    for name, count in (("every", every), ("every_steps", every_steps)):
        if count is not None and (not isinstance(count, Integral) or count < 1):
            raise InputError(f"{name}: got {count!r}; pass an integer of at least 1")
    if every is None:
        raise InputError("every: got None; pass the epochs between snapshots")
    if swa_lr is not None and (not isinstance(swa_lr, Real) or not float(swa_lr) > 0):
        raise InputError(f"swa_lr: got {swa_lr!r}; pass a rate above 0, or None")
