"""All benchmarks, or some of them.

    python -m experiments.performance --quick                           under two minutes, small sizes
    ./run bench --out experiments/performance/results                   everything, about ten minutes
    python -m experiments.performance --docs                            docs/performance.md from those files

Where .peers has the environment that peers.py makes, everything runs under its Python, so that ours and
the peers are measured side by side; else the peers' rows are skipped.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from .peers import ROOT, WHERE, python_of

BENCHMARKS = ("collect", "sample", "predict", "memory", "scaling", "imports", "metrics", "storage")
HERE = Path(__file__).resolve().parent


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    if arguments.docs:
        from . import docs

        folder = arguments.out or HERE / "results"
        docs.PAGE.write_text(docs.page(docs.read(folder), docs.read_large(folder)), encoding="utf-8")
        print(f"{docs.PAGE} is written")
        return 0
    chosen = arguments.only.split(",") if arguments.only else available()
    unknown = [name for name in chosen if name not in available()]
    if unknown:
        print(f"--only: no benchmark {unknown[0]!r}; there are {', '.join(available())}", file=sys.stderr)
        return 2
    if arguments.out is not None:
        try:
            arguments.out.mkdir(exist_ok=True)
        except OSError as error:
            print(f"--out: {arguments.out} cannot be made ({error.strerror})", file=sys.stderr)
            return 2
    _change_environment(arguments, sys.argv[1:] if words is None else words)
    return _run(arguments, chosen)


def available() -> list[str]:
    """The benchmarks whose modules are here."""
    return [name for name in BENCHMARKS if (HERE / f"{name}.py").exists()]


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m experiments.performance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, three repeats")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(available())}")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write the results there; else they are only printed"
    )
    parser.add_argument(
        "--docs", action="store_true", help="write docs/performance.md from the results in --out"
    )
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own choice)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--swa-gaussian", metavar="PATH", help="a checkout of the SWAG paper's code")
    parser.add_argument("--peers", type=Path, default=WHERE, metavar="DIR", help="where peers.py made them")
    parser.add_argument("--without-peers", action="store_true", help="measure ours and the limits alone")
    return parser.parse_args(words)


def _change_environment(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    """Starts again under the peers' Python, where there is one and this is another."""
    python = python_of(arguments.peers)
    if arguments.without_peers or Path(sys.prefix).resolve() == arguments.peers.resolve():
        return
    if not python.exists():
        print(
            f"{arguments.peers} is not there, so other libraries are skipped; it is made by\n"
            "    python experiments/performance/peers.py --make .peers",
            file=sys.stderr,
        )
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sys.stdout.flush()
    os.execv(python, [str(python), "-m", "experiments.performance", *words])


def _run(arguments: argparse.Namespace, chosen: Sequence[str]) -> int:
    import torch

    from . import tables
    from .results import Settings, cpu_name

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size = "quick" if arguments.quick else "full"
    settings = Settings.of(size, seed=arguments.seed, swa_gaussian=arguments.swa_gaussian)
    print(f"{cpu_name()}; {torch.get_num_threads()} threads; torch {torch.__version__}\n", flush=True)
    goals, skipped, failed = [], [], []
    for name in chosen:
        started = time.perf_counter()
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            results = importlib.import_module(f"experiments.performance.{name}").run(settings)
        except Exception:  # the others are worth having all the same
            traceback.print_exc()
            failed.append(name)
            continue
        results.seconds = time.perf_counter() - started
        found = results.to_dict()
        print(f"## {name} ({results.seconds:.0f} s)\n")
        for table in found["tables"]:
            print(tables.markdown(table), end="\n\n")
        disturbed = tables.contended(found["tables"])
        if disturbed:
            print(f"\\* contended, so too high: {', '.join(disturbed)}\n")
        if arguments.out is not None:
            results.write(arguments.out)
        goals += found["goals"]
        skipped += [reason for reason in found["skipped"] if reason not in skipped]
        sys.stdout.flush()
    print("## Goals\n")
    if arguments.quick:
        print("A quick run's sizes are too small for its goals to be judged.\n")
    print(tables.goals(goals))
    for reason in skipped:
        print(f"\nskipped: {reason}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
