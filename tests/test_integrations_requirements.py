"""A missing or old framework is answered with the line that mends it."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from swag.errors import SwagError
from swag.integrations.requirements import MissingPackage, require

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes an importable package with the given source."""

    def make(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield make
    for name in [n for n in sys.modules if n.startswith("made_up_")]:
        del sys.modules[name]


def test_a_missing_package_names_the_pip_line():
    with pytest.raises(
        MissingPackage, match=r'not installed, version 3\.1 .*pip install "swag-torch\[extra\]"'
    ):
        require("no_such_framework", "3.1", "extra")


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "made_up_folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        MissingPackage, match=r'only a folder of that name, .*pip install "swag-torch\[extra\]"'
    ):
        require("made_up_folder", "3.1", "extra")


def test_the_error_is_an_import_error_and_ours():
    assert issubclass(MissingPackage, ImportError) and issubclass(MissingPackage, SwagError)


@pytest.mark.parametrize("found", ["2.6", "2.6.0", "2.6.0rc1", "2.6.0.dev3+cpu", "2.10.1", "3"])
def test_new_enough(package, found):
    require(package(f"made_up_new_{re.sub(r'[.+]', '_', found)}", f"__version__ = {found!r}"), "2.6", "x")


@pytest.mark.parametrize("found", ["2.5.9", "2.5.9.post1", "1.99", "0", "2"])
def test_too_old_says_both_versions(package, found):
    name = package(f"made_up_old_{re.sub(r'[.+]', '_', found)}", f"__version__ = {found!r}")
    with pytest.raises(MissingPackage, match=rf"found version {found}, version 2\.6 .*--upgrade .*\[x\]"):
        require(name, "2.6", "x")


def test_a_package_that_lacks_what_it_needs_itself(package):
    name = package("made_up_broken", "import no_such_dependency")
    with pytest.raises(MissingPackage, match="needs 'no_such_dependency'"):
        require(name, "1", "x")


@pytest.mark.parametrize(
    "source",
    ["raise RuntimeError('operator torchvision::nms does not exist')", "from torch import no_such_name"],
)
def test_a_package_that_cannot_be_imported_says_why(package, source):
    name = package("made_up_unfit", source)
    with pytest.raises(MissingPackage, match=r"importing it raises .*Error \(.*\); .*\[x\]") as raised:
        require(name, "1", "x")
    assert raised.value.__cause__ is not None


def test_without_a_version_there_is_no_objection(package):
    require(package("made_up_silent", ""), "99", "x")


def test_the_version_of_a_distribution_by_another_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))  # which does not state its version
    with pytest.raises(MissingPackage, match=rf"found version {re.escape(version('scikit-learn'))}"):
        require("sklearn", "999", "x")


INTEGRATIONS = [  # name, package, oldest version that serves, extra
    ("skorch", "skorch", "1.1", "skorch"),
    ("botorch", "botorch", "0.18", "botorch"),
    ("torchmetrics", "torchmetrics", "1.6", "torchmetrics"),
    ("tensorboard", "tensorboard", "2.18", "tensorboard"),
    ("stable_baselines3", "stable_baselines3", "2.6", "rl"),
]


@pytest.mark.parametrize(("name", "package", "minimum", "extra"), INTEGRATIONS)
def test_every_integration_names_the_version_wanted_and_its_extra(name, package, minimum, extra, monkeypatch):
    module = f"swag.integrations.{name}"
    for loaded in [loaded for loaded in sys.modules if (loaded + ".").startswith(module + ".")]:
        monkeypatch.delitem(sys.modules, loaded)
    old = ModuleType(package)
    old.__version__ = "0.0.7"
    monkeypatch.setitem(sys.modules, package, old)
    with pytest.raises(MissingPackage, match=rf"found version 0\.0\.7, version {minimum} .*\[{extra}\]"):
        import_module(module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=rf'not installed.*pip install "swag-torch\[{extra}\]"'):
        import_module(module)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    assert any(line.startswith(f"{package.replace('_', '-')}>={minimum}") for line in declared)


def test_importing_swag_imports_no_framework():
    code = (
        "import sys, swag, swag.integrations\n"
        "names = {n.partition('.')[0] for n in sys.modules}\n"
        "print(sorted(names & {'lightning', 'pytorch_lightning', 'transformers', 'peft', 'skorch', 'botorch',"
        " 'gpytorch', 'torchmetrics', 'tensorboard', 'stable_baselines3', 'gymnasium'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
