"""Large batches, small batches, and SWAP, which has the time of the one and the accuracy of the other.

    python experiments/swap/run.py                 Fashion-MNIST, two processes on two cores (10 minutes)
    python experiments/swap/run.py --simulate      the same with workers that take turns in one process
    python experiments/swap/run.py --device cuda   CIFAR-10 to 94 %, eight workers in turn on one GPU
    python experiments/swap/run.py --quick         every path in seconds, without a data folder
    python experiments/swap/run.py --table         the tables from the results, nothing is run

One method from one seed is one file in --out; a run that was stopped goes on with the files that are missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import arguments, record
from experiments.swap.images import split
from experiments.swap.recipes import RECIPES, quick
from experiments.swap.study import KIND, METHODS, ON_ONE_WORKER, Study
from experiments.swap.table import tables
from swag.distributed import joined, torchrun
from swag.distributed.launch import is_worker

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = arguments.parser(__doc__, quick="small, on digits and made-up images, simulated")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="default: what suits the device")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--simulate", action="store_true", help="workers take turns in this process")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    args.simulate = args.simulate or args.quick or args.device != "cpu"
    with arguments.results_folder(args, HERE) as out:
        out.mkdir(parents=True, exist_ok=True)
        if not args.table:
            usual = list(RECIPES) if args.quick else ["fashion" if args.device == "cpu" else "cifar"]
            for name in args.recipes or usual:
                run(name, out, args)
        if not is_worker():
            results = [record.read(path, KIND) | {"name": path.stem} for path in sorted(out.glob("*.json"))]
            print(tables(results) if results else f"no results in {out}")
    return 0


def run(name: str, out: Path, args: argparse.Namespace) -> None:
    """All methods and seeds of a recipe, seed by seed, so that what is compared was run side by side."""
    recipe = quick(name) if args.quick else RECIPES[name]
    study = Study(
        name, recipe, split(recipe.data, args.data_dir, recipe.train_rows, args.device), out, args.device
    )
    if is_worker():  # one method and seed were asked for, and are missing
        (method,), (seed,) = args.methods, args.seeds
        with joined() as ranks:
            study.run(method, seed, ranks)
        return
    for seed in args.seeds[: 1 if args.quick else None]:
        for method in args.methods:
            alone = args.simulate or method in ON_ONE_WORKER
            how = "in turn" if alone else "processes"
            if record.done(study.path(method, seed), KIND, study.settings(method, seed, how)):
                continue
            if alone:
                study.run(method, seed, recipe.workers)
                continue
            words = [
                __file__,
                "--out",
                str(out),
                "--recipes",
                name,
                "--methods",
                method,
                "--seeds",
                str(seed),
            ]
            words += ["--data-dir", str(args.data_dir)] if args.data_dir else []
            code = torchrun(words, workers=recipe.workers, max_restarts=0)
            if code:
                raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(main())
