"""The experiment on tables: its readers, its scores, and every path through it without a data folder."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from experiments.tabular import adult, run, scores, sets, wine
from experiments.tabular.tables import tables
from swag.metrics import ece

LINES = """|1x3 Cross validator
39, State-gov, 77516, Bachelors, 13, Never-married, Adm, Not-in-family, White, Male, 2174, 0, 40, Cuba, <=50K
50, ?, 83311, Bachelors, 13, Married, Exec, Husband, White, Male, 0, 0, 13, Peru, >50K.

"""


def test_adult_is_read_from_both_files(tmp_path: Path) -> None:
    (tmp_path / "adult").mkdir()
    for part in ("data", "test"):
        with lzma.open(tmp_path / "adult" / f"adult.{part}.xz", "wt") as file:
            file.write(LINES)
    table = sets.adult(tmp_path)
    assert table.train.shape == table.test.shape == (2, 14)
    assert table.train_labels.tolist() == [0, 1]
    assert table.train[0, 0] == 39.0 and table.train[1, 1] == "?" and table.train[1, 13] == "Peru"
    assert table.numbers == [0, 2, 4, 10, 11, 12] and table.categories == [1, 3, 5, 6, 7, 8, 9, 13]
    with pytest.raises(SystemExit, match=r"adult\.data\.xz is missing"):
        (tmp_path / "adult" / "adult.data.xz").unlink()
        sets.adult(tmp_path)


def test_wines_are_read(tmp_path: Path) -> None:
    (tmp_path / "wine_shift").mkdir()
    np.savez(tmp_path / "wine_shift" / "wine_red_white.npz", red=np.ones((3, 12)), white=np.zeros((4, 12)))
    shift = sets.wines(tmp_path)
    assert shift.near.shape == (3, 12) and shift.far.shape == (4, 12)


def test_scores_of_probabilities_against_scikit_learn() -> None:
    numbers = np.random.default_rng(0)
    p = numbers.uniform(0.05, 0.95, 400)
    probs, labels = np.column_stack([1 - p, p]), (numbers.uniform(size=400) < p).astype(int)
    found = scores.classification(probs, labels)
    assert found["nll"] == pytest.approx(log_loss(labels, probs))
    assert found["brier"] == pytest.approx(2 * brier_score_loss(labels, p))
    assert found["ece"] == pytest.approx(float(ece(probs, labels)))
    assert found["accuracy"] == pytest.approx(((p > 0.5) == labels).mean())
    share = found["accuracy"]
    assert found["accuracy_error"] == pytest.approx(np.sqrt(share * (1 - share) / 399))
    assert 0.005 < found["ece_error"] < 0.05


def test_scores_of_a_gaussian() -> None:
    numbers = np.random.default_rng(0)
    y = 3 + 2 * numbers.normal(size=20_000)
    mean, std = np.full_like(y, 3.0), np.full_like(y, 2.0)
    found = scores.regression(scores.gaussian(mean, std, y), mean, std, y)
    assert found["nll"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * 4), abs=5 * found["nll_error"])
    assert found["coverage"] == pytest.approx(0.95, abs=5 * np.sqrt(0.95 * 0.05 / 20_000))
    assert found["rmse"] == pytest.approx(2, rel=0.03) and found["std"] == 2


def test_the_readme_has_the_tables_of_the_results() -> None:
    text = (run.HERE / "README.md").read_text(encoding="utf-8")
    mark = "<!-- tables: python experiments/tabular/run.py --table -->\n"
    inside = text.split(mark)[1].split("\n<!-- end -->")[0]
    assert inside.strip() == tables(run.HERE / "results")


def test_every_path_and_that_a_second_run_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adult, "QUICK", adult.Plan("breast_cancer", 4, 4, 128, 2, 2))
    monkeypatch.setattr(wine, "QUICK", wine.Plan("diabetes", 4, 4, 128, 2))
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--out", str(tmp_path)])
    assert run.main() == 0
    text = capsys.readouterr().out
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(files) == 1 + len(adult.METHODS) + 1 + 1
    for words in (
        "### breast_cancer",
        "### diabetes",
        "two classes",
        "time of a fit",
        "MultiSWAG",
        "Gaussian process",
    ):
        assert words in text
    assert run.main() == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == files
    assert capsys.readouterr().out.strip() == tables(tmp_path)
    monkeypatch.setattr(adult, "QUICK", adult.Plan("breast_cancer", 5, 4, 128, 2, 2))
    with pytest.raises(SystemExit, match="results of other settings"):
        run.main()
