"""The arrows between the modules of `swag`: who may import whom, and what `import swag` leaves alone."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "swag"

# Who may import whom. A name stands for swag/NAME.py or all of swag/NAME/; a new module gets its line here.
# "errors" and "arguments" are open to everyone. A plus sign adds all that lies under that one; a star is all
# but the edges.
MAY_IMPORT: dict[str, str] = {
    "errors": "",
    "arguments": "",
    "atomic": "",
    "progress": "",
    "batches": "",
    "selection": "",
    "parameters": "selection",
    "staging": "parameters",
    "moments": "",
    "noise": "",
    "diagnostics": "parameters",
    "forecast": "parameters",
    "posterior": "parameters noise diagnostics",
    "subspace": "posterior parameters batches batchnorm noise progress shadow predictive functional",
    "collector_state": "moments parameters",
    "running": "moments",
    "applied": "parameters batchnorm batches",
    "collector": "applied batches forecast running collector_state parameters selection staging moments "
    "posterior subspace",
    "batchnorm": "parameters batches noise progress",
    "shadow": "parameters",
    "predictive": "",
    "metrics": "",
    "weights": "posterior",
    "members": "parameters batches shadow weights",
    "folding": "",
    "strategy": "",
    "functional": "batches",
    "vectorised": "batches members functional",
    "forwarding": "members batches folding strategy vectorised",
    "draws": "forwarding members parameters posterior batchnorm batches predictive shadow weights",
    "tuning": "forwarding strategy",
    "approximation": "forwarding members batchnorm batches",
    "ensemble": "+draws +tuning +approximation noise progress shadow strategy weights",
    "tensorfile": "",
    "files": "+collector +ensemble atomic tensorfile",
    "checkpoints": "+collector +ensemble atomic tensorfile progress",
    "calibrators": "metrics predictive",
    "report": "metrics predictive calibrators atomic",
    "schedules": "",
    "training": "+ensemble +files +checkpoints schedules",
    "geometry": "+ensemble +files",
    "lowprecision": "+ensemble +files schedules training",
    "distributed": "+ensemble +files training metrics",
    "scale_rank": "+ensemble +files",
    # the edges: they may import all of the above, and nobody but the command line imports them
    "multi": "*",
    "demo": "*",
    "integrations": "*",
    "cli": "* demo integrations multi",
    "__init__": "*",  # what `import swag` runs; named "__init__" too where a module imports from it
    "__main__": "cli",
}
EDGES = {"multi", "demo", "integrations", "cli", "__init__", "__main__"}
MAY_IMPORT_THE_WHOLE = {"multi", "demo", "integrations", "cli"}  # `import swag`, as users do

# Where the packages from outside are limited too; the standard library is open to everyone.
OUTSIDE: dict[str, set[str]] = {
    "errors": set(),
    "schedules": {"torch"},
    "parameters": {"torch"},
    "moments": {"torch"},
    "noise": {"torch"},
    "posterior": {"torch"},
    "batchnorm": {"torch"},
    "predictive": {"torch", "numpy", "scipy", "sklearn"},
    "metrics": {"torch", "numpy", "scipy", "sklearn"},
}
ONLY_INSIDE_FUNCTIONS = {"metrics": {"sklearn"}}
NEVER = {"experiments", "tests", "notebooks"}

# What a plain `import swag` does not load.
LATE = [
    "sklearn",
    "matplotlib",
    "scipy.stats",
    "lightning",
    "pytorch_lightning",
    "transformers",
    "accelerate",
    "peft",
    "skorch",
    "botorch",
    "gpytorch",
    "torchmetrics",
    "tensorboard",
    "stable_baselines3",
    "gymnasium",
    "pyro",
    "pandas",
]


def allowed(top: str) -> set[str]:
    """The modules that `top` may import: its line in the table, spelled out."""
    names = {"errors"} if top in ("errors", "arguments") else {"errors", "arguments"}
    if top in MAY_IMPORT_THE_WHOLE:
        names.add("__init__")
    for word in MAY_IMPORT[top].split():
        if word == "*":
            names |= set(MAY_IMPORT) - EDGES
        elif word.startswith("+"):
            names |= {word[1:]} | under(word[1:])
        else:
            names.add(word)
    return names


def under(top: str) -> set[str]:
    """What `top` may reach over any number of imports."""
    reached: set[str] = set()
    pending = allowed(top)
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending |= allowed(name)
    return reached


def top_module(path: Path, package: Path) -> str:
    return path.relative_to(package).with_suffix("").parts[0]


def imports(path: Path, package: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted absolute name, whether the module level does it) of every import in a file.

    `from a import b` counts as `a.b`: b may be a module. Type-checking blocks count as well.
    """
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    pending: list[tuple[ast.AST, bool]] = [(tree, True)]
    while pending:
        node, at_module_level = pending.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, at_module_level
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(parts[: -node.level]) if node.level else ""
            base = ".".join(filter(None, [start, node.module]))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}", at_module_level
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        pending += [(child, at_module_level and not inside) for child in ast.iter_child_nodes(node)]


