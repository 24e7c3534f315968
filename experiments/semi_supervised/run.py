"""Few labels and many images, or a second domain without labels: Pi model, Mean Teacher, and their averages.

    python experiments/semi_supervised/run.py                 Fashion-MNIST and MNIST, one core, 40 minutes
    python experiments/semi_supervised/run.py --device cuda   CIFAR-10, 4,000 labels, the published schedule
    python experiments/semi_supervised/run.py --quick         every path in seconds, without a data folder
    python experiments/semi_supervised/run.py --table         the tables from the results, nothing is run

One setting by one method from one seed is one file in --out; a run that was stopped goes on with the files
that are missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import arguments, record
from experiments.semi_supervised.settings import ON_CPU, SETTINGS, quick
from experiments.semi_supervised.study import KIND, METHODS, Study
from experiments.semi_supervised.table import tables

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = arguments.parser(__doc__, quick="tiny, on digits and made-up images")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="default: what suits the device")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    with arguments.results_folder(args, HERE) as out:
        out.mkdir(parents=True, exist_ok=True)
        if not args.table:
            usual = (
                [*ON_CPU[::2], "cifar-4000"]
                if args.quick
                else ON_CPU
                if args.device == "cpu"
                else ["cifar-4000"]
            )
            run(args.settings or list(usual), out, args)
        print(tables(found(out)))
    return 0


def found(out: Path) -> list[dict[str, Any]]:
    """All results of a folder, with their names."""
    return [record.read(path, KIND) | {"name": path.stem} for path in sorted(out.glob("*.json"))]


def run(names: list[str], out: Path, args: argparse.Namespace) -> None:
    """Seed by seed, so that what a run that was stopped has done can be compared."""
    studies = []
    for name in names:
        setting = quick(name) if args.quick else SETTINGS[name]
        studies.append(Study(name, setting, args.data_dir, out, args.device))
    for seed in args.seeds[: 1 if args.quick else None]:
        for study in studies:
            for method in args.methods:
                if not record.done(study.path(method, seed), KIND, study.settings(method, seed)):
                    study.run(method, seed)


if __name__ == "__main__":
    sys.exit(main())
