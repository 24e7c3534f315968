"""What is minimised: how a batch becomes one number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.batches import Forward, device_of, feed
from swag.batchnorm.layers import eval_mode
from swag.errors import InputError

Loss = Callable[[Any, Any], Tensor]
Target = Callable[[Any], Any]


@final
@dataclass(frozen=True)
class Objective:
    """loss(forward(model, batch), target(batch)): the mean over a batch's rows.

    Args:
        loss: loss(outputs, targets) → one number, a mean over rows.
        forward: forward(model, batch) → outputs.
        target: target(batch) → targets, which are moved to the model's device.
        autocast: the dtype of `torch.autocast` around both; None for the model's own precision.
    """

    loss: Loss
    forward: Forward = feed
    target: Target = lambda batch: second(batch)
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "forward", "target"):
            given = getattr(self, name)
            if isinstance(given, type) and issubclass(given, nn.Module):
                raise InputError(
                    f"{name}: got the class {given.__name__}; pass an instance, {given.__name__}()"
                )
            if not callable(getattr(self, name)):
                raise InputError(
                    f"{name}: got a {type(getattr(self, name)).__name__}; pass a function, such as "
                    "F.cross_entropy for loss"
                )
        if self.autocast is not None and not isinstance(self.autocast, torch.dtype):
            raise InputError(
                f"autocast: got {self.autocast!r}; pass a dtype, such as torch.bfloat16, or None"
            )

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of one batch, with its graph.

        Raises:
            InputError: the loss gave something else than one number.
        """
        device = device_of(model)
        with torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None):
            value = self.loss(self.forward(model, batch), moved(self.target(batch), device))
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"loss: gave {came}, not one number; pass a mean over rows, as F.cross_entropy is"
            )
        return value.reshape(())

    @torch.no_grad()
    def mean_over(self, model: nn.Module, loader: Iterable[Any]) -> float:
        """The mean loss over a loader's rows, in eval mode; modes are afterwards as they were."""
        total, rows = 0.0, 0
        with eval_mode(model):
            for batch in loader:
                n = n_rows(batch)
                total += float(self(model, batch)) * n
                rows += n
        if rows == 0:
            raise InputError("validation: gave no rows; pass a loader with at least one batch")
        return total / rows


def second(batch: Any) -> Any:
    """The second element of a tuple or list, "labels" of a dict.

    Raises:
        InputError: the batch is none of these.
    """
    if isinstance(batch, Mapping) and "labels" in batch:
        return batch["labels"]
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[1]
    raise InputError(
        f"batch: a {type(batch).__name__} shows no targets; pass target=lambda batch: ... that returns them"
    )


def n_rows(batch: Any) -> int:
    """The rows of a batch: the first side of its first tensor; 1 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((n_rows(part) for part in parts if isinstance(part, Tensor)), 1)


def moved(value: Any, device: torch.device) -> Any:
    """Tensors, in tuples, lists and dicts too, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: moved(part, device) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(moved(part, device) for part in value)
    return value
