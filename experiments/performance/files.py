"""Posteriors as files: what fitting, saving and loading cost beside reading and writing the same bytes.

    python experiments/performance/files.py                    20 checkpoints of a 50 M-parameter model
    python experiments/performance/files.py --parameters 2e6   a quick look
    python experiments/performance/files.py --table            the results as Markdown, nothing is run

Needs --dir with room for about 17 GB, and writes results/files.json beside this script. Every row is
measured in a process of its own, whose peak memory is counted above what it had before; the same bytes are
moved through a buffer of 16 MiB, by turns. Files come from the page cache where they fit in it, which makes
the ratio a hard one: a slow disk hides the computing. Rows on disk count in the peak while they are cached.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import swag
from swag.atomic import write_text
from swag.checkpoints import layout_of_checkpoint, open_checkpoint
from swag.files import save_swag
from swag.forecast import available_memory, forecast

HERE = Path(__file__).resolve().parent
BUFFER = 1 << 24
RANK = 20
# One thread: reading and accumulating are bound by memory, and a shared machine's second core is not ours.
THREADS = 1


def shapes(n_parameters: int) -> dict[str, tuple[int, ...]]:
    """A GPT-like model of 12 blocks and 148 tensors, of about this size."""
    width = max(8, round((n_parameters / (12 * 12 + 3)) ** 0.5))
    found: dict[str, tuple[int, ...]] = {"embedding": (3 * width, width), "position": (64, width)}
    for block in range(12):
        for name, shape in [
            ("norm1.weight", (width,)),
            ("norm1.bias", (width,)),
            ("attention.weight", (3 * width, width)),
            ("attention.bias", (3 * width,)),
            ("out.weight", (width, width)),
            ("out.bias", (width,)),
            ("norm2.weight", (width,)),
            ("norm2.bias", (width,)),
            ("up.weight", (4 * width, width)),
            ("up.bias", (4 * width,)),
            ("down.weight", (width, 4 * width)),
            ("down.bias", (width,)),
        ]:
            found[f"block{block}.{name}"] = shape
    return found | {"norm.weight": (width,), "norm.bias": (width,)}


def make(folder: Path, n: int, n_parameters: int) -> None:
    for kind in ("safetensors", "pt"):
        (folder / kind).mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(n):
        state = {
            name: torch.randn(shape, generator=generator) for name, shape in shapes(n_parameters).items()
        }
        save_file(state, folder / "safetensors" / f"{index}.safetensors")
        torch.save(state, folder / "pt" / f"{index}.pt")


def read_bytes(paths: list[Path]) -> None:
    buffer = memoryview(bytearray(BUFFER))
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):  # type: ignore[attr-defined]
                pass


def write_bytes(path: Path, n_bytes: int) -> None:
    buffer = memoryview(bytearray(os.urandom(1 << 20) * (BUFFER >> 20)))
    with open(path, "wb", buffering=0) as file:
        for start in range(0, n_bytes, BUFFER):
            file.write(buffer[: min(BUFFER, n_bytes - start)])
        os.fsync(file.fileno())


def worker(what: str, folder: Path, repeats: int) -> dict[str, Any]:
    """One row: seconds of the work and of moving its bytes, by turns, and peak memory above the start."""
    torch.set_num_threads(THREADS)
    posterior, copy = folder / "posterior.safetensors", folder / "copy"
    kind = "pt" if what == "fit .pt" else "safetensors"
    dtype = torch.bfloat16 if "bfloat16" in what else torch.float32
    paths = sorted((folder / kind).iterdir())
    size = sum(path.stat().st_size for path in paths)
    settings: dict[str, Any] = {"deviation_dtype": dtype}
    if "disk" in what:
        settings["deviation_folder"] = folder
    work: Callable[[], Any]
    moves: Callable[[], Any]
    if what.startswith("fit"):
        work, moves = lambda: swag.fit_checkpoints(paths, RANK, **settings), lambda: read_bytes(paths)
        with open_checkpoint(paths[0]) as checkpoint:
            layout = layout_of_checkpoint(checkpoint)
        output = forecast(layout, RANK, deviation_dtype=dtype, on_disk="disk" in what).collecting
        moved = size
    elif what == "save":
        collector = swag.fit_checkpoints(paths, RANK)
        work = lambda: save_swag(posterior, collector)  # noqa: E731
        save_swag(posterior, collector)
        output = moved = posterior.stat().st_size
        moves = lambda: write_bytes(copy, moved)  # noqa: E731
    else:
        output = moved = posterior.stat().st_size
        work, moves = lambda: swag.load(posterior), lambda: read_bytes([posterior])
    moves()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = []
    for _ in range(repeats):
        started, started_cpu = time.perf_counter(), time.process_time()
        moves()
        middle, middle_cpu = time.perf_counter(), time.process_time()
        work()
        ended, ended_cpu = time.perf_counter(), time.process_time()
        rows.append((ended - middle, middle - started, ended_cpu - middle_cpu, middle_cpu - started_cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    copy.unlink(missing_ok=True)
    return {
        "what": what,
        "load": os.getloadavg()[0],
        "bytes": moved,
        "output_bytes": output,
        "peak_bytes": peak,
        "seconds": [row[0] for row in rows],
        "moving_seconds": [row[1] for row in rows],
        "ratios": [row[0] / row[1] for row in rows],
        "cpu_seconds": [row[2] for row in rows],
        "cpu_ratios": [row[2] / row[3] for row in rows],
    }


ROWS = ["fit .safetensors", "fit .pt", "fit, bfloat16 rows", "fit, rows on disk", "save", "load"]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="swag-files-", dir=arguments.dir))
    try:
        make(folder, arguments.checkpoints, int(arguments.parameters))
        rows = []
        for what in arguments.rows:
            command = [sys.executable, __file__, "--worker", what, "--dir", str(folder)]
            done = subprocess.run(
                [*command, "--repeats", str(arguments.repeats)], stdout=subprocess.PIPE, text=True, check=True
            )
            rows.append(json.loads(done.stdout))
            print(what, f"{statistics.median(rows[-1]['ratios']):.2f}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder)
    return {
        "n_parameters": sum(
            torch.Size(shape).numel() for shape in shapes(int(arguments.parameters)).values()
        ),
        "n_checkpoints": arguments.checkpoints,
        "rank": RANK,
        "threads": THREADS,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "free_memory": available_memory(torch.device("cpu")),
        "rows": rows,
    }


def table(results: dict[str, Any]) -> str:
    lines = [
        f"{results['n_checkpoints']} checkpoints of {results['n_parameters'] / 1e6:.0f} M parameters, rank "
        f"{results['rank']}, {results['machine']}, files in the page cache; median (least to most) of "
        f"{len(results['rows'][0]['ratios'])}:",
        "",
        "| | GB moved | seconds | × moving the bytes alone | the same in CPU time | peak memory ÷ output |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        ratios = row["ratios"]
        lines.append(
            f"| {row['what']} | {row['bytes'] / 1e9:.2f} | {statistics.median(row['seconds']):.2f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {statistics.median(row['cpu_ratios']):.2f} | {row['peak_bytes'] / row['output_bytes']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=float, default=50e6)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "files.json")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="the others stay as they were")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(arguments.worker, arguments.dir, arguments.repeats)))
        return
    if not arguments.table:
        arguments.out.parent.mkdir(exist_ok=True)
        results = measure(arguments)
        if len(arguments.rows) < len(ROWS):
            before = json.loads(arguments.out.read_text(encoding="utf-8"))
            fresh = {row["what"]: row for row in results["rows"]}
            results["rows"] = [fresh.get(row["what"], row) for row in before["rows"]]
        write_text(arguments.out, json.dumps(results, indent=1) + "\n")
    print(table(json.loads(arguments.out.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
