"""The page on workers: its files are written, its commands typed and its Python run, in the page's order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "workers.md"


@pytest.mark.slow
def test_the_page_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # torchrun sets one thread a worker by itself
    for name in ("runs", "fast"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    kinds = []
    namespace: dict[str, object] = {}
    blocks = re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    with torch.random.fork_rng(devices=[]):
        for language, text in blocks:
            file = re.match(r"# (\w+\.py)\n", text)
            kinds.append("file" if file else language)
            if file:
                (tmp_path / file[1]).write_text(text)
            elif language == "python":
                exec(compile(text, str(PAGE), "exec"), namespace)
            else:
                lines = [line.removeprefix("$ ") for line in text.splitlines()]
                done = subprocess.run(
                    ["bash", "-ec", "\n".join(lines)], timeout=90, capture_output=True, text=True
                )
                assert done.returncode == 0, f"{text}\n{done.stderr[-3000:]}"
    assert kinds == ["file", "console", "python", "console", "file", "console", "python"]
    for name in ("runs", "fast"):
        sys.modules.pop(name, None)
