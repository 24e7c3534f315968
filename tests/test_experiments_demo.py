"""The demo over several seeds: one file for all of them, going on, what is refused, and its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import record
from experiments.demo import run, table
from tests.experiment_scripts import called

HERE = Path(run.__file__).parent
ROOT = HERE.parents[1]


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_quick_run_is_one_file_and_goes_on_with_the_seeds_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "### Digits" in printed and "Seeds 0 to 1; 2 members, 3 epochs" in printed
    assert all(f"→ {method} | " in printed for method, _ in table.STEPS)
    (path,) = tmp_path.iterdir()
    assert path.name == "digits.json"
    found = record.read(path, run.KIND)
    assert [one["seed"] for one in found["runs"]] == [0, 1]
    assert found["runs"][0]["figures"] != found["runs"][1]["figures"]
    assert len(found["runs"][0]["figures"]["SWAG"]["nll"]) == 2

    before = path.stat().st_mtime_ns
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    assert capsys.readouterr().out == printed and path.stat().st_mtime_ns == before

    # Stopped after the second seed: the first alone is run again, and comes before it.
    asked = []

    def again(settings: run.Settings) -> dict[str, object]:
        asked.append(settings.seed)
        return found["runs"][0]

    monkeypatch.setattr(run, "one_run", again)
    change(path, runs=found["runs"][1:])
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    assert asked == [0] and record.read(path, run.KIND)["runs"] == found["runs"]

    change(path, runs=found["runs"][1:], environment=found["environment"] | {"versions": {"torch": "1.0"}})
    with pytest.raises(SystemExit, match=r"was made with torch 1\.0; this is python"):
        called(run.main, monkeypatch, "--quick", "--out", tmp_path)
    with pytest.raises(SystemExit, match="other settings"):
        called(run.main, monkeypatch, "--out", tmp_path)
    assert asked == [0]


def test_what_cannot_be_run_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAG_DATA", str(tmp_path / "nothing"))
    fashion = ("--out", tmp_path, "--data", "fashion-mnist")
    with pytest.raises(SystemExit, match=f"no data folder at {tmp_path / 'nothing'}"):
        called(run.main, monkeypatch, *fashion)
    with pytest.raises(SystemExit, match=r"no fashion_mnist/labels\.npz in"):
        called(run.main, monkeypatch, *fashion, "--data-dir", tmp_path)
    with pytest.raises(SystemExit, match="--subset: got 1;"):
        called(run.main, monkeypatch, *fashion, "--data-dir", tmp_path, "--subset", 1)
    with pytest.raises(SystemExit, match="--subset: only for"):
        called(run.main, monkeypatch, "--out", tmp_path, "--subset", 500)
    with pytest.raises(SystemExit, match=r"^no results in .*; run experiments/demo/run.py first$"):
        called(run.main, monkeypatch, "--table", "--out", tmp_path)
    (tmp_path / "digits.json").write_text("{")
    with pytest.raises(SystemExit, match="is not JSON"):
        called(run.main, monkeypatch, "--table", "--out", tmp_path)


def test_seeds_with_gaps_are_named_one_by_one() -> None:
    results = record.read(HERE / "results" / "digits.json", run.KIND)
    some = results | {"runs": [results["runs"][seed] for seed in (0, 2, 3)]}
    assert table.facts(results).startswith("Seeds 0 to 4; ") and table.facts(some).startswith(
        "Seeds 0, 2, 3; "
    )
    assert table.facts(results | {"runs": results["runs"][1:2]}).startswith("Seeds 1; ")


def test_the_readmes_have_the_tables_of_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--table") == 0
    printed = capsys.readouterr().out
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    for name, title in table.TITLES.items():
        block = readme.split(f"<!-- {name} -->\n")[1].split("<!-- end -->")[0]
        assert f"### {title}\n\n{block}" in printed and block.count("MultiSWAG") == 2
    results = record.read(HERE / "results" / "digits.json", run.KIND)
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    assert front.split("<!-- from experiments/demo/results/digits.json -->\n")[1].startswith(
        table.figures(results) + "\n\n"
    )
