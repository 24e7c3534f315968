"""An estimator's parameters, checked when `fit` is called, as scikit-learn wants it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, final

import torch
from torch import nn

from swag.arguments import part_of, whole
from swag.errors import InputError

_log = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
MakeOptimizer = Callable[..., torch.optim.Optimizer]
MakeModule = Callable[[int, int], nn.Module]


@final
@dataclass(frozen=True)
class Settings:
    """What `settings_of` found in order; the names are the estimators'."""

    module: nn.Module | MakeModule | None
    hidden_layer_sizes: tuple[int, ...]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: MakeOptimizer | None
    start: int
    swa_lr: float
    rank: int
    scale: float | Literal["auto"]
    n_samples: int
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    standardize: bool
    dtype: torch.dtype | None
    device: torch.device
    n_members: int
    n_jobs: int | None

    @property
    def holds_out(self) -> bool:
        """Whether rows are held out in `fit`."""
        return self.early_stopping or self.scale == "auto"


def settings_of(given: dict[str, Any]) -> Settings:
    """Checks the parameters of an estimator.

    Args:
        given: `estimator.get_params(deep=False)`.

    Raises:
        InputError: one that cannot be used; says which.
    """
    epochs, lr = _whole(given, "epochs", 1), _real(given, "lr", above=0)
    share = _real(given, "swa_start")
    if not 0 <= share < 1:
        raise InputError(f"swa_start: got {share!r}; pass a fraction of the epochs, 0 ≤ swa_start < 1")
    start = part_of(share, epochs)
    scale = given["scale"]
    if scale != "auto" and _real(given, "scale") < 0:
        raise InputError(f"scale: got {scale!r}; it multiplies the covariance: pass a number ≥ 0, or 'auto'")
    rank = _whole(given, "rank", 0)
    if rank == 1:
        raise InputError("rank: one deviation has no covariance; pass 2 or more, or 0 for the diagonal alone")
    if scale != 0 and epochs - start < 2:
        raise InputError(
            f"epochs: {epochs} with swa_start={share!r} leave {epochs - start} for averaging, one snapshot "
            "each, and a covariance takes two; train longer, average earlier, or pass scale=0 for SWA"
        )
    n_samples, n_members = _whole(given, "n_samples", 1), _whole(given, "n_members", 1, default=1)
    if n_samples < n_members:
        raise InputError(f"n_samples: got {n_samples} for {n_members} members; pass at least one a member")
    fraction = _real(given, "validation_fraction")
    if not 0 < fraction < 1:
        raise InputError(f"validation_fraction: got {fraction!r}; pass a fraction between 0 and 1")
    n_jobs = given.get("n_jobs")
    if n_jobs is not None and (not _is_whole(n_jobs) or n_jobs == 0):
        raise InputError(f"n_jobs: got {n_jobs!r}; pass None, a number of processes, or -1 for every core")
    return Settings(
        module=_module(given["module"], n_members),
        hidden_layer_sizes=_sizes(given["hidden_layer_sizes"]),
        epochs=epochs,
        batch_size=_whole(given, "batch_size", 1),
        lr=lr,
        weight_decay=_real(given, "weight_decay", least=0),
        optimizer=_optimizer(given["optimizer"]),
        start=start,
        swa_lr=_swa_lr(given, lr, start),
        rank=rank,
        scale="auto" if scale == "auto" else float(scale),
        n_samples=n_samples,
        early_stopping=_truth(given, "early_stopping"),
        validation_fraction=fraction,
        n_iter_no_change=_whole(given, "n_iter_no_change", 1),
        standardize=_truth(given, "standardize"),
        dtype=_dtype(given["dtype"]),
        device=_device(given["device"]),
        n_members=n_members,
        n_jobs=None if n_jobs is None else int(n_jobs),
    )


def device_here(value: Any) -> Any:
    """The `device` that an estimator was fitted on, or "cpu" and a warning where there is none such here."""
    try:
        _device(value)
    except InputError:
        _log.warning("fitted on %r, which is not here: predicts on the CPU; to fit again, set device", value)
        return "cpu"
    return value


def noise_floor(value: Any) -> float:
    """The regressors' parameter of that name, checked."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise InputError(f"noise_floor: got {value!r}; pass a part of y's std between 0 and 1, such as 0.01")
    return float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _whole(given: dict[str, Any], name: str, least: int, *, default: int | None = None) -> int:
    return whole(name, given.get(name, default), least)


def _real(given: dict[str, Any], name: str, *, above: float = -math.inf, least: float = -math.inf) -> float:
    value: Any = given[name]
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{name}: got {value!r}; pass a finite number")
    if not (float(value) > above and float(value) >= least):
        raise InputError(f"{name}: got {value!r}; pass a number {'> 0' if above == 0 else '≥ 0'}")
    return float(value)


def _swa_lr(given: dict[str, Any], lr: float, start: int) -> float:
    """As in `swag.training.train`: half the rate, or the rate itself where averaging begins at once."""
    if given["swa_lr"] is None:
        return lr / 2 if start else lr
    return _real(given, "swa_lr", above=0)


def _truth(given: dict[str, Any], name: str) -> bool:
    value = given[name]
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name}: got {value!r}; pass True or False")
    return bool(value)


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    if not all(_is_whole(size) and size > 0 for size in sizes):
        raise InputError(f"hidden_layer_sizes: got {value!r}; pass widths, such as (100,) or (64, 64)")
    return tuple(int(size) for size in sizes)


def _module(value: Any, n_members: int) -> Any:
    if isinstance(value, nn.Module) and n_members > 1:
        raise InputError(
            "module: got an instance, from whose weights every member would start; pass a class or function "
            "module(n_features, n_outputs), so that each has its own"
        )
    if value is not None and not callable(value):
        raise InputError(
            f"module: got {value!r}; pass a torch.nn.Module, or a class or function of "
            "(n_features, n_outputs)"
        )
    return value


def _optimizer(value: Any) -> MakeOptimizer | None:
    if isinstance(value, torch.optim.Optimizer):
        raise InputError(
            "optimizer: got an instance, which belongs to one network; pass a class or a function of "
            "(parameters, lr=…, weight_decay=…), such as torch.optim.AdamW"
        )
    if value is not None and not callable(value):
        raise InputError(
            f"optimizer: got {value!r}; pass None for Adam, or a class or function of "
            "(parameters, lr=…, weight_decay=…), such as torch.optim.AdamW"
        )
    return value


def _dtype(value: Any) -> torch.dtype | None:
    name = str(value).removeprefix("torch.")
    if value is not None and name not in _DTYPES:
        raise InputError(f"dtype: got {value!r}; pass 'float32', 'float64', or None for that of X")
    return None if value is None else _DTYPES[name]


def _device(value: Any) -> torch.device:
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device: {value!r} cannot be used here ({error}); pass 'cpu'") from error
    return device
