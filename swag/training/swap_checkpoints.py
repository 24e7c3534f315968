"""Where SWAP goes on after a crash: after every epoch of phase 1, and within every worker's phase 2."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.errors import FileError
from swag.training.checkpoint_files import CheckpointFile
from swag.training.model_state import check_model_state, load_model_state_, model_state
from swag.training.resuming import parts_of, put_parts_
from swag.training.steps import Steps
from swag.training.swap_workers import Workers

_log = logging.getLogger(__name__)
# An epoch's files are removed when all have the next, so a worker has two at most; more are another run's.
_KEPT = 4


@final
class SwapFiles:
    """The files of a folder, a few for each worker.

    `worker-2-large-7.pt` is worker 2 after epoch 7 of phase 1. An epoch's files are removed when all workers
    have written the next ones: so the last epoch that all of them have is there at any moment, whichever
    process was killed first. `worker-2-small-1f0c63a9.pt` is where it is in phase 2; the digits stand for
    the weights and the settings that it began with, so that no file of another phase 1 is taken for it.

    Args:
        folder: made where missing, by `resume_`; None to write nothing.
        workers: who they are; each process writes the files of its own.
        settings: what a run must share with the one it resumes.
        small: what phase 2 is told; other settings begin it anew.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        workers: Workers,
        settings: Mapping[str, Any],
        small: Mapping[str, Any],
    ) -> None:
        self._folder = None if folder is None else Path(folder)
        self._workers, self._settings, self._small = workers, dict(settings), dict(small)

    def small(self, worker: int, start: nn.Module) -> Path | None:
        """Where `train` keeps a worker's phase 2, which begins with `start`."""
        if self._folder is None:
            return None
        began = _digest(model_state(start), [self._settings, self._small])
        return self._folder / f"worker-{worker}-small-{began[:8]}.pt"

    def resume_(
        self, replicas: Sequence[nn.Module], loaders: Sequence[Any], steps: Steps
    ) -> list[dict[str, Any]]:
        """Puts back the last epoch of phase 1 that all workers have.

        Returns:
            The history until there; empty where there is nothing to resume.

        Raises:
            FileError: the folder cannot be made or read, or files are damaged or lost.
            InputError: the files are another run's.
        """
        if self._folder is None:
            return []
        rows = self._workers.alike("checkpoint_folder", self._found, lambda _: [])
        every = self._workers.gathered(rows).tolist()
        common = set.intersection(*(set(row) for row in every)) - {0, -1}
        if not common:
            # Nothing at all, or killed while the first epoch was written.
            if max(map(max, every)) <= 1 and not any(-1 in row for row in every):
                return []
            raise FileError(
                f"{self._folder}: the workers have no epoch in common, so some files are lost; put them "
                "back, or pass another checkpoint_folder (workers on several machines need one that they "
                "share, or to be where they were)"
            )
        epoch = max(common)
        state = self._workers.alike(
            "checkpoint_folder",
            lambda: self._read(epoch, replicas, loaders, steps),
            # Each process steps a copy of its own: they must be copies of one network.
            lambda state: [_digest(dict(replicas[0].named_parameters()), state["history"])],
        )
        _log.info("large batch: going on after epoch %d, from %s", epoch, self._folder)
        return list(state["history"])

    def write(
        self,
        replicas: Sequence[nn.Module],
        loaders: Sequence[Any],
        steps: Steps,
        history: list[dict[str, Any]],
    ) -> None:
        """Keeps an epoch of phase 1, and removes the one before."""
        if self._folder is None:
            return
        epoch = history[-1]["epoch"]

        def write() -> None:
            for worker, replica, loader in zip(self._workers.mine, replicas, loaders, strict=True):
                self._file(worker, epoch).write(
                    {
                        "epoch": epoch,
                        "step": history[-1]["step"],
                        "model": model_state(replica),
                        "history": history,
                        "store": {},
                        "random": {},  # every epoch begins from (seed, worker, epoch)
                        "callbacks": [],
                        **parts_of(steps, [loader]),
                    }
                )

        self._workers.alike("checkpoint_folder", write, lambda _: [])
        for worker in self._workers.mine:
            for older in self._epochs(worker):
                if older < epoch:
                    self._file(worker, older).path.unlink(missing_ok=True)

    def _found(self) -> Tensor:
        """For each worker here its last epochs, 0 for none, and −1 for files of phase 2.

        Raises:
            FileError, InputError: as `CheckpointFile.read` of the newest.
        """
        assert self._folder is not None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = {worker: self._epochs(worker)[-_KEPT:] for worker in self._workers.mine}
            alone = {worker: any(self._folder.glob(f"worker-{worker}-small-*.pt")) for worker in found}
        except OSError as error:
            raise FileError(
                f"{self._folder}: cannot be made or read ({error.strerror}); pass another checkpoint_folder"
            ) from error
        for worker, epochs in found.items():
            if epochs:
                self._file(worker, epochs[-1]).read()
        rows = [
            [*epochs, *[0] * (_KEPT - len(epochs)), -1 if alone[worker] else 0]
            for worker, epochs in found.items()
        ]
        return torch.tensor(rows, device="cpu")

    def _read(
        self, epoch: int, replicas: Sequence[nn.Module], loaders: Sequence[Any], steps: Steps
    ) -> dict[str, Any]:
        states = []
        for worker, replica in zip(self._workers.mine, replicas, strict=True):
            state = self._file(worker, epoch).read()
            if state is None:
                raise FileError(f"{self._file(worker, epoch).path}: has just been removed; run this once")
            check_model_state(replica, state["model"])
            states.append(state)
        for replica, loader, state in zip(replicas, loaders, states, strict=True):
            load_model_state_(replica, state["model"])
            put_parts_(steps, [loader], state)
        return states[0]

    def _epochs(self, worker: int) -> list[int]:
        assert self._folder is not None
        named = (re.fullmatch(rf"worker-{worker}-large-(\d+)\.pt", p.name) for p in self._folder.iterdir())
        return sorted(int(match.group(1)) for match in named if match)

    def _file(self, worker: int, epoch: int) -> CheckpointFile:
        assert self._folder is not None
        return CheckpointFile(self._folder / f"worker-{worker}-large-{epoch}.pt", self._settings)


def settings_of_phase(phase: Any, optimizer: str) -> dict[str, Any]:
    """What a phase is told, as plain data: batch size, lengths, optimizer and schedule.

    Args:
        phase: a LargeBatch or a SmallBatch.
        optimizer: the optimizer in words, with its rates.
    """
    numbers = {
        name: float(value) if isinstance(value, float) else value
        for name, value in vars(phase).items()
        if name not in ("optimizer", "schedule")
    }
    schedule = getattr(phase.schedule, "__qualname__", type(phase.schedule).__name__)
    return {**numbers, "optimizer": " ".join(optimizer.split()), "schedule": schedule}


def _digest(tensors: Mapping[str, Any], rest: object) -> str:
    """Hexadecimal digits that stand for tensors and what else decides."""
    found = hashlib.sha256(repr(rest).encode())
    for name, value in tensors.items():
        found.update(name.encode())
        if isinstance(value, Tensor):
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
