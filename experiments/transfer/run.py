"""SWAG from a network that was trained on another task: accuracy and calibration with few labels.

    python experiments/transfer/run.py --data-dir DIR    both directions, three seeds (8 CPU minutes)
    python experiments/transfer/run.py --quick           scikit-learn's digits, seconds, no data folder
    python experiments/transfer/run.py --table           the tables from the results, nothing is run

One direction from one seed is one file in --out; a run that was stopped goes on with the missing files.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import arguments, record
from experiments.transfer.images import DIRECTIONS, Task, digits, tasks
from experiments.transfer.study import KIND, QUICK, Recipe, run
from experiments.transfer.table import tables

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = arguments.parser(__doc__, quick="small, on digits, two seeds")
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    with arguments.results_folder(args, HERE) as out:
        if not args.table:
            run_missing(out, args)
        results = [record.read(path, KIND) for path in sorted(out.glob("*.json"))]
        print(tables(results) if results else f"no results in {out}")
    return 0


def run_missing(out: Path, args: argparse.Namespace) -> None:
    """The directions and seeds whose files are not there."""
    recipe = QUICK if args.quick else Recipe()
    for direction in ["digits-to-negatives"] if args.quick else args.directions:
        read: tuple[Task, Task] | None = None
        for seed in args.seeds[: 2 if args.quick else None]:
            path = out / f"{direction}-{seed}.json"
            settings = {"recipe": asdict(recipe), "direction": direction, "seed": seed}
            if record.done(path, KIND, settings):
                continue
            read = read or (digits() if args.quick else tasks(direction, args.data_dir))
            started = time.perf_counter()
            found = run(*read, recipe, direction, seed, args.device)
            record.write(path, KIND, found, device=args.device)
            print(f"{path.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
