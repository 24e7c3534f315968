"""One SWAP run with everything random that there is, for simulated workers and, as a script, for ranks.

torchrun --nproc-per-node=3 -m tests.swap_on_ranks FOLDER
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from swag import InputError
from swag.training.swap_phases import LargeBatch, SmallBatch
from swag.training.swap_recipe import swap
from swag.training.swap_result import SwapResult
from swag.training.swap_workers import Workers
from tests.training_cases import N_FEATURES, network, task

SEED = 7


class Noisy(Dataset):
    """Rows with noise from torch's, Python's and NumPy's global generators."""

    def __init__(self) -> None:
        self.x, self.y = task(90)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * random.gauss(0, 1) + 0.1 * np.random.standard_normal()
        return self.x[index] + noise + 0.1 * torch.randn(N_FEATURES), self.y[index]


def run(workers: int | Workers, model: nn.Module | None = None, **changes: Any) -> SwapResult:
    given: dict[str, Any] = {
        "large": RUN_LARGE,
        "small": SmallBatch(8, epochs=3, optimizer=sgd),
        "seed": SEED,
        "clip_norm": 2.0,
        **changes,
    }
    return swap(
        network(dropout=0.3) if model is None else model, Noisy(), F.cross_entropy, workers=workers, **given
    )


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


RUN_LARGE = LargeBatch(32, max_epochs=6, target_accuracy=0.7, optimizer=sgd)


def main(folder: Path) -> None:
    from swag.distributed.workers import joined

    torch.set_num_threads(1)
    with joined(timeout=120) as ranks:
        (rank,) = ranks.mine
        said = []
        # Each differs on one rank alone: an error on all, and nobody waits for what does not come.
        for changes in (
            {"seed": SEED + (rank == 1)},
            {"model": nn.Linear(N_FEATURES, 3, bias=rank != 1)},
            {"clip_norm": -1.0 if rank == 1 else 1.0},
            {"clip_norm": 1.0 + (rank == 1)},
            {"large": LargeBatch(32, 6, 0.7, optimizer=lambda p: torch.optim.SGD(p, lr=0.1 + rank))},
            {"checkpoint_folder": folder / "one" if rank == 1 else None},
        ):
            try:
                run(ranks, **changes)
            except InputError as error:
                said.append(str(error))
        torch.manual_seed(100 + rank)
        before = torch.get_rng_state()
        # Rank 0's weights are everyone's; what was begun in the folder goes on.
        folder_there = folder / "checkpoints"
        result = run(ranks, network(seed=rank, dropout=0.3), checkpoint_folder=folder_there)
        said.append(str(torch.equal(torch.get_rng_state(), before)))
        state = {name: value.contiguous() for name, value in result.model.state_dict().items()}
        save_file({**state, "workers": result.workers.samples}, folder / f"{rank}.safetensors")
        rest = {"said": said, "history": result.history, "seconds": result.seconds}
        (folder / f"{rank}.json").write_text(json.dumps(rest))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
