"""Thirteen ways to be uncertain on Fashion-MNIST: as it is, corrupted, and beside images of other kinds.

    python experiments/uncertainty/run.py             everything on one core, in up to an hour
    python experiments/uncertainty/run.py --quick     every path in seconds, without a data folder
    python experiments/uncertainty/run.py --table     the tables from the results, nothing is run
    python experiments/uncertainty/run.py --plots     the figures from the results, nothing is run

Every network that was trained and every method that was scored is kept at once, so a run that was stopped
goes on with what is missing. All of the first group of seeds comes before the second.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import arguments
from experiments.uncertainty import basins, plots
from experiments.uncertainty.recipes import FULL, QUICK
from experiments.uncertainty.study import Study
from experiments.uncertainty.table import tables
from experiments.uncertainty.tasks import tasks

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = arguments.parser(__doc__, quick="small, on scikit-learn's digits")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="groups of seeds")
    parser.add_argument("--tasks", nargs="+", choices=["ten", "five"], default=["ten", "five"])
    parser.add_argument("--plots", action="store_true", help="draw the figures of --out and stop")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    with arguments.results_folder(args, HERE) as out:
        if not (args.table or args.plots):
            recipe = QUICK if args.quick else FULL
            out.mkdir(parents=True, exist_ok=True)
            seeds = args.seeds[: 2 if args.quick else None]
            study = Study(recipe, tasks(recipe, args.data_dir, args.device), out, args.device)
            study.run(seeds, args.tasks)
            if "ten" in args.tasks and len(seeds) > 1:
                basins.run(study, seeds, quick=args.quick)
        if args.plots:
            plots.draw(out, HERE / "figures" if args.out is None else out / "figures")
        else:
            print(tables(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
