"""Class probabilities as they come in: shape, dtype, and what to say of rows that are no distributions.

Their contents are checked inside the sweep (sweep.py), which reads them anyway.
"""

import math
from typing import Any

import torch

from swag.errors import InputError
from swag.metrics.inputs import FULL_TYPES, as_tensor


def sum_tolerance(dtype: torch.dtype) -> float:
    """How far a row of probabilities may sum from 1: 1e-3, and 1e-2 for half types."""
    return 1e-3 if dtype in FULL_TYPES else 1e-2


def as_probs(probs: Any, name: str = "probs", dims: int = 2) -> torch.Tensor:
    """Shape and dtype of class probabilities, not yet their contents.

    Args:
        probs: (N, C) floating point, or (S, N, C) where `dims` is 3.
        name: the argument's name, for the error.
        dims: how many dimensions it must have.

    Raises:
        InputError: the shape or the dtype is another, or it is empty.
    """
    tensor = as_tensor(name, probs)
    shape, wanted = tuple(tensor.shape), "(N, C)" if dims == 2 else "(S, N, C)"
    if tensor.dim() != dims:
        hint = ""
        if dims == 2 and tensor.dim() == 1:
            hint = "; for two classes stack them: torch.stack([1 - p, p], dim=1)"
        elif dims == 2 and tensor.dim() == 3:
            hint = "; average the members first: probs.mean(0)"
        elif dims == 3 and tensor.dim() == 2:
            hint = "; stack the members' probabilities: torch.stack(list_of_probs)"
        raise InputError(f"{name} has shape {shape}, expected {wanted}{hint}")
    if not tensor.is_floating_point():
        raise InputError(
            f"{name} has dtype {tensor.dtype}, expected floating point; convert it: {name}.float()"
        )
    if tensor.numel() == 0:
        raise InputError(f"{name} is empty: its shape is {shape}; give at least one row and one class")
    return tensor


def explain_rows(name: str, probs: torch.Tensor) -> InputError:
    """The error for rows that are not probabilities: which is the first, what it holds, what to do.

    Args:
        name: the argument's name.
        probs: (N, C), of which at least one row is wrong.

    Returns:
        The error, to be raised.
    """
    tolerance = sum_tolerance(probs.dtype)
    for start in range(0, len(probs), 65536):
        part = probs[start : start + 65536].double()
        sums = part.sum(1)
        bad = (part < 0).any(1) | ~((sums - 1).abs() <= tolerance)
        if not bool(bad.any()):
            continue
        index = int(bad.int().argmax())
        row, total, where = part[index], float(sums[index]), f"{name} row {start + index}"
        if math.isnan(total) or math.isinf(total):
            return InputError(
                f"{where} holds NaN or infinity; leave such rows out, or find where they come from"
            )
        lowest = float(row.amin())
        if lowest < 0 and float(row.amax()) <= 0 and abs(float(row.exp().sum()) - 1) <= 1e-2:
            return InputError(
                f"{where} holds {lowest:.4g}; these look like log-probabilities? apply exp first"
            )
        if lowest < 0:
            return InputError(f"{where} holds {lowest:.4g}; these look like logits? apply softmax first")
        if abs(total - 100) <= 1:
            return InputError(
                f"{where} sums to {total:.6g}; these look like percentages? divide by 100 first"
            )
        return InputError(f"{where} sums to {total:.6g}, not 1; these look like logits? apply softmax first")
    return InputError(
        f"{name} has a row that does not sum to 1 within {tolerance:g}; "
        "normalise it: p / p.sum(1, keepdim=True)"
    )
