"""Phase 2 of SWAP: one worker by itself, on small batches in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from swag.batches import Forward, device_of
from swag.schedules import cosine
from swag.training.callbacks import Callback
from swag.training.objective import Loss, Target
from swag.training.random_states import lent_to
from swag.training.swap_checkpoints import SwapFiles
from swag.training.swap_phases import SmallBatch
from swag.training.swap_rows import ALONE, Counted, MakeLoader, seed_for, small_batches
from swag.training.trainer import train


@final
@dataclass(frozen=True)
class Alone:
    """What every worker does in phase 2, from its number on; the arguments are `swap`'s."""

    phase: SmallBatch
    loss: Loss
    seed: int
    make_loader: MakeLoader
    autocast: torch.dtype | None
    clip_norm: float | None
    callbacks: Sequence[Callback]
    forward: Forward | None
    target: Target | None
    files: SwapFiles

    def run(self, model: nn.Module, dataset: Any, rows: int, worker: int) -> list[dict[str, Any]]:
        """Trains the model in place; returns `train`'s history.

        Raises:
            DivergedError: as `train`.
        """
        phase, seed = self.phase, seed_for(self.seed, ALONE, worker)
        if not phase.epochs:
            return []
        batches = small_batches(rows, phase.size, seed)
        with lent_to(seed, device_of(model)):
            return train(
                model,
                Counted(self.make_loader(dataset, batches), batches),
                self.loss,
                epochs=phase.epochs,
                swa_start=1,  # the average is taken over the workers, later
                rank=0,
                optimizer=phase.optimizer,
                schedule=phase.schedule or (lambda optimizer: cosine(optimizer, epochs=phase.epochs)),
                autocast=self.autocast,
                clip_norm=self.clip_norm,
                callbacks=self.callbacks,
                checkpoint=self.files.small(worker, model),
                forward=self.forward,
                target=self.target,
            ).history
