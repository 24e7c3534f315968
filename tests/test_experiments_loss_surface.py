"""The loss surface: every part of a quick run, and that its tables are those of the results."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from experiments import record
from experiments.loss_surface import run
from swag.geometry import PlaneValues, Profile
from tests.experiment_scripts import called

HERE = Path(run.__file__).parent


@pytest.mark.slow
def test_a_quick_run_makes_planes_lines_and_points_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    summary = record.read(tmp_path / "summary.json", run.KIND)
    points = ["start", "SGD", "SWA", "snapshot 3", "average of 3", "net B"]
    assert [row["point"] for row in summary["points"]] == points
    assert all(f"| {name} | " in printed for name in [*points, "straight", "Bézier", "chain"])
    scored = {row["point"]: row for row in summary["points"]}
    assert all(0 <= row[run.ERROR] < 0.5 for row in scored.values())  # 0.9 by chance
    straight, bezier, _ = summary["ways"]
    assert bezier["length"] > straight["length"]
    assert straight["length"] == pytest.approx(summary["distances"]["SGD–net B"], rel=1e-4)
    # Training lowers what is above the ends' level: that is what the curve is for.
    assert bezier[f"highest {run.LOSS}"] < straight[f"highest {run.LOSS}"]
    planes = {path.name: PlaneValues.load(path) for path in sorted(tmp_path.glob("plane_*.npz"))}
    assert set(planes) == {f"plane_{name}.npz" for name in ("snapshots", "swa", "swag", "curve")}
    assert all(not torch.as_tensor(found.values[run.ERROR]).isnan().any() for found in planes.values())
    lines = sorted(tmp_path.glob("line_*.npz"))
    assert [path.stem for path in lines] == ["line_bezier", "line_chain", "line_sgd_swa", "line_straight"]
    assert all(math.isfinite(Profile.load(path).uniform_mean(run.LOSS)) for path in lines)

    # What is there is read, not made: no seconds are added to any part.
    kept = [*tmp_path.glob("*.json"), *tmp_path.glob("weights/*")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before and len(kept) == 10
    assert capsys.readouterr().out == printed
    with pytest.raises(SystemExit, match="other settings"):
        called(run.main, monkeypatch, "--data-dir", tmp_path / "nothing", "--out", tmp_path)


def test_planes_without_their_weights_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plane_swa.npz").touch()
    with pytest.raises(SystemExit, match="has planes but not the weights they go through"):
        called(run.main, monkeypatch, "--quick", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plane_swa.npz"]


def test_no_results_are_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^no results in .*; run experiments/loss_surface/run.py first$"):
        called(run.main, monkeypatch, "--table", "--out", tmp_path)


def test_the_readme_has_the_tables_of_its_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--table") == 0
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    assert readme.split("<!-- results -->\n")[1].split("<!-- end -->")[0] == capsys.readouterr().out
