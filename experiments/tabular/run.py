"""Tables: SWAG as a scikit-learn estimator against gradient boosting and others, and when the data shift.

    python experiments/tabular/run.py              Adult and the two wines (some minutes on one core)
    python experiments/tabular/run.py --quick      every path in some 15 seconds, without a data folder
    python experiments/tabular/run.py --table      the tables from the results, nothing is run

The search, one method from one seed on Adult, one seed of the wines and the timing of fits are a file each in
--out; a run that was stopped goes on with the files that are missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments.tabular import adult, sets, speed, wine
from experiments.tabular.tables import tables

HERE = Path(__file__).resolve().parent
PARTS = ("adult", "wine", "speed")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="default: $SWAG_DATA, else ./data")
    parser.add_argument("--out", type=Path, help="folder of the results (default: beside this script)")
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="tables are small: the CPU alone")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2 for Adult, 0 to 9 for the wines")
    parser.add_argument("--quick", action="store_true", help="small networks, scikit-learn's own tables")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or (Path(temporary) if args.quick else HERE / "results")
        out.mkdir(parents=True, exist_ok=True)
        if not args.table:
            if "adult" in args.parts:
                run_adult(out, args)
            if "wine" in args.parts:
                shift = sets.patients() if args.quick else sets.wines(args.data_dir)
                for seed in args.seeds or ([0] if args.quick else range(10)):
                    wine.run(seed, shift, wine.QUICK if args.quick else wine.Plan(), out)
            if "speed" in args.parts:
                table = sets.tumours() if args.quick else sets.adult(args.data_dir)
                speed.run(table, speed.QUICK if args.quick else speed.Plan(), out)
        print(tables(out) or f"no results in {out}")
    return 0


def run_adult(out: Path, args: argparse.Namespace) -> None:
    """The search, then all methods seed by seed, so that what is compared was run side by side."""
    plan = adult.QUICK if args.quick else adult.Plan()
    table = sets.tumours() if args.quick else sets.adult(args.data_dir)
    found = adult.search(table, plan, out)
    for seed in args.seeds or ([0] if args.quick else [0, 1, 2]):
        for method in adult.METHODS:
            adult.run(method, seed, table, plan, found[method]["best"], out)


if __name__ == "__main__":
    sys.exit(main())
