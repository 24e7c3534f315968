"""Processes that talk over gloo, for tests: bounded, and from a server that has imported torch already.

A worker is a function (rank, size, folder) at the top level of a module. It runs in `size` processes with a
process group; what it returns comes back in rank order, and what it raises fails the test with its traceback.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

Worker = Callable[[int, int, Path], Any]

# Importing torch takes seconds; forking from a process that has done so takes none.
_PRELOADED = [
    "torch",
    "torch.distributed.tensor",
    "torch.distributed.checkpoint.state_dict",
    "torch._dynamo",  # what the first optimizer imports
    "pytest",
    "swag.distributed",
    "swag.ensemble",
    "tests.checks",  # and scipy
    "tests.distributed_models",
]


def run(worker: Worker, size: int, folder: Path, *, timeout: float = 120, patience: float = 60) -> list[Any]:
    """What each of `size` processes returned.

    Args:
        worker: what they do.
        size: how many.
        folder: they share it.
        timeout: seconds until they are ended and the test fails.
        patience: seconds, the process group's own timeout.
    """
    return run_each(worker, range(size), size, folder, timeout=timeout, patience=patience)


def run_each(
    worker: Worker, ranks: range, size: int, folder: Path, *, timeout: float = 120, patience: float = 60
) -> list[Any]:
    """As `run`, of a group in which some ranks may never come."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    store = folder / f"store-{uuid.uuid4().hex}"
    started, pipes = [], []
    for rank in ranks:
        mine, theirs = context.Pipe()
        process = context.Process(
            target=_main, args=(worker, rank, size, folder, store, patience, theirs), daemon=True
        )
        process.start()
        theirs.close()
        started.append(process)
        pipes.append(mine)
    try:
        return _answers(pipes, time.monotonic() + timeout)
    except BaseException:
        for process in started:
            process.kill()
        raise
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()


def _answers(pipes: list[Connection], deadline: float) -> list[Any]:
    found: dict[int, Any] = {}
    while len(found) < len(pipes):
        open_pipes = [pipe for index, pipe in enumerate(pipes) if index not in found]
        ready = wait(open_pipes, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"{len(open_pipes)} of {len(pipes)} processes did not end in time")
        for pipe in ready:
            index = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                ok, answer = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                raise AssertionError(f"process {index} died without an answer") from None
            if not ok:
                # The others often fail because of it; the first one's trace is the one to read.
                raise AssertionError(f"process {index} failed:\n{answer}")
            found[index] = answer
    return [found[index] for index in range(len(pipes))]


def _main(
    worker: Worker, rank: int, size: int, folder: Path, store: Path, patience: float, pipe: Connection
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=patience),
        )
        answer = (True, worker(rank, size, folder))
    except BaseException:
        answer = (False, traceback.format_exc())
    pipe.send(answer)
    # One that is gone early makes the others fail: all wait until the last has answered.
    pipe.poll(timeout=None)
    os._exit(0)
