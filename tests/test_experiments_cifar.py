"""The CIFAR experiment: every path on tiny networks, its table, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import record
from experiments.cifar.run import KIND, RECIPES
from experiments.cifar.table import PUBLISHED, tables

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "experiments" / "cifar" / "run.py"


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment
    )


def test_quick_runs_every_network_and_a_second_run_reads_the_results(tmp_path: Path) -> None:
    done = start("--quick", "--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert all(f"### {name}" in done.stdout for name in RECIPES)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(path.name for path in files) == [f"{name}-0.json" for name in sorted(RECIPES)]
    for path in files:
        methods = record.read(path, KIND)["methods"]
        assert set(methods) == set(PUBLISHED["vgg16"])
        assert all(0 < scores["nll"] < 5 for scores in methods.values())
    again = start("--quick", "--device", "cpu", "--out", str(tmp_path))
    assert again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--device", "cpu"], "pass --device cuda, or --quick"),
        (["--quick", "--budget", "0"], "--budget: got 0"),
        (["--quick", "--budget", "1.5"], "--budget: got 1.5"),
    ],
)
def test_what_it_refuses(arguments: list[str], complaint: str) -> None:
    done = start(*arguments)
    assert done.returncode == 2 and complaint in done.stderr


def test_a_run_cut_down_says_so() -> None:
    scores = {"accuracy": 0.7, "nll": 1.0, "nll_after_temperature": 0.9, "ece": 0.05}
    result = {
        "name": "vgg16",
        "methods": {"SGD": scores},
        "seconds": 10.0,
        "environment": {"cpu": "a processor"},
        "settings": {"published_epochs": 300, "recipe": {"epochs": 60, "data": "cifar100"}},
    }
    text = tables([result, result])
    assert "60 epochs, CUT DOWN from 300" in text and "| SGD | 70.00 ± 0.00 | 1.000 ± 0.000 | 1.73 |" in text


def test_the_readme_shows_the_committed_results() -> None:
    results = [record.read(path, KIND) for path in sorted((SCRIPT.parent / "results").glob("*.json"))]
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- tables -->")[1].split("<!-- end -->")[0].strip()
    assert shown == (tables(results) if results else "")
    assert ("Not yet run" in text) == (not results)
