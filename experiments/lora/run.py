"""SWAG over LoRA adapters of a small GPT-2: which sentences have their words in disorder?

    python experiments/lora/run.py --data-dir DIR      WikiText-2, three seeds, about 15 CPU minutes
    python experiments/lora/run.py --quick             the whole path on a made-up language, about 15 s
    python experiments/lora/run.py --table             the tables from the results, nothing is run

The base model is one file (not under version control), a seed one file in --out; a run that was stopped goes
on with what is missing. Without a number after --seeds the base model alone is trained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from experiments import record
from experiments.lora.base import base
from experiments.lora.settings import QUICK, Settings
from experiments.lora.study import Study
from experiments.lora.table import tables
from experiments.lora.task import corpus

HERE = Path(__file__).resolve().parent
KIND, BASE = "lora", "lora base"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="default: $SWAG_DATA, else ./data")
    parser.add_argument("--out", type=Path, help="folder of the results (default: beside this script)")
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="the sizes are for one core")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="tiny, made up, one seed, a temporary folder")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or (Path(temporary) if args.quick else HERE / "results")
        if not args.table:
            run(out, args)
        found = sorted(out.glob("seed-*.json"))
        if not found:
            print(f"no results in {out}")
            return 0
        print(tables(record.read(out / "base.json", BASE), [record.read(path, KIND) for path in found]))
    return 0


def run(out: Path, args: argparse.Namespace) -> None:
    """What is missing in `out`."""
    settings = QUICK if args.quick else Settings()
    plain = asdict(settings)
    seeds = args.seeds[:1] if args.quick else args.seeds
    missing = [seed for seed in seeds if not record.done(out / f"seed-{seed}.json", KIND, plain)]
    if seeds and not missing:
        return
    texts = corpus(settings, args.data_dir)
    kept = (out if args.quick else HERE) / "base.safetensors"
    trained = base(settings.base, texts.text, texts.held_out, kept)
    found = {"perplexity": trained.perplexity, "tokens": trained.tokens, "cpu_s": trained.cpu_s}
    record.write(out / "base.json", BASE, {"settings": plain["base"], **found})
    study = Study(settings, texts, trained)
    for seed in missing:
        result = study.seed(seed)
        record.write(out / f"seed-{seed}.json", KIND, {"settings": plain, "seed": seed, **result})


if __name__ == "__main__":
    sys.exit(main())
