"""Nested tensors as NumPy arrays and back, so that pickle, joblib and skops see plain data alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_MARK = "tensor"


def plain(value: Any) -> Any:
    """Dicts, lists and tuples with each tensor as {"tensor": array}.

    >>> plain({"a": [torch.ones(2), 1.5]})
    {'a': [{'tensor': array([1., 1.], dtype=float32)}, 1.5]}
    """
    if isinstance(value, Tensor):
        return {_MARK: np.array(value.detach().cpu().numpy())}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


def tensors(value: Any) -> Any:
    """The opposite of `plain`; every tensor has memory of its own."""
    if isinstance(value, dict):
        if value.keys() == {_MARK}:
            return torch.from_numpy(np.array(value[_MARK]))
        return {key: tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(tensors(item) for item in value)
    return value
