"""Bayesian optimisation of test functions: SWAG and MultiSWAG as the surrogate, a GP, and no surrogate.

    python experiments/bayesian_optimization/run.py              Branin, Ackley, Hartmann6 (10 to 15 minutes)
    python experiments/bayesian_optimization/run.py --quick      every path in seconds, two batches, one seed
    python experiments/bayesian_optimization/run.py --table      the tables from the results, nothing is run

A problem and a seed are one file in --out; a run that was stopped goes on with the files that are missing.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import record
from experiments.bayesian_optimization.methods import ACQUISITION, MEMBERS, METHODS, search
from experiments.bayesian_optimization.problems import PROBLEMS, quick
from experiments.bayesian_optimization.table import tables
from swag.integrations.botorch import fit_swag

HERE = Path(__file__).resolve().parent
KIND = "bayesian_optimization"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="not needed: the functions are formulas")
    parser.add_argument("--out", type=Path, help="folder of the results (default: beside this script)")
    parser.add_argument("--device", default="cpu", choices=["cpu"])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--quick", action="store_true", help="two batches on one seed, of no meaning")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="botorch|gpytorch|linear_operator")
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or (Path(temporary) if args.quick else HERE / "results")
        for seed in [] if args.table else args.seeds[: 1 if args.quick else None]:
            for name in args.problems:
                run(name, seed, out, args.quick)
        results = [record.read(path, KIND) for path in sorted(out.glob("*.json"))]
        print(tables(results) if results else f"no results in {out}")
    return 0


def run(name: str, seed: int, out: Path, is_quick: bool) -> None:
    """All methods on a problem, from the same first points."""
    problem = quick(PROBLEMS[name]) if is_quick else PROBLEMS[name]
    settings = {
        "n_start": problem.n_start,
        "n_batches": problem.n_batches,
        "q": problem.q,
        "members": MEMBERS,
        "fit_swag": {
            name: argument.default
            for name, argument in inspect.signature(fit_swag).parameters.items()
            if isinstance(argument.default, int | float) and name not in ("members", "seed")
        },
        "acquisition": ACQUISITION,
        "versions": {package: metadata.version(package) for package in ("botorch", "gpytorch")},
    }
    path = out / f"{name}_{seed}.json"
    if record.done(path, KIND, settings):
        return
    begun, rows = time.process_time(), []
    for method in METHODS:
        started = time.monotonic()
        rows.append(search(problem, method, seed))
        took = time.monotonic() - started
        print(f"{name}, seed {seed}, {method}: regret {rows[-1]['regret'][-1]:.4f}, {took:.0f} s", flush=True)
    found = {"problem": name, "seed": seed, "settings": settings, "rows": rows}
    record.write(path, KIND, found | {"cpu_seconds": time.process_time() - begun})


if __name__ == "__main__":
    sys.exit(main())
