"""MultiSWAG from the command line: members trained side by side, one mixture file at the end.

    python -m swag.multi runs.py:make_run --seeds 0-9 --out runs --workers 4
    torchrun --nproc-per-node=4 --max-restarts=3 -m swag.multi runs.py:make_run --seeds 0-9 --out runs

`make_run(seed)` returns the arguments of `swag.training.train` by name:

    def make_run(seed):
        return dict(model=Network(), train_loader=loader(), loss=F.cross_entropy, epochs=30, swa_start=0.7)

The first command starts torchrun itself, with the environment variable that makes restarts reliable. Members
go on from their own checkpoints after a stop, whoever stopped them; started again with the same arguments it
continues. `runs/mixture.safetensors` is for `swag.load`, `swag.Ensemble` and the command `swag`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from swag.errors import InputError, SwagError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or 2 for bad input (one line on standard error)."""
    parser = argparse.ArgumentParser(
        prog="python -m swag.multi", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    arguments = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    try:
        return run(arguments)
    except SwagError as error:
        print(f"swag.multi: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nswag.multi: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("make_run", help="file.py:function or package.module:function")
    parser.add_argument("--seeds", required=True, help="such as 0-9 or 0,3,7; one member each")
    parser.add_argument("--out", required=True, type=Path, help="folder of checkpoints and results")
    parser.add_argument("--workers", type=int, help="start torchrun with so many processes on this machine")
    parser.add_argument(
        "--restarts", type=int, default=3, help="how often --workers may start again (default: 3)"
    )
    parser.add_argument("--posterior", choices=("swag", "swag-diag", "swa"), default="swag")
    parser.add_argument("--scale", type=float, help="of the covariance (default: 0.5, or 1 for swag-diag)")
    parser.add_argument("--device", help="such as cuda: every rank takes the device of its own number")
    parser.add_argument(
        "--patience", type=float, default=3600.0, help="seconds to wait for a sign of others (default: 3600)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains what the arguments say, or starts torchrun to do it."""
    from swag.distributed.launch import is_worker, torchrun
    from swag.distributed.multi import train_runs
    from swag.distributed.place import place

    seeds = parsed_seeds(arguments.seeds)
    read_out = _read_out(arguments.posterior, arguments.scale)
    make_run = function_at(arguments.make_run)
    if arguments.workers is not None and not is_worker():
        words = ["-m", "swag.multi", arguments.make_run]
        for name in ("seeds", "out", "posterior", "scale", "device", "patience"):
            if getattr(arguments, name) is not None:
                words += [f"--{name}", str(getattr(arguments, name))]
        return torchrun(words, workers=arguments.workers, max_restarts=arguments.restarts)
    members = train_runs(
        make_run,
        seeds,
        arguments.out,
        device=arguments.device,
        read_out=read_out,
        patience=arguments.patience,
    )
    if place()[0] == 0:
        word = "member" if len(members) == 1 else "members"
        print(f"{members.path}: {len(members)} {word}, seeds {', '.join(map(str, members.seeds))}")
    return 0


def parsed_seeds(text: str) -> list[int]:
    """Seeds from text: single ones and ranges with both ends, separated by commas.

    Raises:
        InputError: the text is no such list.

    >>> parsed_seeds("0-3,7")
    [0, 1, 2, 3, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise InputError(
                f"seeds: cannot read {part!r} in {text!r}; pass numbers and ranges, such as 0-9 or 0,3,7"
            )
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return seeds


def function_at(place: str) -> Callable[[int], Any]:
    """The function at "file.py:name" or "package.module:name".

    Raises:
        InputError: no such file, module or function; says which.
    """
    source, _, name = place.rpartition(":")
    if not source or not name.isidentifier():
        raise InputError(f"make_run: got {place!r}; pass file.py:function, or package.module:function")
    module = _file(Path(source)) if source.endswith(".py") else _module(source)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"make_run: {source} has no function {name!r}; name the one that takes a seed")
    return function


def _file(path: Path) -> ModuleType:
    """The module in a file, whose folder is searched for what it imports, as Python does for a script."""
    if not path.is_file():
        raise InputError(f"make_run: there is no file {path}; pass file.py:function")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # worker processes of loaders look there for the classes of the data
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    sys.path[:] = sys.path if "" in sys.path or str(Path.cwd()) in sys.path else [str(Path.cwd()), *sys.path]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports something that is not
        raise InputError(f"make_run: there is no module {name!r}; pass package.module:function") from error


def _read_out(posterior: str, scale: float | None) -> Any:
    """The posterior's name on the command line, as a function of a collector."""
    if posterior == "swa":
        if scale is not None:
            raise InputError("scale: SWA is a point, which has none; leave --scale out")
        return lambda collector: collector.swa()
    if posterior == "swag-diag":
        return lambda collector: collector.swag_diag(1.0 if scale is None else scale)
    return lambda collector: collector.swag(0.5 if scale is None else scale)


if __name__ == "__main__":
    sys.exit(main())
