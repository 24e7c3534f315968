"""Does MultiSWAG remove the bump of double descent? Test error and NLL against width, with wrong labels.

    python experiments/double_descent/run.py --data-dir DIR                  convnets on Fashion-MNIST (CPU)
    python experiments/double_descent/run.py --data-dir DIR --device cuda    ResNet-18s on CIFAR-100
    python experiments/double_descent/run.py --quick                         both in seconds, no data folder
    python experiments/double_descent/run.py --table                         the tables, nothing is run
    python experiments/double_descent/run.py --plot                          the pictures, nothing is run

One width is one file in --out; a run that was stopped goes on with the widths that are missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import arguments, record
from experiments.double_descent import convnets, resnets, rows
from experiments.double_descent.recipes import FAMILIES, QUICK
from experiments.double_descent.study import KIND
from experiments.double_descent.table import tables

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = arguments.parser(__doc__, quick="small, on digits and on noise")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, help="default: what suits the device")
    parser.add_argument("--widths", nargs="+", type=int, help="default: all of the family")
    parser.add_argument("--plot", action="store_true", help="draw the pictures of --out and stop")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    with arguments.results_folder(args, HERE) as out:
        if not (args.table or args.plot):
            usual = list(FAMILIES) if args.quick else ["convnets" if args.device == "cpu" else "resnets"]
            for family in args.families or usual:
                run_missing(family, out, args)
        if args.plot:
            draw(out)
        else:
            results = [record.read(path, KIND) for path in sorted(out.glob("*.json"))]
            print(tables(results) if results else f"no results in {out}")
    return 0


def run_missing(family: str, out: Path, args: argparse.Namespace) -> None:
    """The widths of a family whose files are not there."""
    recipe = (QUICK if args.quick else FAMILIES)[family]
    pool: rows.Pool | None = None
    for width in args.widths or recipe.widths:
        path = out / f"{family}-{width:02d}.json"
        if record.done(path, KIND, {"recipe": asdict(recipe), "width": width}):
            continue
        pool = pool or read(family, args)
        started = time.perf_counter()
        run: Callable[..., dict[str, Any]] = convnets.run if family == "convnets" else resnets.run
        found = run(pool, recipe, width, args.device)
        record.write(path, KIND, found, device=args.device)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def read(family: str, args: argparse.Namespace) -> rows.Pool:
    """The images of a family."""
    if args.quick:
        return rows.digits() if family == "convnets" else rows.noise(5)
    return rows.fashion_mnist(args.data_dir) if family == "convnets" else rows.cifar100(args.data_dir)


def draw(out: Path) -> None:
    """A picture for each family there is."""
    from experiments.double_descent import plots

    for family in FAMILIES:
        runs = [record.read(path, KIND) for path in sorted(out.glob(f"{family}-*.json"))]
        if runs:
            plots.draw(runs, out / f"{family}.png")


if __name__ == "__main__":
    sys.exit(main())
