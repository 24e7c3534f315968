"""The recipe in docs/files.md, killed with SIGKILL at any moment and started again: bit-equal at the end."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def blocks(word: str) -> list[str]:
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    return re.findall(rf"```{word}\n(.*?)```", text, flags=re.DOTALL)


def start(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(blocks("python resume")[0], encoding="utf-8")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "train.py"],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_killed_runs_end_with_the_same_posterior(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole)

    chance, n_kills, epochs = random.Random(0), 0, []
    for n_lines in (1, 5):
        run = start(killed)
        assert run.stdout is not None
        epochs += [int(run.stdout.readline()) for _ in range(n_lines)]
        time.sleep(chance.uniform(0, 0.004))  # somewhere within an epoch, or while a checkpoint is written
        run.send_signal(signal.SIGKILL)
        n_kills += run.wait() == -signal.SIGKILL
        epochs += [int(line) for line in run.stdout.read().split()]
        run.stdout.close()
    assert n_kills == 2
    run = start(killed)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    last = [int(line) for line in output.split()]
    assert last == list(range(last[0], 12)) and last[0] > 0  # it went on; it did not begin again
    # An epoch's number is printed after its checkpoint: a kill between the two loses that line.
    assert len(set(range(12)) - {*epochs, *last}) <= n_kills

    output, _ = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, output
    assert output.split() == [str(epoch) for epoch in range(12)]
    name = "collector.safetensors"
    assert (killed / name).read_bytes() == (whole / name).read_bytes()
    mine, theirs = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (killed, whole))
    for key in ("model", "swag"):
        for entry, value in theirs[key].items():
            assert (
                torch.equal(mine[key][entry], value) if torch.is_tensor(value) else mine[key][entry] == value
            )
    assert torch.equal(mine["rng"], theirs["rng"])


def test_the_other_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    found = blocks("python")
    assert len(found) == 2
    for block in found:
        exec(compile(block, "files.md", "exec"), namespace)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        "posterior.safetensors",
        "ensemble.safetensors",
        "tuned.safetensors",
    }
