"""The low-precision script from the command line; test_lowprecision_experiment.py has its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import record
from experiments.low_precision import run
from experiments.low_precision.table import ORDER
from tests.experiment_scripts import called

HERE = Path(run.__file__).parent


def test_a_quick_run_measures_all_methods_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["run-digits-0.json", "words-digits-4-0.json"]
    errors = record.read(paths[0], run.KIND)["errors"]
    assert set(errors) == set(ORDER) and errors["SGD-FP"] < 50  # 90 by chance
    assert all(f"| {method} | {error:.2f} |" in printed for method, error in errors.items())
    assert set(record.read(paths[1], run.KIND)["errors"]) == {"SGD-LP", "SWALP"}
    before = [path.stat().st_mtime_ns for path in paths]
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert capsys.readouterr().out == printed


def test_the_readme_has_the_tables_of_its_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--table") == 0
    printed = capsys.readouterr().out.strip()
    assert len(printed) > 1000 and printed in (HERE / "README.md").read_text(encoding="utf-8")
