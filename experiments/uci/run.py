"""UCI regression with the published splits: ten methods, shared trajectories, tuned on training rows alone.

    python experiments/uci/run.py --set boston --splits all --methods all       results/boston.json
    python experiments/uci/run.py --set my.npz --splits 0,1 --methods SGD,SWAG --out my.json
    python experiments/uci/run.py --quick                          some 15 seconds, no data folder needed
    python experiments/uci/run.py --table                          the results files as Markdown

A run that was stopped goes on with what is missing; rows that are there are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import data, record
from experiments.uci import sets, tables
from experiments.uci.made_up import write_diabetes
from experiments.uci.methods import METHODS
from experiments.uci.recipes import Recipe, quick, recipe_for
from experiments.uci.study import Study
from swag.errors import InputError, SwagError

HERE = Path(__file__).resolve().parent
KIND = "uci"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set",
        dest="name",
        metavar="SET",
        help=f"{', '.join(sets.NAMES)}, an .npz file, or the name of one in --data-dir",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="the folder of the data (default: $SWAG_DATA, else ./data)"
    )
    parser.add_argument("--splits", default="all", help="all (the default), or numbers from 0 as in 0,1,5-9")
    parser.add_argument("--methods", default="all", help=f"all (the default), or some of {','.join(METHODS)}")
    parser.add_argument(
        "--out", type=Path, help="the results file (default: results/SET.json beside this script)"
    )
    parser.add_argument("--validation", type=float, help="share of the training rows that tuning holds out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch (1, the default, gives equal bits)")
    parser.add_argument(
        "--device", choices=("cpu",), default="cpu", help="networks this small gain from no other"
    )
    parser.add_argument("--quick", action="store_true", help="little of everything; without --set, diabetes")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of --out or of all results and stop"
    )
    args = parser.parse_args(arguments)
    if not args.name and not args.quick and not args.table:
        parser.error("--set is needed (or --quick, or --table)")
    torch.set_num_threads(args.threads)
    try:
        if args.table:
            root = _root(args.data_dir)
            print(tables.tables(_found(args.out), KIND, root))
            if root is None:
                print("no data folder (SWAG_DATA): MC dropout's published rows are left out", file=sys.stderr)
            return 0
        with tempfile.TemporaryDirectory() as temporary:
            return run(args, Path(temporary))
    except SwagError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace, temporary: Path) -> int:
    """What the command line asks for, into the results file."""
    root = _root(args.data_dir)  # first: a folder that is not there is said before the work
    path = sets.find(args.name, args.data_dir) if args.name else write_diabetes(temporary / "diabetes.npz")
    table = sets.read(path)
    methods, numbers = wanted_methods(args.methods), wanted_splits(args.splits, len(table.train))
    recipe = replace(recipe_for(table.name), seed=args.seed)
    if args.quick:
        recipe = quick(recipe)
        numbers = numbers[:2]
    if args.validation is not None:
        recipe = replace(recipe, validation=args.validation)
    for number in numbers:
        recipe.held_rows(len(table.train[number]))
    if not args.out and args.quick:
        out = temporary / f"{table.name}.json"
    else:
        out = args.out or HERE / "results" / f"{table.name}.json"
    fill(out, table, numbers, methods, recipe)
    print(tables.tables([out], KIND, root))
    return 0


def fill(out: Path, table: sets.Table, numbers: list[int], methods: list[str], recipe: Recipe) -> None:
    """Computes the rows that `out` lacks, and writes it after every step."""
    settings = {"recipe": asdict(recipe), "table": table.fingerprint}
    content: dict[str, Any] = {"rows": [], "tuned": {}, "seconds": 0.0, "cpu_seconds": 0.0}
    if record.done(out, KIND, settings):
        content = record.read(out, KIND)
    rows = {(row["method"], row["split"]): row for row in content["rows"]}
    tuned = {int(number): choice for number, choice in content["tuned"].items()}
    wall, cpu = time.perf_counter(), time.process_time()

    def save() -> None:
        order = {method: place for place, method in enumerate(METHODS)}
        record.write(
            out,
            KIND,
            {
                "set": table.name,
                "n_splits": len(table.train),
                "settings": settings,
                "seconds": content["seconds"] + time.perf_counter() - wall,
                "cpu_seconds": content["cpu_seconds"] + time.process_time() - cpu,
                "tuned": {str(number): tuned[number] for number in sorted(tuned)},
                "rows": sorted(rows.values(), key=lambda row: (order[row["method"]], row["split"])),
            },
        )

    def say(line: str) -> None:
        print(f"{time.perf_counter() - wall:7.1f} s  {line}", file=sys.stderr, flush=True)
        save()

    for group in sets.alike(numbers, table):
        missing = [m for m in methods if any((m, number) not in rows for number in group)]
        if not missing:
            print(f"{table.name}: splits {group[0]} … {group[-1]} are already there", file=sys.stderr)
            continue
        say(f"{table.name}: {len(group)} splits, {', '.join(missing)}")
        study = Study(table, group, missing, recipe, tuned, say)
        study.tune()
        for found in study.rows():
            for row in found:
                rows.setdefault((row["method"], row["split"]), row)
            save()


def wanted_methods(text: str) -> list[str]:
    """The methods named, in the tables' order.

    Raises:
        InputError: one is unknown, or none is named.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(METHODS)
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise InputError(f"--methods: got {text!r}; pass all, or some of {', '.join(METHODS)}, with commas")
    return [name for name in METHODS if name in names]


def wanted_splits(text: str, n_splits: int) -> list[int]:
    """The splits named, as in "all" or "0,3,5-7".

    Raises:
        InputError: not numbers, or one that the table does not have.
    """
    if text.strip() == "all":
        return list(range(n_splits))
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        found = {-1}
    if not found or min(found) < 0 or max(found) >= n_splits:
        raise InputError(f"--splits: got {text!r}; pass all, or numbers from 0 to {n_splits - 1} as in 0,1")
    return sorted(found)


def _found(out: Path | None) -> list[Path]:
    if out is not None:
        if not out.is_file():
            raise InputError(f"--out: {out} is not there; run without --table first")
        return [out]
    present = {path.stem: path for path in (HERE / "results").glob("*.json")}
    if not present:
        raise InputError(f"--table: {HERE / 'results'} has no results yet; run without --table first")
    return [
        present[name]
        for name in sorted(present, key=lambda name: (name not in sets.NAMES, _place(name), name))
    ]


def _place(name: str) -> int:
    return sets.NAMES.index(name) if name in sets.NAMES else 0


def _root(data_dir: Path | None) -> Path | None:
    """The data folder, if there is one: the tables read MC dropout's published figures from it."""
    if data_dir is None:
        usual = Path(os.environ.get("SWAG_DATA") or "data")
        return usual if usual.is_dir() else None
    return data.folder(data_dir)


if __name__ == "__main__":
    sys.exit(main())
