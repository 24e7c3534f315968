"""Other libraries: an environment of their own, and their real code out of it.

    python experiments/performance/peers.py --make .peers     about a minute; then ./run bench finds it

The environment holds the torch that constraints.txt pins, what `swag` needs, and the peers. torchvision is
left out, since its wheels replace torch or break: so torch-uncertainty and lightning-uq-box come without
their dependencies, and what is loaded are their SWAG modules, not their packages' front doors. The SWAG
paper's code has no package: say where a checkout lies with --swa-gaussian PATH or in $SWA_GAUSSIAN;
gpytorch, which it imports, is taken at the last version that fits it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WHERE = ROOT / ".peers"
# Installed with the versions of constraints.txt where that has them.
_NEEDED = ["numpy", "scipy", "scikit-learn", "safetensors", "pillow", "matplotlib", "jinja2", "tqdm"]
_NEEDED += ["torchmetrics", "netcal", "lightning", "h5py", "pandas", "uncertainty-toolbox", "linear_operator"]
# Without their dependencies, which would bring in torchvision or another torch.
_BARE = ["gpytorch==1.8.1", "torch-uncertainty==0.13.0", "lightning-uq-box==0.2.0"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--make", type=Path, metavar="DIR", help="make the environment there (usually .peers)"
    )
    arguments = parser.parse_args()
    if arguments.make is None:
        parser.print_help()
        return 2
    return make(arguments.make)


def make(folder: Path) -> int:
    """Makes or completes the environment; packages that do not install are named and left out."""
    constraints = ROOT / "constraints.txt"
    torch = re.search(r"^torch==\S+", constraints.read_text(), re.MULTILINE)
    if torch is None:
        raise SystemExit("constraints.txt has no line torch==VERSION")
    if not python_of(folder).exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python_of(folder)), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    pinned = [*pip, "-c", str(constraints)]
    if subprocess.run([*pinned, torch.group()]).returncode:
        raise SystemExit(f"{torch.group()} could not be installed; see above")
    if subprocess.run([*pinned, *_NEEDED]).returncode:
        raise SystemExit("what swag itself needs could not be installed; see above")
    for package in _BARE:
        if subprocess.run([*pip, "--no-deps", package]).returncode:
            print(f"{package}: not installed; its rows will be skipped", file=sys.stderr)
    check = "import torch, sys; sys.exit(torch.__version__.partition('+')[0] != sys.argv[1])"
    version = torch.group().partition("==")[2]
    if subprocess.run([str(python_of(folder)), "-c", check, version]).returncode:
        raise SystemExit(f"the peers replaced torch {version}; remove {folder} and leave one of them out")
    print(f"{folder} is ready")
    return 0


def python_of(folder: Path) -> Path:
    """The environment's Python."""
    return folder / "bin" / "python"


class Missing(Exception):
    """A peer that is not here, and what to do about it."""


def swa_gaussian(checkout: str | None) -> Any:
    """The module posteriors/swag.py of the paper's code, with `utils` beside it.

    Its package's front door is passed by (it imports data sets and torchvision, and is called `swag` too).
    """
    where = checkout or os.environ.get("SWA_GAUSSIAN")
    if not where:
        raise Missing("swa_gaussian: pass --swa-gaussian PATH or set SWA_GAUSSIAN to a checkout of it")
    folder = Path(where) / "swag"
    if not (folder / "posteriors" / "swag.py").exists():
        raise Missing(f"swa_gaussian: {where} has no swag/posteriors/swag.py")
    return _load("swa_gaussian", folder, "posteriors.swag")


def torch_uncertainty() -> Any:
    """torch_uncertainty.methods.swag."""
    return _load("torch_uncertainty", _folder("torch_uncertainty", "torch-uncertainty"), "methods.swag")


def lightning_uq_box() -> Any:
    """lightning_uq_box.uq_methods.swag."""
    return _load("lightning_uq_box", _folder("lightning_uq_box", "lightning-uq-box"), "uq_methods.swag")


def _folder(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package) if package not in sys.modules else None
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if package in sys.modules:
        return Path(sys.modules[package].__path__[0])
    raise Missing(f"{name}: not installed here; python experiments/performance/peers.py --make .peers")


def _load(package: str, folder: Path, module: str) -> Any:
    """Imports folder/module as package.module, its parents being bare folders: their __init__ is not run."""
    parents = module.split(".")[:-1]
    for depth in range(len(parents) + 1):
        name = ".".join([package, *parents[:depth]])
        if name not in sys.modules:
            bare = types.ModuleType(name)
            bare.__path__ = [str(folder.joinpath(*parents[:depth]))]
            sys.modules[name] = bare
    try:
        return importlib.import_module(f"{package}.{module}")
    except ImportError as error:
        raise Missing(f"{package}: cannot be imported here ({error})") from error


@contextlib.contextmanager
def cuda_is_here() -> Iterator[None]:
    """`tensor.cuda()` gives the tensor itself: swa_gaussian writes it into its samples and its loops."""
    import torch

    kept = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.cuda = kept  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
