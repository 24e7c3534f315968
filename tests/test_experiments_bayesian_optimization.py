"""The Bayesian-optimisation experiment: its loop, its files, and that a table is made of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("botorch")

from experiments import record
from experiments.bayesian_optimization import methods, run
from experiments.bayesian_optimization.problems import PROBLEMS, quick
from experiments.bayesian_optimization.table import tables
from tests.experiment_scripts import called

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "experiments" / "bayesian_optimization" / "run.py"
RESULTS = RUN.parent / "results"


def test_regret_falls_from_the_same_start_and_is_the_optimums_distance() -> None:
    problem = quick(PROBLEMS["branin2"])
    first = problem.regret(problem.values(problem.sobol(1)[: problem.n_start]))
    assert first > 0
    for method in ("Sobol", "GP"):
        row = methods.search(problem, method, seed=1)
        assert row["regret"][0] == first
        assert len(row["regret"]) == 1 + problem.n_batches
        assert all(later <= earlier for earlier, later in zip(row["regret"], row["regret"][1:], strict=False))
    best = torch.tensor([[9.42478, 2.475]], dtype=torch.float64)
    assert problem.regret(problem.values(best)) == pytest.approx(0, abs=1e-5)


def test_the_same_seed_gives_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*args: object) -> object:
        return methods.fit_swag(*args[:2], bounds=args[2], seed=args[3], steps=20, averaging_steps=20)

    monkeypatch.setitem(methods.METHODS, "SWAG", small)
    with torch.random.fork_rng():
        one, two = (methods.search(quick(PROBLEMS["branin2"]), "SWAG", seed=2) for _ in range(2))
    assert one["regret"] == two["regret"]


def made_up(seed: int, problem: str = "branin2") -> dict[str, object]:
    rows = [
        {
            "method": method,
            "regret": [4.0, 2.0 + k, 1.0 + k + seed],
            "seconds": {"fit": 0.1, "acquisition": 0.2},
        }
        for k, method in enumerate(("Sobol", "GP", "SWAG", "MultiSWAG"))
    ]
    settings = {"n_start": 6, "n_batches": 2, "q": 2, "versions": {"botorch": "0.18"}}
    return {"problem": problem, "seed": seed, "settings": settings, "rows": rows, "cpu_seconds": 3.0}


def test_the_table_is_made_of_the_files(tmp_path: Path) -> None:
    for seed in (0, 1):
        record.write(tmp_path / f"branin2_{seed}.json", "bayesian_optimization", made_up(seed))
    done = subprocess.run(
        [sys.executable, str(RUN), "--table", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "| GP | 2 | 3.000 ± 0.000 | 2.500 ± 0.707 | 2.500 | 2.000 to 3.000 | 0.10 + 0.20 |" in done.stdout
    assert "| SWAG − GP | +1.000 ± 0.000 | 0 of 2 |" in done.stdout


def test_a_quick_run_searches_every_problem_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    paths = [tmp_path / f"{name}_0.json" for name in sorted(PROBLEMS)]
    assert sorted(tmp_path.iterdir()) == paths
    before = [path.stat().st_mtime_ns for path in paths]
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    assert [path.stat().st_mtime_ns for path in paths] == before
    for path in paths:
        found = record.read(path, run.KIND)
        name, rows = found["problem"], found["rows"]
        assert [row["method"] for row in rows] == list(methods.METHODS)
        assert len({row["regret"][0] for row in rows}) == 1 and len(rows[0]["regret"]) == 3
        assert all(sorted(row["regret"], reverse=True) == row["regret"] for row in rows)
        assert all(f"{name}, seed 0, {method}: regret" in printed for method in methods.METHODS)
    # The second time the tables alone are printed, and the same.
    tables_ = capsys.readouterr().out
    assert printed.endswith(tables_) and tables_.count("| MultiSWAG | 1 |") == len(PROBLEMS)


@pytest.mark.skipif(len(list(RESULTS.glob("*.json"))) < 15, reason="the experiment has not been run whole")
def test_the_readme_has_the_tables_of_its_results() -> None:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    assert tables(results) in (RUN.parent / "README.md").read_text(encoding="utf-8")
