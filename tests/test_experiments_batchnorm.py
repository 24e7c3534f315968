"""The batch-norm experiment: its rows, its results files, what it refuses, and its table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import data, record
from experiments.batchnorm import run
from experiments.batchnorm.table import NETS, SIZED
from tests.experiment_scripts import called

HERE = Path(run.__file__).parent


def test_a_quick_run_compares_all_policies_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert all(f"| {net} | 0.5 | {words} |" in printed for net in NETS.values() for words in SIZED.values())
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["mlp-0.json", "resnet-0.json", "vgg-0.json"]
    for path in paths:
        found = record.read(path, run.KIND)
        assert found["settings"] == json.loads(json.dumps(asdict(run.QUICK)))
        errors = {policy["policy"]: policy["mean"] for policy in found["scales"]["0.5"]["policies"]}
        assert 0 < errors["fresh"] < errors["plain"] < errors["none"]
    before = [path.stat().st_mtime_ns for path in paths]
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert capsys.readouterr().out == printed
    # The full settings do not go on in the same folder; that is said before any data are looked for.
    with pytest.raises(SystemExit, match="other settings"):
        called(run.main, monkeypatch, "--data-dir", tmp_path / "nothing", "--out", tmp_path)


def committed() -> dict[str, object]:
    return json.loads((HERE / "results" / "mlp-0.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "other"}, "kind 'other', not 'batchnorm'"),
        ({"version": 99}, "version 99"),
        ({"settings": {"data": "other"}}, "results of several settings"),
        (None, "is not JSON"),
    ],
)
def test_a_table_is_not_made_of_other_files(
    change: dict[str, object] | None, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(committed())
    (tmp_path / "mlp-0.json").write_text(text)
    (tmp_path / "mlp-1.json").write_text(text[:1000] if change is None else json.dumps(committed() | change))
    with pytest.raises(SystemExit, match=complaint):
        called(run.main, monkeypatch, "--table", "--out", tmp_path)


def test_no_results_are_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^no results in .*; run experiments/batchnorm/run.py first$"):
        called(run.main, monkeypatch, "--table", "--out", tmp_path)


def test_rows_are_the_first_ones_from_0_to_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_ = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 1, 28, 28), np.uint8))
    labels = torch.arange(30) % 10
    made = data.Images(bytes_, labels, bytes_.flip(0), labels.flip(0))
    monkeypatch.setattr(data, "fashion_mnist", lambda root: made)
    found = run.fashion_mnist(tmp_path, run.Settings(train_rows=20, test_rows=5))
    assert torch.equal(found.train, bytes_[:20].float() / 255) and found.train.max() <= 1
    assert torch.equal(found.test, bytes_.flip(0)[:5].float() / 255)
    assert torch.equal(found.train_labels, labels[:20]) and torch.equal(found.test_labels, labels.flip(0)[:5])


def test_the_readme_has_the_tables_of_its_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--table") == 0
    printed = capsys.readouterr().out.strip()
    assert len(printed) > 5000 and printed in (HERE / "README.md").read_text(encoding="utf-8")
