"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = python_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "SWAG" in printed and "SWA" in printed
    assert (tmp_path / "report.html").stat().st_size > 10_000
    predictive = namespace["predictive"]
    assert predictive.probs.shape == (897, 10)  # type: ignore[attr-defined]
    # The classifier learned something: a broken averaging would sit near 10 %.
    accuracy = (predictive.probs.argmax(1) == namespace["labels"][900:]).float().mean()  # type: ignore
    assert accuracy > 0.85


def test_the_demos_table_is_that_of_the_experiment() -> None:
    def table(path: Path) -> list[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("| method | accuracy"))
        return lines[start : start + 9]

    assert table(ROOT / "README.md") == table(ROOT / "experiments" / "demo" / "README.md")
