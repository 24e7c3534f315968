"""The loss of an epoch, row by row, and the stop where it is no longer a number."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from swag.errors import StateError

# On an accelerator, reading a value makes the host wait for it: values are read so many at a time.
_TOGETHER = 64


@final
class DivergedError(StateError):
    """The loss, or a weight, became NaN or infinite.

    Attributes:
        epoch: of the bad step, from 1.
        step: the optimizer step that was being prepared, from 1, over all epochs.
        loss: its value; NaN where the loss was finite and the weights after the step are not.
    """

    def __init__(self, message: str, *, epoch: int, step: int, loss: float) -> None:
        super().__init__(message)
        self.epoch, self.step, self.loss = epoch, step, loss


@final
class EpochLosses:
    """The mean loss over the rows of one epoch; stops at the first value that is not finite.

    On the CPU a value is looked at before its gradient is taken, so the weights are still good when the error
    comes. On an accelerator values are looked at 64 at a time, without a stall at each step, and whenever
    `settle` is called.

    Args:
        epoch: from 1, for the error.
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._pending: list[tuple[int, Tensor, int]] = []
        self._sum, self._rows = 0.0, 0

    def add(self, step: int, value: Tensor, rows: int) -> None:
        """Takes the mean loss over `rows` rows that go into step `step`.

        Raises:
            DivergedError: this value, or one before it that had not been looked at, is not finite.
        """
        self._pending.append((step, value.detach(), rows))
        if value.device.type == "cpu" or len(self._pending) >= _TOGETHER:
            self.settle()

    def settle(self) -> None:
        """Looks at the values that are still waiting."""
        if not self._pending:
            return
        values = torch.stack([value.reshape(()) for _, value, _ in self._pending]).tolist()
        for (step, _, rows), value in zip(self._pending, values, strict=True):
            if not math.isfinite(value):
                raise DivergedError(
                    f"loss: is {value} at step {step} (epoch {self._epoch}); lower the rate, clip the "
                    "gradients (clip_norm=1.0), or look for bad values in the data",
                    epoch=self._epoch,
                    step=step,
                    loss=value,
                )
            self._sum += value * rows
            self._rows += rows
        self._pending.clear()

    @property
    def n_rows(self) -> int:
        """The rows that were looked at."""
        return self._rows

    @property
    def mean(self) -> float:
        """Mean over the rows of the epoch so far."""
        self.settle()
        return self._sum / self._rows if self._rows else math.nan
