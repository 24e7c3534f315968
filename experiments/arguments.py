"""What the scripts of the experiments are called with, and where their results go."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def parser(description: str | None, quick: str, *, cpu_only: bool = False) -> argparse.ArgumentParser:
    """The arguments that all have: --data-dir, --out, --device, --quick and --table.

    Args:
        description: the script's own text.
        quick: what --quick runs on.
        cpu_only: whether --device takes nothing but cpu.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data-dir", type=Path, help="default: $SWAG_DATA, else ./data")
    made.add_argument("--out", type=Path, help="folder of the results (default: beside this script)")
    made.add_argument("--device", default="cpu", choices=["cpu"] if cpu_only else None)
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--table", action="store_true", help="print the tables of --out and stop")
    return made


@contextmanager
def results_folder(args: argparse.Namespace, here: Path) -> Iterator[Path]:
    """--out, or `results` beside the script; for --quick alone a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        yield args.out or (Path(temporary) if args.quick else here / "results")
