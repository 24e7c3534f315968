"""What comes in: arrays become tensors without a copy, and what cannot be scored is refused.

Labels, vectors, variances, counts and levels; each check names the argument, what came, and the fix. Class
probabilities: distributions.py.
"""

import warnings
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from swag.errors import InputError

Values: TypeAlias = torch.Tensor | ArrayLike
Array = TypeVar("Array", torch.Tensor, np.ndarray)

FULL_TYPES = (torch.float32, torch.float64)  # all others, half types first, are worked on in float32
INTEGER_TYPES = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64
)  # fmt: skip


def as_tensor(name: str, values: Any) -> torch.Tensor:
    """The values as a detached tensor that shares their memory where it can.

    Args:
        name: the argument's name, for the error.
        values: a tensor, a numpy array, or what numpy turns into a numeric array.

    Raises:
        InputError: it is not an array of numbers.
    """
    if isinstance(values, torch.Tensor):
        return values.detach().cpu() if values.device.type == "mps" else values.detach()  # mps has no float64
    array = np.asarray(values)
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"{name} is {type(values).__name__} of dtype {array.dtype}; give a tensor or an array of numbers"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing here writes into its input
        return torch.from_numpy(array)


def like(result: torch.Tensor, reference: Array) -> Array:
    """The result as the kind of thing that came in: a numpy array for anything but a tensor."""
    if isinstance(reference, torch.Tensor):
        return result
    return result.cpu().numpy()


def working(values: torch.Tensor) -> torch.Tensor:
    """The values in the precision they are compared in: float32, or float64 where they came so."""
    return values if values.dtype in FULL_TYPES else values.float()


def as_labels(labels: Any, n_rows: int, n_classes: int, device: torch.device) -> torch.Tensor:
    """Class indices (N,) as int64 on the device of the probabilities.

    Args:
        labels: (N,) integers in 0..C−1.
        n_rows: N.
        n_classes: C.
        device: where the probabilities are.

    Raises:
        InputError: another dtype, shape or length, or an index out of range.
    """
    tensor = as_tensor("labels", labels)
    if tensor.dim() != 1:
        hint = "; for one-hot rows take labels.argmax(1)" if tensor.dim() == 2 else ""
        raise InputError(f"labels has shape {tuple(tensor.shape)}, expected ({n_rows},){hint}")
    if tensor.dtype not in INTEGER_TYPES:
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise InputError(
                f"labels holds NaN (dtype {tensor.dtype}); leave those rows out, give integer class indices"
            )
        raise InputError(
            f"labels has dtype {tensor.dtype}, expected integer class indices; convert: labels.long()"
        )
    if len(tensor) != n_rows:
        raise InputError(
            f"labels has {len(tensor)} rows but probs has {n_rows}; give one label for every row"
        )
    tensor = tensor.to(device=device, dtype=torch.int64)
    lowest, highest = (int(v) for v in torch.aminmax(tensor))
    if lowest < 0 or highest >= n_classes:
        row = int(((tensor < 0) | (tensor >= n_classes)).int().argmax())
        raise InputError(
            f"labels row {row} is {int(tensor[row])}, but probs has {n_classes} classes; "
            f"labels must be 0..{n_classes - 1}"
        )
    return tensor


def as_vector(name: str, values: Any) -> torch.Tensor:
    """Finite numbers (N,) in float64, N ≥ 1.

    Raises:
        InputError: another shape, no rows, or a value that is NaN or infinite.
    """
    tensor = as_tensor(name, values)
    if tensor.dim() != 1:
        hint = (
            f"; drop the other dimension: {name}.squeeze(-1)"
            if tensor.dim() == 2 and tensor.shape[1] == 1
            else ""
        )
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected (N,){hint}")
    return as_finite(name, tensor)


def as_finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64; refused where it is empty, or holds NaN or infinity."""
    if tensor.numel() == 0:
        raise InputError(f"{name} is empty: its shape is {tuple(tensor.shape)}; give at least one row")
    tensor = tensor.double()
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        where = [int(i) for i in (~finite).nonzero()[0]]
        place = f"row {where[0]}" if len(where) == 1 else f"position {tuple(where)}"
        raise InputError(f"{name} {place} is {float(tensor[tuple(where)])}; every value must be finite")
    return tensor


def same_length(first_name: str, first: torch.Tensor, **others: torch.Tensor) -> None:
    """Refuses tensors whose shapes differ, naming both: a (N,) against a (N, 1) would broadcast silently."""
    for name, tensor in others.items():
        if tensor.shape != first.shape:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)} but {first_name} has {tuple(first.shape)}; "
                "give both the same rows"
            )


def as_variance(variance: Any, name: str = "variance") -> torch.Tensor:
    """Variances (N,) ≥ 0 in float64 (not standard deviations)."""
    tensor = as_vector(name, variance)
    return at_least_zero(name, tensor)


def at_least_zero(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Refuses negative values."""
    if float(tensor.amin()) < 0:
        where = tuple(int(i) for i in (tensor < 0).nonzero()[0])
        place = f"row {where[0]}" if len(where) == 1 else f"position {where}"
        raise InputError(f"{name} {place} is {float(tensor[where]):g}; it must not be negative")
    return tensor


def above_zero(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Refuses values that are 0 or negative: a density needs some width."""
    at_least_zero(name, tensor)
    if float(tensor.amin()) == 0:
        row = int((tensor == 0).nonzero()[0][0])
        raise InputError(
            f"{name} row {row} is 0, so there is no density; add the noise's variance, or a floor, first"
        )
    return tensor


def as_count(name: str, value: int, lowest: int = 1) -> int:
    """A whole number ≥ `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < lowest:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {lowest}")
    return int(value)


def as_level(name: str, value: float) -> float:
    """A probability strictly between 0 and 1 (a fraction, not a percentage)."""
    if not isinstance(value, int | float | np.floating) or not 0 < value < 1:
        hint = (
            f"; as a fraction: {value / 100:g}" if isinstance(value, int | float) and 1 < value < 100 else ""
        )
        raise InputError(f"{name} is {value!r}; give a fraction between 0 and 1, both excluded{hint}")
    return float(value)
