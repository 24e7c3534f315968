"""Where SWAP goes on after a crash: after every epoch of phase 1, and within every worker's phase 2."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from swag.errors import FileError
from swag.training.checkpoint_files import CheckpointFile
from swag.training.model_state import check_model_state, load_model_state_, model_state
from swag.training.resuming import parts_of, put_parts_
from swag.training.steps import Steps
from swag.training.swap_workers import Workers


@final
class SwapFiles:
    """The files of a folder, a few for each worker.

    `worker-2-large-7.pt` is worker 2 after epoch 7 of phase 1, `worker-2-small.pt` where it is in phase 2.
    An epoch's files are removed when all workers have written the next ones: so the last epoch that all of
    them have is there at any moment, whichever process was killed first.

    Args:
        folder: made where missing; None to write nothing.
        workers: who they are; each process writes the files of its own.
        settings: what a run must share with the one it resumes.

    Raises:
        FileError: the folder cannot be made.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, workers: Workers, settings: Mapping[str, Any]
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self._workers, self._settings = workers, dict(settings)
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(
                    f"{self.folder}: cannot be made ({error.strerror}); pass a writable checkpoint_folder"
                ) from error

    def small(self, worker: int) -> Path | None:
        """Where `train` keeps a worker's phase 2."""
        return None if self.folder is None else self.folder / f"worker-{worker}-small.pt"

    def resume_(self, replicas: Sequence[nn.Module], steps: Steps) -> list[dict[str, Any]]:
        """Puts back the last epoch of phase 1 that all workers have.

        Returns:
            The history until there; empty where there is nothing to resume.

        Raises:
            FileError, InputError: as `CheckpointFile.read`; the run is another one.
        """
        if self.folder is None:
            return []
        last = torch.tensor(
            [[max(self._epochs(worker), default=0)] for worker in self._workers.mine], device="cpu"
        )
        epoch = int(self._workers.gathered(last).min())
        if epoch == 0:
            return []

        def read() -> dict[str, Any]:
            states = []
            for worker, replica in zip(self._workers.mine, replicas, strict=True):
                state = self._file(worker, epoch).read()
                if state is None:
                    raise FileError(
                        f"{self._file(worker, epoch).path}: is missing, others are at epoch {epoch}; delete "
                        "the folder and begin again"
                    )
                check_model_state(replica, state["model"])
                states.append(state)
            for replica, state in zip(replicas, states, strict=True):
                load_model_state_(replica, state["model"])
            put_parts_(steps, [], states[0])
            return states[0]

        state = self._workers.alike("checkpoint_folder", read, lambda _: [])
        return list(state["history"])

    def write(self, replicas: Sequence[nn.Module], steps: Steps, history: list[dict[str, Any]]) -> None:
        """Keeps an epoch of phase 1, and removes the one before."""
        if self.folder is None:
            return
        epoch = history[-1]["epoch"]

        def write() -> None:
            for worker, replica in zip(self._workers.mine, replicas, strict=True):
                self._file(worker, epoch).write(
                    {
                        "epoch": epoch,
                        "step": history[-1]["step"],
                        "model": model_state(replica),
                        "history": history,
                        "store": {},
                        "random": {},  # every epoch begins from (seed, worker, epoch)
                        "callbacks": [],
                        **parts_of(steps, []),
                    }
                )

        self._workers.alike("checkpoint_folder", write, lambda _: [])
        for worker in self._workers.mine:
            for older in self._epochs(worker):
                if older < epoch:
                    self._file(worker, older).path.unlink(missing_ok=True)

    def _epochs(self, worker: int) -> list[int]:
        assert self.folder is not None
        named = (re.fullmatch(rf"worker-{worker}-large-(\d+)\.pt", p.name) for p in self.folder.iterdir())
        return [int(match.group(1)) for match in named if match]

    def _file(self, worker: int, epoch: int) -> CheckpointFile:
        assert self.folder is not None
        return CheckpointFile(self.folder / f"worker-{worker}-large-{epoch}.pt", self._settings)
