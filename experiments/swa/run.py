"""SGD and Adam with and without SWA, and FGE: on Fashion-MNIST at one budget of epochs.

On CIFAR-100 averaging has one and a half budgets, as published; SGD is run with one and with one and a half.

    python experiments/swa/run.py                    Fashion-MNIST on one core (10 to 12 minutes)
    python experiments/swa/run.py --device cuda      CIFAR-100: VGG-16, PreResNet-164, WRN-28-10 (hours)
    python experiments/swa/run.py --quick            every path in seconds, without a data folder
    python experiments/swa/run.py --table            the tables from the results, nothing is run

One family of optimizers from one seed is one file in --out; a run that was stopped goes on within the
training that was under way.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import arguments, record
from experiments.swa.loaders import split
from experiments.swa.recipes import ON_CPU, ON_CUDA, RECIPES, quick
from experiments.swa.study import KIND, NAMES, Study
from experiments.swa.table import tables

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = arguments.parser(__doc__, quick="small, on digits and made-up images")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="default: what suits the device")
    parser.add_argument("--families", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.set_float32_matmul_precision("high")
    with arguments.results_folder(args, HERE) as out:
        out.mkdir(parents=True, exist_ok=True)
        if not args.table:
            names = args.recipes or (
                list(RECIPES) if args.quick else ON_CPU if args.device == "cpu" else ON_CUDA
            )
            for name in names:
                run(name, out, args)
        results = [record.read(path, KIND) | {"name": path.stem} for path in sorted(out.glob("*.json"))]
        print(tables(results) if results else f"no results in {out}")
    return 0


def run(name: str, out: Path, args: argparse.Namespace) -> None:
    """All families and seeds of a recipe."""
    recipe = quick(name) if args.quick else RECIPES[name]
    data = split(recipe.data, args.data_dir, recipe.train_rows, recipe.validation_rows, args.device)
    study = Study(name, recipe, data, out, args.device)
    for seed in args.seeds[: 1 if args.quick else None]:
        for family in args.families:
            if getattr(recipe, family):
                study.run(family, seed)


if __name__ == "__main__":
    sys.exit(main())
