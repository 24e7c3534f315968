"""`swag report` from a shell's point of view: what it prints, writes and returns."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from swag.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Predictions of two methods for 300 rows of 4 classes, their labels, a validation and an OOD set."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)

    def probs(labels: np.ndarray, sharpness: float) -> np.ndarray:
        logits = generator.normal(size=(len(labels), 4))
        logits[np.arange(len(labels)), labels] += 1.5
        exponentials = np.exp(sharpness * logits)
        return exponentials / exponentials.sum(1, keepdims=True)

    labels, validation = generator.integers(0, 4, 300), generator.integers(0, 4, 100)
    np.savez("labels.npz", labels=labels)
    np.savez("SGD.npz", probs=probs(labels, 4))
    np.savez("SWAG.npz", member_probs=np.stack([probs(labels, 1), probs(labels, 1)]))
    Path("validation").mkdir()
    np.savez("validation/labels.npz", labels=validation)
    Path("far").mkdir()
    for method, sharpness in (("SGD", 4), ("SWAG", 1)):
        np.savez(f"validation/{method}.npz", probs=probs(validation, sharpness))
        np.savez(f"far/{method}.npz", probs=np.full((50, 4), 0.25) + 0.01 * np.array([1, -1, 0, 0]))
    return tmp_path


GOOD = ["report", "SGD.npz", "SWAG.npz", "--labels", "labels.npz", "--bootstrap", "50"]


@pytest.mark.usefixtures("folder")
def test_table_and_all_files(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--validation", "validation/SGD.npz", "validation/SWAG.npz"]
    words += ["--validation-labels", "validation/labels.npz"]
    words += [
        "--ood",
        "far=far/SGD.npz",
        "--ood",
        "far=far/SWAG.npz",
        "--title",
        "Two methods",
        "--date",
        "1 May",
    ]
    words += ["--html", "r.html", "--json", "r.json", "--md", "r.md", "--csv", "r.csv"]
    assert main([*GOOD, *words]) == 0
    printed = capsys.readouterr().out
    assert "SWAG" in printed and "AUROC far" in printed and "NLL after temp." in printed
    assert "Two methods" in Path("r.html").read_text() and "1 May" in Path("r.html").read_text()
    scores = json.loads(Path("r.json").read_text())
    labels, probs = np.load("labels.npz")["labels"], np.load("SGD.npz")["probs"]
    expected = -np.log(probs[np.arange(300), labels]).mean()
    assert scores["scores"]["SGD"]["nll"]["value"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("folder")
def test_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GOOD, "--fail-if", "SWAG.nll > 100", "--fail-if", "SGD.accuracy < 0"]) == 0
    assert (
        main([*GOOD, "--fail-if", "SWAG.nll > 100", "--fail-if", "SGD.ece > 0.001", "--json", "r.json"]) == 1
    )
    printed = capsys.readouterr()
    assert "failed: SGD.ece is 0." in printed.err and "SWAG" not in printed.err
    assert Path("r.json").exists()  # the report of a failed gate is what one wants to look at


@pytest.mark.usefixtures("folder")
def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GOOD, "--json", "a.json"]) == 0
    assert main(["report", "SWAG.npz", "--labels", "labels.npz", "--json", "b.json"]) == 0
    capsys.readouterr()
    assert main(["report", "--compare", "a.json", "a.json"]) == 0
    assert "are the same" in capsys.readouterr().out
    assert main(["report", "--compare", "a.json", "b.json"]) == 0
    assert "gone" in capsys.readouterr().out
    assert main(["report", "--compare", "a.json", "nowhere.json"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report"], "at least one file of predictions"),
        (["report", "SGD.npz"], "--labels: is missing"),
        (["report", "none.npz", "--labels", "labels.npz"], "none.npz: no such file"),
        ([*GOOD, "--json", "r.html"], "--json: r.html should end in .json"),
        ([*GOOD, "--json", "nowhere/r.json"], "nowhere does not exist"),
        ([*GOOD, "--fail-if", "SWAG.ece >"], "write it like"),
        ([*GOOD, "--fail-if", "SWA.ece > 1"], "SWA"),
        ([*GOOD, "--baseline", "SWA"], "baseline"),
        ([*GOOD, "--ood", "far"], "write it as NAME=FILE"),
        ([*GOOD, "--ood", "far=labels.npz"], "no method 'labels'"),
        ([*GOOD, "--validation", "validation/SGD.npz"], "pass both or neither"),
        (["report", "SGD.npz", "far/SGD.npz", "--labels", "labels.npz"], "another file is named 'SGD' too"),
        ([*GOOD, "--compare", "a.json", "b.json"], "--compare: takes two reports and no predictions"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(Path().rglob("*"))
    assert main(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("swag report: error: ")
    assert len(printed.err.splitlines()) == 1 and printed.out == ""
    assert set(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "kind", ["truncated", "pickled", "sums", "nan", "negative", "length", "range", "dtype"]
)
@pytest.mark.usefixtures("folder")
def test_bad_files(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    probs = np.load("SGD.npz")["probs"]
    spoiled, culprit = "SGD.npz", "SGD"
    if kind == "truncated":
        Path(spoiled).write_bytes(Path(spoiled).read_bytes()[:500])
    elif kind == "pickled":
        Path("SGD.npy").write_bytes(pickle.dumps(probs))
        Path(spoiled).unlink()
        spoiled = "SGD.npy"
    elif kind == "sums":
        np.savez(spoiled, probs=probs * 2)
    elif kind == "nan":
        probs[7, 2] = np.nan
        np.savez(spoiled, probs=probs)
    elif kind == "negative":
        np.savez(spoiled, probs=probs - 0.5)
    elif kind == "length":
        np.savez(spoiled, probs=probs[:-1])
    elif kind == "range":
        np.savez("labels.npz", labels=np.load("labels.npz")["labels"] + 3)
        culprit = "labels"
    else:
        np.savez(spoiled, probs=np.array([["a"] * 4] * 300))
    words = ["report", spoiled, "SWAG.npz", "--labels", "labels.npz", "--html", "r.html", "--json", "r.json"]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert culprit in printed.err and len(printed.err.splitlines()) == 1
    assert not Path("r.html").exists() and not Path("r.json").exists()
