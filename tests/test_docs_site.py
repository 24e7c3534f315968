"""The documentation site builds without a warning, and every page's links lead somewhere."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "site" / "build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site_build", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_local_link_of_every_page_leads_to_a_file(build: ModuleType, tmp_path: Path) -> None:
    assert len(build.pages()) > 20
    assert build.stage(tmp_path / "source") == []


def test_a_dead_link_is_found(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text(
        "[here](page.md) [dead](gone.md#part) [web](https://a.b)\n```\n[no](x)\n```\n"
    )
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "pages", lambda: [tmp_path / "page.md"])
    complaints = build.stage(tmp_path / "source")
    assert complaints == ["page.md: the link gone.md leads to no file of the repository"]


def test_every_public_module_is_in_the_reference(build: ModuleType) -> None:
    import swag

    assert {f"swag.{name}" for name in swag._MODULES} <= set(build.MODULES)
    integrations = (ROOT / "swag" / "integrations").iterdir()
    public = {p.stem for p in integrations if not p.name.startswith("_")} - {"requirements"}
    assert {f"swag.integrations.{name}" for name in public} <= set(build.MODULES)


def test_the_site_builds_and_shows_every_public_name(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "html" / "reference" / "swag.html").read_text()
    import swag

    modules = set(swag._MODULES)
    assert [
        name for name in swag.__all__ if name not in modules and f'id="swag.{name}"' not in reference
    ] == []
    assert (tmp_path / "html" / "index.html").exists()
