"""What `swag.multi` is given in the tests: networks of a seed, and a worker that is killed once.

Every epoch is written down in the folder that SWAG_TEST_LOG names. Where that holds a file "kill-SEED-EPOCH",
the process that trains that seed removes the file and kills itself after that epoch, before its checkpoint.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional as F

from swag.training import Epoch
from tests.training_cases import N_CLASSES, N_FEATURES, shuffled

SETTINGS: dict[str, Any] = {"epochs": 6, "swa_start": 0.5, "rank": 3}


def make_model(seed: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(N_FEATURES, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, N_CLASSES)
    )


def make_run(seed: int) -> dict[str, Any]:
    """The same members as train_multi's of `make_model`."""
    return {
        "model": make_model(seed),
        "train_loader": shuffled(),
        "loss": F.cross_entropy,
        "callbacks": [written_down(seed)],
        **SETTINGS,
    }


def written_down(seed: int) -> Callable[[Epoch], None]:
    folder = Path(os.environ["SWAG_TEST_LOG"])

    def write(epoch: Epoch) -> None:
        with open(folder / f"epochs-{seed}", "a") as file:
            file.write(f"{epoch.number} ")
        order = folder / f"kill-{seed}-{epoch.number}"
        if order.exists():
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    return write
