"""One step of the optimizer: gradients of a group of batches, clipped, scaled, taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from swag.training.losses import EpochLosses
from swag.training.objective import Objective, n_rows


@final
@dataclass(frozen=True)
class Steps:
    """How the weights move: everything that acts between two batches.

    Attributes:
        optimizer: any that needs no closure.
        schedule: stepped once an epoch, or within `EveryStep`; None for the rates as they are.
        scaler: for float16 on CUDA.
        accumulate: batches in one step; their gradients are averaged over rows.
        clip_norm: the largest norm of a step's gradient; None for no limit.
    """

    optimizer: torch.optim.Optimizer
    schedule: Any = None
    scaler: torch.amp.GradScaler | None = None
    accumulate: int = 1
    clip_norm: float | None = None

    def take(
        self, model: nn.Module, objective: Objective, group: list[Any], losses: EpochLosses, number: int
    ) -> None:
        """Takes step `number` on the mean loss over the rows of a group of batches.

        Raises:
            DivergedError: a loss is not finite; on the CPU the weights are then still those before the step.
        """
        rows = [n_rows(batch) for batch in group]
        self.optimizer.zero_grad(set_to_none=True)
        for batch, n in zip(group, rows, strict=True):
            value = objective(model, batch)
            losses.add(number, value, n)
            share = value if len(group) == 1 else value * (n / sum(rows))
            (share if self.scaler is None else self.scaler.scale(share)).backward()
        if self.clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