def violations(package: Path) -> list[str]:
    """Every import under `package` that the tables above do not allow, as "file:line: why"."""
    found = []
    for path in sorted(package.rglob("*.py")):
        top = top_module(path, package)
        where = path.relative_to(package.parent)
        if top not in MAY_IMPORT:
            found.append(f"{where}: {top!r} has no line in MAY_IMPORT; declare there what it may import")
            continue
        for line, name, at_module_level in imports(path, package):
            first, *rest = name.split(".")
            if name == f"{package.name}.__version__":
                pass  # a constant that a file's header may want; the function that needs it imports it
            elif first == package.name:
                is_module = rest and (
                    rest[0] in MAY_IMPORT
                    or (package / rest[0]).is_dir()
                    or (package / f"{rest[0]}.py").exists()
                )
                target = rest[0] if is_module else "__init__"
                if target != top and target not in allowed(top):
                    found.append(f"{where}:{line}: {top} may not import {target} ({name})")
            elif first in NEVER:
                found.append(f"{where}:{line}: the library may not import {first}")
            elif first not in sys.stdlib_module_names and first not in OUTSIDE.get(top, {first}):
                found.append(f"{where}:{line}: {top} may not import {first}")
            elif at_module_level and first in ONLY_INSIDE_FUNCTIONS.get(top, set()):
                found.append(f"{where}:{line}: {top} may import {first} only inside a function")
    return found


def test_arrows() -> None:
    assert violations(PACKAGE) == []


def test_the_table_has_no_circle_and_no_unknown_name() -> None:
    done: set[str] = set()
    left = {top: allowed(top) - {top} for top in MAY_IMPORT if top not in EDGES}
    while left:
        free = {top for top, names in left.items() if names <= done}
        assert free, f"circular, or not in the table: {left}"
        done |= free
        left = {top: names for top, names in left.items() if top not in free}
    assert all(allowed(top) <= set(MAY_IMPORT) for top in EDGES)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A made-up package `swag` whose imports are all in order."""
    files = {
        "__init__.py": "from swag import metrics\nfrom swag.files import load\n",
        "errors.py": "",
        "parameters.py": "import math\nimport torch\nfrom swag.errors import InputError\n",
        "metrics/__init__.py": "from swag.metrics.scores import brier\n",
        "metrics/scores.py": "import numpy\ndef auroc():\n    import sklearn.metrics\n",
        "posterior/__init__.py": "from .point import PointMass\n",
        "posterior/point.py": "from ..parameters import Layout\nfrom swag import errors\nimport swag.noise\n",
        "noise.py": "import torch\n",
        "files.py": "from swag.collector import Collector\nfrom swag import noise\nimport safetensors\n",
        "collector.py": "from swag import moments\n",
        "moments.py": "",
        "cli/__init__.py": "import swag\nfrom swag.demo import main\n",
        "demo.py": "from swag import Ensemble\nfrom swag.files import save\n",
    }
    folder = tmp_path / "swag"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_checker_accepts_what_is_in_order(package: Path) -> None:
    assert violations(package) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("parameters.py", "from swag.collector import Collector", "parameters may not import collector"),
        ("parameters.py", "from swag import collector", "parameters may not import collector"),
        ("parameters.py", "import swag.collector as c", "parameters may not import collector"),
        ("parameters.py", "from . import collector", "parameters may not import collector"),
        ("parameters.py", "def f():\n    from swag.collector import Collector", "swag/parameters.py:2:"),
        ("parameters.py", "import swag", "parameters may not import __init__"),
        ("parameters.py", "from swag import Collector", "parameters may not import __init__"),
        ("parameters.py", "import numpy as np", "parameters may not import numpy"),
        ("posterior/point.py", "from ..files import save", "posterior may not import files"),
        ("posterior/__init__.py", "from .. import files", "posterior may not import files"),
        ("metrics/scores.py", "from swag.parameters import Layout", "metrics may not import parameters"),
        ("metrics/scores.py", "import pandas", "metrics may not import pandas"),
        ("metrics/scores.py", "import sklearn.metrics", "only inside a function"),
        ("metrics/scores.py", "class A:\n    from sklearn.metrics import auc", "only inside a function"),
        ("metrics/scores.py", "try:\n    import sklearn\nfinally:\n    pass", "only inside a function"),
        ("files.py", "from swag.cli import main", "files may not import cli"),
        ("demo.py", "from swag.cli import main", "demo may not import cli"),
        ("__init__.py", "from swag.demo import main", "__init__ may not import demo"),
        ("files.py", "from experiments.networks import resnet", "may not import experiments"),
        ("cli/__init__.py", "def f():\n    import tests.oracles", "may not import tests"),
        ("novelty.py", "", "'novelty' has no line in MAY_IMPORT"),
        ("novelty/__init__.py", "", "'novelty' has no line in MAY_IMPORT"),
    ],
)
def test_the_checker_catches(package: Path, name: str, text: str, complaint: str) -> None:
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_text(text + "\n")
    found = violations(package)
    assert len(found) == 1
    assert complaint in found[0]


def test_a_plain_import_stays_light() -> None:
    use = "from swag import Collector, Ensemble, Mixture, load, save"  # `import swag` alone loads nothing
    code = f"{use}; import sys; print(*(name for name in {LATE} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "`import swag` loads them; import them inside functions"


def test_every_module_can_be_imported() -> None:
    """All but the integrations, whose packages may be missing. (Doctests skip what cannot be imported.)"""
    import swag

    for module in pkgutil.walk_packages(swag.__path__, "swag."):
        if not module.name.startswith("swag.integrations.") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
