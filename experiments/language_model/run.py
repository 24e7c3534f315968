"""Averages of weights for a small language model: perplexity and speed on WikiText-2.

    python experiments/language_model/run.py --data-dir DIR    two optimizers, three seeds (11 CPU minutes)
    python experiments/language_model/run.py --quick           made-up text, some seconds, no data folder
    python experiments/language_model/run.py --table           the tables from the results, nothing is run

One optimizer from one seed is one file in --out; a run that was stopped goes on with the missing files.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import arguments, record
from experiments.language_model import text
from experiments.language_model.study import KIND, OPTIMIZERS, QUICK, Recipe, run
from experiments.language_model.table import tables

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = arguments.parser(__doc__, quick="small, on made-up text, two seeds")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
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
    """Seed by seed, so that what is compared was run side by side."""
    recipe = QUICK if args.quick else Recipe()
    corpus: text.Corpus | None = None
    for seed in args.seeds[: 2 if args.quick else None]:
        for optimizer in args.optimizers:
            path = out / f"{optimizer}-{seed}.json"
            settings = {"recipe": asdict(recipe), "optimizer": optimizer, "seed": seed}
            if record.done(path, KIND, settings):
                continue
            if corpus is None:
                corpus = read(recipe, args)
            started = time.perf_counter()
            record.write(path, KIND, run(corpus, recipe, optimizer, seed), device=args.device)
            print(f"{path.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def read(recipe: Recipe, args: argparse.Namespace) -> text.Corpus:
    """The text, on the device."""
    corpus = (
        text.made_up(recipe.vocabulary) if args.quick else text.wikitext2(args.data_dir, recipe.vocabulary)
    )
    parts = {part: getattr(corpus, part).to(args.device) for part in ("train", "valid", "test")}
    return replace(corpus, **parts)


if __name__ == "__main__":
    sys.exit(main())
