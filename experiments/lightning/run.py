"""A Lightning run killed by SIGKILL and resumed: is the posterior the same, bit for bit?

    python experiments/lightning/run.py            Fashion-MNIST, killed three times (two minutes, one core)
    python experiments/lightning/run.py --quick    the same path on made-up images, killed once
    python experiments/lightning/run.py --table    the table from the results, nothing is run

The straight run and the killed one are results files of their own; one that is there is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import swag
from experiments import record

HERE = Path(__file__).resolve().parent
KIND = "lightning"
# Where the run is killed, each time from outside when it says that it is there, and waits.
KILLS = ("epoch 2 train", "epoch 4 validate", "epoch 6 train")
QUICK_KILLS = ("epoch 2 train",)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="default: $SWAG_DATA, else ./data")
    parser.add_argument("--out", type=Path, help="folder of the results (default: beside this script)")
    parser.add_argument("--device", default="cpu", choices=["cpu"])
    parser.add_argument("--quick", action="store_true", help="small, on made-up images")
    parser.add_argument("--table", action="store_true", help="print the table of --out and stop")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--wait-at", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child is not None:
        from experiments.lightning.training import FULL, QUICK, run

        recipe = QUICK if args.quick else FULL
        run(recipe, args.child, args.data_dir, made_up=args.quick, wait_at=args.wait_at)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or (Path(temporary) if args.quick else HERE / "results")
        if not args.table:
            for name in ("straight", "killed"):
                if not record.done(out / f"{name}.json", KIND):
                    make(name, out, args)
        print(table(out))
    return 0


def make(name: str, out: Path, args: argparse.Namespace) -> None:
    """One run to its end, in processes of its own, and its results file."""
    from experiments.lightning.training import FULL, QUICK, run, scores

    recipe = QUICK if args.quick else FULL
    kills = list(QUICK_KILLS if args.quick else KILLS) if name == "killed" else []
    start, killed_after = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        words = [sys.executable, __file__, "--child", str(folder), *(["--quick"] if args.quick else [])]
        words += ["--data-dir", str(args.data_dir)] if args.data_dir else []
        for moment in kills:
            until(words, moment)
            killed_after.append({"moment": moment, "checkpoint": step_of(folder / "last.ckpt")})
            print(f"{name}: killed at {moment} after {time.perf_counter() - start:.0f} s", flush=True)
        if kills:
            until(words, None)
        else:
            run(recipe, folder, args.data_dir, made_up=args.quick)
        print(f"{name}: ended after {time.perf_counter() - start:.0f} s", flush=True)
        seconds = time.perf_counter() - start
        found = {
            "settings": asdict(recipe) | {"made_up": args.quick},
            "kills": killed_after,
            "seconds": seconds,
            "posterior": described(folder / "posterior.safetensors"),
            "scores": scores(recipe, folder, args.data_dir, made_up=args.quick),
            "lightning": metadata.version("lightning"),
        }
    record.write(out / f"{name}.json", KIND, found)


def until(words: list[str], moment: str | None) -> None:
    """Runs a process to its end, or kills it when it says that this moment has come.

    Raises:
        SystemExit: it ended otherwise.
    """
    words = [*words, "--wait-at", moment] if moment else words
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == moment:
            os.kill(process.pid, signal.SIGKILL)
    wanted = 0 if moment is None else -signal.SIGKILL
    if process.wait() != wanted:
        raise SystemExit(f"the run ended with {process.returncode}, not {wanted}, waiting for {moment!r}")


def step_of(checkpoint: Path) -> dict[str, int] | None:
    """What the checkpoint that the next attempt starts from has seen; None: there is none."""
    if not checkpoint.exists():
        return None
    content = torch.load(checkpoint, weights_only=True)
    return {
        "step": int(content["global_step"]),
        "snapshots": int(content["callbacks"]["SWAGCallback"]["collector"]["n_collected"]),
    }


def described(path: Path) -> dict[str, Any]:
    """The file's digest and what is in it."""
    posterior = swag.load(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sha256": digest, "snapshots": posterior.n_collected, "D": posterior.layout.size}


def table(out: Path) -> str:
    """The table of a folder of results."""
    names = [name for name in ("straight", "killed") if (out / f"{name}.json").exists()]
    if not names:
        return f"no results in {out}"
    results = {name: record.read(out / f"{name}.json", KIND) for name in names}
    rows = [
        (
            name,
            "; ".join(place(kill) for kill in found["kills"]) or "never",
            found["posterior"]["snapshots"],
            f"`{found['posterior']['sha256'][:16]}…`",
            f"{found['seconds']:.0f}",
        )
        for name, found in results.items()
    ]
    text = [record.markdown(["run", "killed", "snapshots", "posterior file, SHA-256", "seconds"], rows)]
    if len(results) == 2:
        a, b = (found["posterior"]["sha256"] for found in results.values())
        same = "the same file, bit for bit" if a == b else "NOT THE SAME"
        text.append(f"The posterior of the killed run and that of the straight one are {same}.")
    first = results[names[0]]
    lines = [(n, f"{100 * s['accuracy']:.2f}", f"{s['nll']:.4f}") for n, s in first["scores"].items()]
    text.append(record.markdown([f"{names[0]} run", "test accuracy, %", "test NLL, nats"], lines))
    environment = first["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    text.append(
        f"{environment['cpu']}, {environment['threads']} thread; lightning {first['lightning']}, {versions}."
    )
    return "\n\n".join(text)


def place(kill: dict[str, Any]) -> str:
    """Where it was killed, and from where it went on."""
    checkpoint = kill["checkpoint"]
    went_on = (
        "from the beginning"
        if checkpoint is None
        else f"from step {checkpoint['step']:,}, snapshots: {checkpoint['snapshots']}"
    )
    _, epoch, phase = kill["moment"].split()
    return f"epoch {epoch} ({phase}), went on {went_on}"


if __name__ == "__main__":
    sys.exit(main())
