"""The Lightning experiment: its table, and a run that is killed by SIGKILL and resumed, bit for bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning.pytorch")

from experiments.lightning import run, training

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
]
HERE = Path(run.__file__).parent


def test_the_readme_has_the_table_of_the_results() -> None:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    inside = text.split("<!-- tables -->\n")[1].split("\n<!-- end -->")[0]
    assert inside == run.table(HERE / "results")


def test_a_run_that_was_killed_ends_with_the_same_posterior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    until = run.until

    def until_here(words: list[str], moment: str | None) -> None:
        if moment is not None:
            until(words, moment)
        else:  # the last attempt in this process: another one than was killed, and Lightning is there already
            training.run(training.QUICK, Path(words[words.index("--child") + 1]), None, made_up=True)

    monkeypatch.setattr(run, "until", until_here)
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--out", str(tmp_path)])
    assert run.main() == 0
    straight, killed = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("straight", "killed"))
    # Killed in the middle of epoch 2, it went on from the end of epoch 1.
    assert killed["kills"] == [{"moment": "epoch 2 train", "checkpoint": {"step": 12, "snapshots": 1}}]
    assert straight["posterior"] == killed["posterior"] and straight["posterior"]["snapshots"] == 3
    assert straight["scores"] == killed["scores"]
    text = capsys.readouterr().out
    assert "are the same file, bit for bit" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run.main() == 0  # all is there: nothing is made again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert capsys.readouterr().out == text[text.index("| run |") :]
    different: dict[str, Any] = {**killed, "posterior": {**killed["posterior"], "sha256": 64 * "0"}}
    (tmp_path / "killed.json").write_text(json.dumps(different))
    assert "NOT THE SAME" in run.table(tmp_path)


def test_a_run_that_ends_otherwise_is_an_error() -> None:
    with pytest.raises(SystemExit, match="the run ended with 3, not -9, waiting for 'epoch 0 train'"):
        run.until([sys.executable, "-c", "raise SystemExit(3)"], "epoch 0 train")
