"""Does averaging a policy's weights raise its return, or steady it (SWA for A2C and DDPG)?

    python experiments/rl/run.py                6 tasks, seeds 0 to 4: about half an hour on one core
    python experiments/rl/run.py --quick        about 15 seconds: short runs, no statement
    python experiments/rl/run.py --table        the results as Markdown, without running anything
    python experiments/rl/run.py --tasks Hopper-v5-DDPG --seeds 0 1

A task with one seed is one file in --out; a run that was stopped goes on with what is missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import record
from experiments.rl.table import table
from experiments.rl.tasks import EVAL_SEED, QUICK, TASKS, Task, build
from swag.integrations.stable_baselines3 import SWAGCallback
from swag.training import EMA

HERE = Path(__file__).resolve().parent
KIND = "rl"
_PACKAGES = ("stable-baselines3", "gymnasium", "mujoco")


def main() -> int:
    names = [task.name for task in TASKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="not needed: environments bring no data")
    parser.add_argument("--out", type=Path, help="folder of the results (default: beside this script)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--tasks", nargs="+", choices=names, default=names, metavar="TASK", help=", ".join(names)
    )
    parser.add_argument("--quick", action="store_true", help="short runs into a temporary folder")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or (Path(temporary) if args.quick else HERE / "results")
        if not args.table:
            tasks = QUICK if args.quick else [task for task in TASKS if task.name in args.tasks]
            run_all(tasks, args.seeds[:2] if args.quick else args.seeds, out, args.device)
        print(table(found(out)))
    return 0


def found(out: Path) -> list[dict[str, Any]]:
    """The results in a folder, in the order of the tasks, then of seeds."""
    results = [record.read(file, KIND) for file in sorted(out.glob("*.json"))]
    order = [(task.env, task.algorithm) for task in TASKS]

    def place(result: dict[str, Any]) -> tuple[int, int]:
        settings = result["settings"]
        return order.index((settings["env"], settings["algorithm"])), result["seed"]

    return sorted(results, key=place)


def run_all(tasks: Sequence[Task], seeds: Sequence[int], out: Path, device: str) -> None:
    """Every task with the first seed, then with the next; what is there already is left alone."""
    for seed in seeds:
        for task in tasks:
            file, settings = out / f"{task.name}-{seed}.json", asdict(task)
            if record.done(file, KIND, settings):
                continue
            payload = {"settings": settings, "seed": seed, **run(task, seed, device)}
            record.write(file, KIND, payload, device=device)
            last = payload["rows"][-1]["returns"]
            shown = ", ".join(f"{name} {sum(values) / len(values):.1f}" for name, values in last.items())
            now = time.strftime("%H:%M:%S")
            print(f"{now} {task.name} seed {seed}: {shown} ({payload['seconds']:.0f} s)", flush=True)


def run(task: Task, seed: int, device: str) -> dict[str, Any]:
    """Trains once; the current policy and its averages are evaluated along the way."""
    model, evaluated = build(task, seed, device)
    callback = SWAGCallback(
        rank=task.rank,
        swa_start=task.steps(task.swa_start),
        every=task.steps(task.every),
        also={"ema": EMA(task.ema_decay)},
        eval_env=evaluated,
        eval_every=task.steps(task.eval_every),
        n_eval_episodes=task.n_eval_episodes,
        eval_seed=EVAL_SEED,
    )
    start = time.process_time()
    model.learn(task.timesteps, callback=callback)
    seconds = time.process_time() - start
    return {
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "seconds": seconds,
        "n_collected": callback.n_collected,
        "rows": [evaluation.to_dict() for evaluation in callback.evaluations],
    }


if __name__ == "__main__":
    sys.exit(main())
