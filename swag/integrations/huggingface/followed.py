"""The collector of what trains in a Trainer's model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from swag.collector import Collector
from swag.errors import InputError
from swag.integrations.huggingface.adapters import check_adapters
from swag.parameters import named_parameters


def collector_for(
    model: nn.Module, rank: int, select: Iterable[str] | None, dtype: torch.dtype, device: str | None
) -> Collector:
    """A collector for what trains, or for what `select` names.

    Raises:
        InputError: nothing trains, the model is divided over processes, or its adapters do not act.
    """
    if not any(parameter.requires_grad for _, parameter in named_parameters(model)):
        raise InputError(
            "model: no parameter requires a gradient, so there is nothing to collect; add adapters "
            "(peft.get_peft_model), or unfreeze some"
        )
    for name, parameter in named_parameters(model):
        if hasattr(parameter, "ds_id"):
            raise InputError(
                f"model: parameter '{name}' is divided over processes (DeepSpeed ZeRO-3); use ZeRO-2 or DDP"
            )
    collector = Collector(
        model, rank, select=None if select is None else list(select), deviation_dtype=dtype, device=device
    )
    check_adapters(model, collector.layout)
    return collector


def dtype_of(name: torch.dtype | str) -> torch.dtype:
    """A dtype from itself or from its name, as JSON has it."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype):
        raise InputError(f'deviation_dtype: got {name!r}; pass torch.float32 or "bfloat16"')
    return dtype
