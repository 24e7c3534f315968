"""What a calibrator is given: probabilities, or a predictive that holds them."""

from typing import Any

import torch

from swag.errors import InputError
from swag.metrics.inputs import FULL_TYPES, as_labels, like, working
from swag.metrics.sweep import check_probs


def probs_of(given: Any, name: str = "probs") -> torch.Tensor:
    """Probabilities (N, C), every row checked, float32 or float64; rows of half types are made to sum to 1.

    Args:
        given: (N, C) tensor or array, or a predictive with the attribute `probs`.
        name: the argument's name, for the error.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.
    """
    probs = check_probs(getattr(given, "probs", given), name)
    if probs.dtype in FULL_TYPES:
        return probs
    probs = probs.float()
    return probs / probs.sum(1, keepdim=True)


def log_probs_of(given: Any, name: str = "probs") -> torch.Tensor:
    """Their logarithms, float64, −∞ where a probability is 0; a predictive's own do not underflow."""
    if isinstance(getattr(given, "log_probs", None), torch.Tensor):
        probs_of(given, name)
        return given.log_probs.detach().double()
    return probs_of(given, name).double().log()


def labels_of(labels: Any, like_rows: torch.Tensor) -> torch.Tensor:
    """Class indices (N,) int64 for rows (N, C)."""
    return as_labels(labels, len(like_rows), like_rows.shape[1], like_rows.device)


def same_classes(probs: torch.Tensor, n_classes: int) -> None:
    """Refuses rows of another number of classes than the calibrator was fitted on."""
    if probs.shape[1] != n_classes:
        raise InputError(
            f"probs has {probs.shape[1]} classes but the calibrator was fitted on {n_classes}; "
            "fit it on rows like these"
        )


def returned(result: torch.Tensor, given: Any) -> Any:
    """Calibrated probabilities in the precision and kind that came: a numpy array for one, else a tensor."""
    source = getattr(given, "probs", given)
    if isinstance(source, torch.Tensor):
        return result.to(working(source[:0]).dtype)
    return like(result, source)


def normalised(weights: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """Rows divided by their sums; a row of zeros becomes the fallback's."""
    sums = weights.sum(1, keepdim=True)
    return torch.where(sums > 0, weights / sums.clamp_min(torch.finfo(weights.dtype).tiny), fallback)
