"""Memory of collecting, drawing and predicting: what stays and the peak, each in a process of its own.

    python -m experiments.performance --only memory

Resident memory from /proc (Linux), above what the process held once the model was there; the peak is the
kernel's high-water mark, reset then. malloc is told to give every large block back at once, so that what is
freed does not count. Peaks count all there is: ours, torch's and temporaries of either.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .results import Goal, Results, Settings, Table

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
COLLECT = ["swag", "swag-bfloat16", "swa_gaussian", "torch-uncertainty", "lightning-uq-box", "AveragedModel"]
_SHOWN = {"swag-bfloat16": "swag, bfloat16 rows", "AveragedModel": "AveragedModel (mean only)"}


def run(settings: Settings) -> Results:
    """Bytes a parameter above the model, and bytes of predicting."""
    results = Results("memory", settings)
    if not (_STATUS.exists() and os.access(_CLEAR, os.W_OK)):
        results.skipped.append("memory: needs Linux's /proc/self/clear_refs")
        return results
    network, rank = ("m2", 4) if settings.smoke else ("m3", 20)
    names = COLLECT[:1] if settings.smoke else COLLECT[:3] if settings.quick else COLLECT
    collecting = Table(
        f"Collecting {network}, K = {rank}: bytes a parameter above the model",
        ["steady", "peak"],
        unit="",
        limit="4·(2 + K) + 4",
        note="The limit: mean, squared deviations, K rows and the first snapshot.",
    )
    collecting.add("4·(2 + K) + 4", "limit", "steady", 4 * (2 + rank) + 4)
    collecting.add("4·(2 + K) + 4", "limit", "peak", 4 * (2 + rank) + 4)
    for name in names:
        found = _child(["collect", name, network, str(rank)], settings, results.skipped)
        if found is not None:
            for column in ("steady", "peak"):
                role = "ours" if name.startswith("swag") else "peer"
                collecting.add(_SHOWN.get(name, name), role, column, found[column] / found["size"])
    results.tables = [collecting, _predicting(settings, results.skipped)]
    results.goals = _goals(collecting, results.tables[1], rank)
    return results


def _predicting(settings: Settings, skipped: list[str]) -> Table:
    rows, classes = (512, 64) if settings.smoke else (8_192, 512)
    counts = (2,) if settings.smoke else (8, 32)
    table = Table(
        f"Predicting {rows:,} rows of {classes} classes: MiB above the ensemble with its S·D weights",
        [f"S = {n}" for n in counts],
        unit="",
        limit="probabilities (N, C)",
        note="Last row: the peak while the ensemble's weights are drawn, above the weights themselves.",
    )
    for n in counts:
        found = _child(["predict", str(n), str(rows), str(classes)], settings, skipped)
        if found is None:
            continue
        column = f"S = {n}"
        table.add("probabilities (N, C)", "limit", column, rows * classes * 4 / 2**20)
        table.add("swag, peak", "ours", column, found["peak"] / 2**20)
        table.add("swag, kept", "ours", column, found["steady"] / 2**20)
        table.add("swag, peak of drawing", "ours", column, found["drawing"] / 2**20)
    return table


def _goals(collecting: Table, predicting: Table, rank: int) -> list[Goal]:
    # A twentieth for pages, code that is loaded late, and small tensors.
    goals = []
    for name, most in (("swag", 4 * (2 + rank) + 4), ("swag, bfloat16 rows", 8 + 2 * rank + 4)):
        for column in ("steady", "peak"):
            figure = collecting.figure(name, column)
            what = f"memory of collecting, {name}, {column} (the formula gives {most}, 5 % for the rest)"
            goals.append(Goal.below("memory", what, figure, 1.05 * most, " bytes a parameter"))
    few, many = (predicting.figure("swag, peak", predicting.columns[index]) for index in (0, -1))
    growth = None if few is None or many is None else many / few
    goals.append(Goal.below("memory-predict", "memory of predicting, four times the samples", growth, 1.1))
    return goals


def _child(words: list[str], settings: Settings, skipped: list[str]) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "experiments.performance.memory", *words]
    environment = {**os.environ, **_MALLOC, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    if settings.swa_gaussian:
        environment["SWA_GAUSSIAN"] = settings.swa_gaussian
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        skipped.append(found["missing"])
        return None
    return found


_ROOT = Path(__file__).resolve().parents[2]


# --- in the child ----------------------------------------------------------------------------------------


def _resident(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


class _Meter:
    """What is held and the peak since `start`, in bytes above what was held then."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        _trim()
        _CLEAR.write_text("5")
        self._before = _resident("VmRSS")

    def read(self) -> dict[str, int]:
        peak = _resident("VmHWM") - self._before
        _trim()
        return {"steady": _resident("VmRSS") - self._before, "peak": peak}


