"""What `swag demo` finds over several seeds: every member's figures, the time taken, and what ran it.

    python experiments/demo/run.py --out experiments/demo/results/digits.json
    python experiments/demo/run.py --data fashion-mnist --data-dir DIR --seeds 0-2 --out …/fashion_mnist.json

A seed changes everything that is random: the split, the noise, the patches, the initial weights, the order of
batches, the samples. `table.py` turns the results into the tables of the README.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import scipy
import sklearn
import torch

import swag
from swag.atomic import write_text
from swag.demo.settings import DATA, Settings
from swag.demo.study import WEIGHT_DECAYS, conduct


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--data-dir", type=Path, help="for fashion-mnist (default: $SWAG_DATA, else ./data)")
    parser.add_argument("--subset", type=int, help="training rows of Fashion-MNIST")
    parser.add_argument("--seeds", type=seeds, default=seeds("0-4"), help="as in 0-4 (the default) or 7")
    parser.add_argument("--epochs", type=int, default=Settings().epochs)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    arguments = parser.parse_args()
    settings = Settings(
        data=arguments.data, data_dir=arguments.data_dir, subset=arguments.subset, epochs=arguments.epochs
    )
    runs = []
    for seed in arguments.seeds:
        runs.append(one_run(dataclasses.replace(settings, seed=seed)))
        print(f"seed {seed}: {runs[-1]['wall_s']} s, {runs[-1]['cpu_s']} CPU s", file=sys.stderr, flush=True)
        write_text(arguments.out, json.dumps(document(settings, runs), indent=1) + "\n")
    return 0


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


def document(settings: Settings, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The results with what they depend on."""
    return {
        "data": settings.data,
        "subset": settings.n_train if settings.data == "fashion-mnist" else None,
        "members": settings.members,
        "samples": settings.samples,
        "epochs": settings.epochs,
        "weight_decays_tried": list(WEIGHT_DECAYS),
        "versions": {
            "swag": swag.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
            "python": platform.python_version(),
        },
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "threads used": 1},
        "runs": runs,
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main())
