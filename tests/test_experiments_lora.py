"""The LoRA experiment: its sentences, its table, and the whole path on a made-up language."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from experiments import record
from experiments.lora import run, table, task
from experiments.lora.settings import QUICK

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "experiments" / "lora" / "run.py"
README = SCRIPT.parent / "README.md"


def test_words_move_inside_of_threes_and_the_full_stop_stays() -> None:
    text = "the old king sees a small river near the town ."
    words = text.split()
    for seed in range(20):
        mixed = task.disordered(text, random.Random(seed)).split()
        assert mixed != words and mixed[-1] == "."
        assert all(sorted(mixed[i : i + 3]) == sorted(words[i : i + 3]) for i in (0, 3, 6))


def test_half_of_the_rows_are_in_disorder_and_drawn_by_the_seed() -> None:
    found = task.corpus(QUICK, None).train
    assert len(set(found)) == len(found)
    rows = task.rows(found, 60, seed=0)
    assert sum(rows.labels) == 30 and len(set(rows.texts)) == 60
    assert [text in found for text in rows.texts] == [label == 0 for label in rows.labels]
    assert [len(text) for text in rows.texts] == sorted(len(text) for text in rows.texts)
    assert rows == task.rows(found, 60, seed=0) != task.rows(found, 60, seed=1)


def test_intervals_are_students() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1/√3, t(0.975, 2) = 4.3027.
    assert table.interval([1.0, 2.0, 3.0], 3) == "+2.000 [−0.484, +4.484]"
    assert table.interval([-1.0], 1) == "−1.0"


def test_the_whole_path_on_a_made_up_language(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = record.read(tmp_path / "seed-0.json", run.KIND)
    assert set(found["scores"]) == set(table.METHODS)
    d, rows = found["adapter_parameters"], min(found["snapshots"], QUICK.tuning.swag_rank)
    assert found["swag_bytes"] == 4 * (2 + rows) * d and d < found["base_parameters"]
    assert found["scale"] == float(min(found["curve"], key=lambda scale: found["curve"][scale]))
    assert "| SWAG − LoRA |" in done.stdout and f"| {d:,} parameters |" in done.stdout


def test_the_readme_holds_the_tables_of_the_results() -> None:
    results = sorted((SCRIPT.parent / "results").glob("seed-*.json"))
    text = README.read_text(encoding="utf-8")
    inside = text.partition("<!-- tables -->")[2].partition("<!-- end -->")[0].strip()
    if not results:
        assert inside == ""
        return
    base = record.read(SCRIPT.parent / "results" / "base.json", run.BASE)
    assert inside == table.tables(base, [record.read(path, run.KIND) for path in results]).strip()