def _trim() -> None:
    gc.collect()
    # Only glibc has it; elsewhere freed memory may count.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _collecting(name: str, network: str, rank: int) -> dict[str, Any]:
    import torch
    from torch.optim.swa_utils import AveragedModel

    import swag

    from .models import MODELS, jitter_
    from .peers import Missing
    from .rivals import rivals

    make, generator = MODELS[network], torch.Generator().manual_seed(0)
    warm = swag.Collector(torch.nn.Linear(4, 4), rank=2)  # loads code
    warm.collect(torch.nn.Linear(4, 4))
    model = make()
    jitter_(model, generator)
    size = sum(parameter.numel() for parameter in model.parameters())
    collect: Callable[[], Any]
    if name.startswith("swag"):
        meter = _Meter()
        dtype = torch.bfloat16 if name.endswith("bfloat16") else torch.float32
        collector = swag.Collector(model, rank=rank, deviation_dtype=dtype)
        collect = lambda: collector.collect(model)  # noqa: E731
    elif name == "AveragedModel":
        meter = _Meter()
        averaged = AveragedModel(model)
        collect = lambda: averaged.update_parameters(model)  # noqa: E731
    else:
        skipped: list[str] = []
        # The first one loads the peer's code.
        for _ in rivals(lambda: torch.nn.Linear(4, 4), rank, None, skipped, only=(name,)):
            pass
        if skipped:
            return {"missing": str(Missing(skipped[0]))}
        meter = _Meter()
        ((rival, model),) = rivals(make, rank, None, skipped, only=(name,))
        collect = rival.collect
    for _ in range(rank + 3):
        jitter_(model, generator)
        collect()
    found = meter.read()
    if name not in ("AveragedModel",) and not name.startswith("swag"):
        # The model it follows was made after the start.
        found = {key: value - 4 * size for key, value in found.items()}
    return {**found, "size": size}


def _predicting_in_child(n_samples: int, rows: int, classes: int) -> dict[str, Any]:
    import torch

    import swag

    torch.manual_seed(0)
    model = torch.nn.Linear(64, classes)
    layout = swag.Layout.of(model)
    theta = layout.flatten(model)
    posterior = swag.LowRankGaussian(
        theta, torch.full_like(theta, 1e-4), 0.01 * torch.randn(layout.size, 20), layout=layout
    )
    loader = torch.randn(rows, 64).split(256)
    swag.Ensemble(model, posterior, 2, seed=0).predict(loader[:1])  # loads code
    meter = _Meter()
    ensemble = swag.Ensemble(model, posterior, n_samples, seed=0)
    drawing = meter.read()["peak"] - 4 * n_samples * layout.size
    meter.start()
    predictive = ensemble.predict(loader)
    found = meter.read()
    assert predictive.probs.shape == (rows, classes)
    return {**found, "drawing": drawing}


if __name__ == "__main__":
    if sys.argv[1] == "collect":
        print(json.dumps(_collecting(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        print(json.dumps(_predicting_in_child(*map(int, sys.argv[2:]))))
