"""What `swag demo` finds over several seeds: every member's figures, the time taken, and what ran it.

    python experiments/demo/run.py                                      digits, five seeds (3 CPU minutes)
    python experiments/demo/run.py --data fashion-mnist --data-dir DIR  three seeds (9 CPU minutes)
    python experiments/demo/run.py --quick                              digits, two seeds, some ten seconds
    python experiments/demo/run.py --table                              the tables, from the results

A seed changes everything that is random: the split, the noise, the patches, the initial weights, the order of
batches, the samples. The seeds of a data set are one file in --out, written after each of them; a run that
was stopped goes on with the seeds that are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import swag
from experiments import arguments, record
from experiments import data as stored
from experiments.demo.table import TITLES, sections
from swag.demo import fashion
from swag.demo.settings import DATA, Settings
from swag.demo.study import WEIGHT_DECAYS, conduct

HERE = Path(__file__).resolve().parent
KIND = "demo"
SEEDS = {"digits": [0, 1, 2, 3, 4], "fashion-mnist": [0, 1, 2]}
QUICK = Settings(members=2, samples=2, epochs=3)


def main() -> int:
    parser = arguments.parser(__doc__, quick="two seeds of digits, of no meaning", cpu_only=True)
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--subset", type=int, help="training rows of Fashion-MNIST")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 to 4; Fashion-MNIST: 0 to 2")
    parser.add_argument("--epochs", type=int, default=Settings().epochs)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with arguments.results_folder(args, HERE) as out:
        if not args.table:
            try:
                run_missing(out, args)
            except swag.SwagError as error:
                raise SystemExit(str(error)) from error
        print(sections(finished(out)))
    return 0


def run_missing(out: Path, args: argparse.Namespace) -> None:
    """The seeds that the file does not have."""
    settings = QUICK if args.quick else chosen(args)
    path = out / f"{settings.data.replace('-', '_')}.json"
    wanted = depends_on(settings)
    runs: list[dict[str, Any]] = []
    seeds = args.seeds or SEEDS[settings.data]
    seeds = seeds[:2] if args.quick else seeds
    if record.done(path, KIND, wanted):
        found = record.read(path, KIND)
        runs = found["runs"]
        seeds = [seed for seed in seeds if seed not in {run["seed"] for run in runs}]
        if seeds:
            refuse_other_versions(path, found["environment"])
    for seed in dict.fromkeys(seeds):
        runs.append(one_run(dataclasses.replace(settings, seed=seed)))
        print(f"seed {seed}: {runs[-1]['wall_s']} s, {runs[-1]['cpu_s']} CPU s", file=sys.stderr, flush=True)
        runs.sort(key=lambda run: run["seed"])
        record.write(path, KIND, {"settings": wanted, "runs": runs})


def chosen(args: argparse.Namespace) -> Settings:
    """The settings that the arguments name, checked before any training."""
    settings = Settings(data=args.data, subset=args.subset, epochs=args.epochs)
    settings.check()
    if settings.data == "fashion-mnist":
        settings = dataclasses.replace(settings, data_dir=stored.folder(args.data_dir))
        fashion.check(settings.folder, settings.n_train)
    return settings


def depends_on(settings: Settings) -> dict[str, Any]:
    """All that figures depend on besides the seed."""
    return {
        "data": settings.data,
        "subset": settings.n_train if settings.data == "fashion-mnist" else None,
        "members": settings.members,
        "samples": settings.samples,
        "epochs": settings.epochs,
        "weight_decays_tried": list(WEIGHT_DECAYS),
    }


def refuse_other_versions(path: Path, environment: dict[str, Any]) -> None:
    """A file has the environment once, for all of its seeds.

    Raises:
        SystemExit: the file's seeds were run with other versions than are installed.
    """
    here = record.environment()
    if environment["versions"] != here["versions"]:
        raise SystemExit(
            f"{path} was made with {record.versions(environment)}; this is {record.versions(here)}; "
            "delete it or pass another --out"
        )


def finished(out: Path) -> list[dict[str, Any]]:
    """The results in a folder, a data set each.

    Raises:
        SystemExit: there are none.
    """
    paths = [out / f"{name.replace('-', '_')}.json" for name in TITLES]
    results = [record.read(path, KIND) for path in paths if path.exists()]
    if not results:
        raise SystemExit(f"no results in {out}; run experiments/demo/run.py first")
    return results


def one_run(settings: Settings) -> dict[str, Any]:
    """One seed's figures and times, without the import of torch and the writing of files."""
    settings.check()
    wall, cpu = time.perf_counter(), time.process_time()
    study = conduct(settings)
    return {
        "seed": settings.seed,
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "weight_decays": study.weight_decays,
        "temperatures": dict(study.report.results.classification.temperatures),
        "figures": {
            method: {metric: [round(value, 6) for value in values] for metric, values in row.items()}
            for method, row in study.figures.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
