"""Starts torchrun as it should be started: workers that die are started again, and can find each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral

from swag.errors import InputError

# Without it, workers that are started again find the store of the attempt before, with dead addresses in it,
# and gloo hangs or fails in most restarts (torch 2.13).
RELIABLE_RESTARTS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def is_worker() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def command(words: Sequence[str], *, workers: int, max_restarts: int = 3) -> list[str]:
    """The torchrun command on this machine.

    >>> command(["train.py"], workers=4)[2:]
    ['torch.distributed.run', '--standalone', '--nproc-per-node=4', '--max-restarts=3', 'train.py']
    """
    for name, value, least in (("workers", workers, 1), ("max_restarts", max_restarts, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InputError(f"{name}: got {value!r}; pass a whole number, {least} or more")
    if isinstance(words, str) or not words:
        raise InputError(f'words: got {words!r}; pass a list, such as ["train.py", "--epochs", "3"]')
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={workers}", f"--max-restarts={max_restarts}", *words]


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment torchrun needs here: the given one (this process's), where restarts are reliable."""
    return {**(os.environ if base is None else base), **RELIABLE_RESTARTS}


def torchrun(
    words: Sequence[str],
    *,
    workers: int,
    max_restarts: int = 3,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Runs a script, or a module after "-m", in several processes of this machine and waits for its end.

    A worker that dies takes the attempt with it: all are started again, up to `max_restarts` times, and go on
    from their checkpoints.

    Args:
        words: the script and its arguments.
        workers: how many processes.
        max_restarts: how often in all.
        timeout: seconds after which all of it is ended; None for never.
        env: the environment; None for this process's.

    Returns:
        The exit code; 0 where all workers came to their end.

    Raises:
        InputError: an argument cannot be used.
        subprocess.TimeoutExpired: after `timeout` seconds.
    """
    process = subprocess.Popen(
        command(words, workers=workers, max_restarts=max_restarts), env=environment(env)
    )
    try:
        return process.wait(timeout)
    except BaseException:
        # torchrun passes the signal on to its workers and waits for them; a kill would leave them behind.
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
