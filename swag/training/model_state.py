"""A model's weights and buffers in a checkpoint: under plain names, whatever wraps the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from swag.errors import InputError
from swag.moments import all_finite, first_non_finite
from swag.parameters import clean_name, unwrap


def model_state(model: nn.Module) -> dict[str, Any]:
    """The state_dict under plain names."""
    return {clean_name(name): value for name, value in unwrap(model).state_dict().items()}


def load_model_state_(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Writes what `model_state` gave into the model."""
    own_names = {clean_name(name): name for name in unwrap(model).state_dict()}
    unwrap(model).load_state_dict({own_names[name]: value for name, value in state.items()})


def check_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Raises InputError where names or shapes differ from the model's."""
    mine = model_state(model)
    for name in [*mine, *state]:
        here, there = (getattr(side.get(name), "shape", None) for side in (mine, state))
        if name not in mine or name not in state or here != there:
            raise InputError(
                f"checkpoint: belongs to another model ('{name}': the model has {_shape(here)}, the file "
                f"{_shape(there)}); pass the same architecture, or another path"
            )


def infinite_from_the_start(model: nn.Module) -> frozenset[str]:
    """The plain names of buffers and frozen parameters that hold a NaN or an infinity, before training.

    They are meant to: attention masks hold −inf.
    """
    trainable = {clean_name(n) for n, p in unwrap(model).named_parameters() if p.requires_grad}
    named = {n: v for n, v in _floating(model).items() if n not in trainable}
    if all_finite(named.values()):
        return frozenset()
    return frozenset(name for name, value in named.items() if not all_finite([value]))


def first_bad_name(model: nn.Module, ignored: Collection[str] = ()) -> str | None:
    """The plain name of the first parameter or buffer that holds a NaN or an infinity; None for none.

    Args:
        model: looked at as it is.
        ignored: plain names that are not looked at, such as those of `infinite_from_the_start`.
    """
    named = [(name, value) for name, value in _floating(model).items() if name not in ignored]
    index = None if all_finite(v for _, v in named) else first_non_finite([v for _, v in named])
    return None if index is None else named[index][0]


def _floating(model: nn.Module) -> dict[str, Tensor]:
    state = model_state(model)
    return {n: v for n, v in state.items() if isinstance(v, Tensor) and v.is_floating_point()}


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else str(tuple(shape))
