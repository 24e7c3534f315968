"""The notebooks run as they stand, assert what they claim, and their two forms are one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = [path for path in sorted(NOTEBOOKS.glob("*.py")) if path.name != "make.py"]
BY_NAME = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def cells(text: str) -> list[tuple[str, str]]:
    """(kind, source) of the cells of a percent-format file, after its header."""
    parts = re.split(r"^# %%(.*)$", text, flags=re.MULTILINE)
    found = []
    for mark, body in zip(parts[1::2], parts[2::2], strict=True):
        if "[markdown]" in mark:
            lines = [re.sub(r"^# ?", "", line) for line in body.strip("\n").splitlines()]
            found.append(("markdown", "\n".join(lines).strip()))
        else:
            found.append(("code", body.strip()))
    return found


@BY_NAME
@pytest.mark.timeout(600)
def test_runs(source: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(NOTEBOOKS.parent),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:swag", str(source)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@BY_NAME
def test_asserts_what_it_claims(source: Path) -> None:
    code = [body for kind, body in cells(source.read_text(encoding="utf-8")) if kind == "code"]
    assert sum(body.count("assert ") for body in code) >= 3


@BY_NAME
def test_both_forms_are_one(source: Path) -> None:
    notebook = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    paired = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]
    assert paired == cells(source.read_text(encoding="utf-8")), "run: ./run python notebooks/make.py"


@BY_NAME
def test_shows_its_outputs_without_errors(source: Path) -> None:
    notebook = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    assert outputs and not any(out["output_type"] == "error" for out in outputs)
    assert str(NOTEBOOKS.parent) not in json.dumps(outputs)
    assert not re.search(r" at 0x[0-9a-f]+>", json.dumps(outputs)), "an address, which differs each time"


@BY_NAME
def test_links_lead_to_files(source: Path) -> None:
    links = [
        link
        for kind, body in cells(source.read_text(encoding="utf-8"))
        if kind == "markdown"
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", body)
        if not link.startswith("http")
    ]
    assert [link for link in links if not (NOTEBOOKS / link).is_file()] == []
