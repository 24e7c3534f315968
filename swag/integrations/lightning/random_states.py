"""The random generators in the checkpoint, so that a resumed run shuffles and drops out as it would have."""

from __future__ import annotations

import logging
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from swag.training.random_states import put_random_states_, random_states

_log = logging.getLogger(__name__)


@final
class RandomStates(Callback):
    """Saves torch's, NumPy's and Python's random states in every checkpoint, and goes on from them.

    Lightning does not: after `fit(ckpt_path=…)` a shuffling loader and dropout draw other numbers than the
    run that was interrupted would have drawn. With this callback a run resumed from an epoch's end is the
    same bit for bit. From the middle of an epoch it takes a loader that remembers its place, too.

    For one process: with several ranks nothing is put back, and a warning is logged, since the checkpoint
    has the first one's states alone.
    """

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._alone = True
        self._loaded: dict[str, Any] | None = None
        self._begun = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Notes whose states there are."""
        self._device, self._alone = trainer.strategy.root_device, trainer.world_size == 1
        self._loaded, self._begun = None, False

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return random_states(self._device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the states until training begins."""
        self._loaded = state_dict
        if self._begun:  # strategies that restore after their setup
            self._put_back()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the states back; what follows before the first batch is what an uninterrupted run does."""
        self._begun = True
        self._put_back()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From here on the run is under way."""
        self._loaded = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts them back once more where a resumed run only had the end of an epoch to go through.

        That is a checkpoint written after validation: Lightning has opened the training loader for the epoch
        that is over, which drew from the generators.
        """
        self._put_back()

    def _put_back(self) -> None:
        if self._loaded is None:
            return
        if self._alone:
            put_random_states_(self._loaded, self._device)
        else:
            _log.warning("random states are kept for one process alone; with several none was put back")
            self._loaded = None
