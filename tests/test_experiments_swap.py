"""The SWAP experiment: its rates, its clock, its tables, and the path through it on digits."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.swap import recipes, run, study, table
from experiments.swap.images import Moved, Rows, split
from swag.training import Epoch
from tests.experiment_scripts import called


@pytest.mark.parametrize(
    ("warm_up", "expected"),
    [
        (0.25, [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]),
        (0, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
    ],
)
def test_rates_go_up_and_down_in_straight_lines(warm_up: float, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = study.triangle(0.4, warm_up, 8)(optimizer)
    rates = [optimizer.param_groups[0]["lr"]]
    for step in range(8):
        optimizer.step()
        schedule.move_to(Fraction(step + 1, 4))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.4 * rate for rate in expected])


def test_images_are_shifted_and_mirrored_by_torchs_generator() -> None:
    rows = Rows(torch.arange(2 * 36.0).view(2, 1, 6, 6) + 1, torch.tensor([0, 1]))
    still = Moved(rows, [[1, 0]], shift=0, mirrored=False)
    ((x, y),) = still
    assert torch.equal(x, rows.images[[1, 0]]) and y.tolist() == [1, 0]
    moved = Moved(rows, [[0] * 200], shift=1, mirrored=True)
    torch.manual_seed(0)
    ((first, _),) = moved
    torch.manual_seed(0)
    ((again, _),) = moved
    assert torch.equal(first, again)
    # Nine places, mirrored or not: all that can be seen are 18 pictures.
    assert len({tuple(image.flatten().tolist()) for image in first}) == 18


def test_scoring_is_off_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(model: nn.Module, rows: Rows) -> float:
        now[0] += 100.0
        return 0.5

    now = [0.0]
    monkeypatch.setattr(study, "accuracy", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    train, _, _ = split("made up", None, 0, "cpu")
    curve = study.Curve(train, "cpu")
    curve.start()
    for number in (1, 2, 3):
        now[0] += 1.0
        curve(Epoch(number, 3, number, 0.0, None, (0.1,), 0, nn.Identity(), None))  # type: ignore[arg-type]
    assert curve.result(1, 2) == {
        "accuracy": 0.5,
        "elapsed": 3.0,
        "busy": 6.0,
        "curve": [[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]],
    }
    assert curve.result(2, 1)["elapsed"] == 1.5


def made_up(method: str, seed: int, elapsed: float, curve: list[list[float]]) -> dict[str, Any]:
    return {
        "name": f"fashion-{method}-{seed}",
        "settings": {"recipe": vars(recipes.FASHION), "method": method, "seed": seed, "workers": "processes"},
        "environment": {"versions": {"torch": "2"}, "cpu": "a cpu", "threads": 1},
        "accuracy": curve[-1][1],
        "elapsed": elapsed,
        "busy": 2 * elapsed,
        "curve": curve,
    }


def test_ratios_are_taken_seed_by_seed() -> None:
    results = []
    for seed, factor in ((0, 1.0), (1, 3.0)):  # the second seed was run in a slow hour
        results.append(made_up("small", seed, 40 * factor, [[20 * factor, 0.85], [40 * factor, 0.89]]))
        results.append(made_up("short", seed, 30 * factor, [[30 * factor, 0.86]]))
        results.append(made_up("large", seed, 30 * factor, [[10 * factor, 0.85], [30 * factor, 0.865]]))
        swap = made_up("swap", seed, 20 * factor, [[20 * factor, 0.88]])
        swap |= {"seconds": {"large": 8.0, "small": [2.0, 3.0], "average": 0.5}, "large_epochs": 9}
        results.append(swap | {"workers": [0.86, 0.87], "ensemble": 0.88})
    text = table.tables(results)
    assert "| SWAP | 2 | 88.00 ± 0.00 | 40.0 ± 28.3 | 80.0 ± 56.6 | 0.50 ± 0.00 |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| 87 %")]
    missing = "not reached by 2 of 2"
    assert line == f"| 87 % | 80.0 ± 56.6 s | {missing} | {missing} | 40.0 ± 28.3 s, × 0.50 ± 0.00 |"
    (line,) = [line for line in text.splitlines() if line.startswith("| 84 %")]
    assert "20.0 ± 14.1 s, × 0.50 ± 0.00" in line
    assert "a process for every worker" in text and "| phase 1: seconds | 8.0 ± 0.0 |" in text


def test_a_run_writes_what_it_found_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--recipes", "fashion", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {f"fashion-{m}-0.json" for m in study.METHODS}
    found = json.loads((tmp_path / "fashion-swap-0.json").read_text())
    seconds = found["seconds"]
    expected = seconds["large"] / 2 + max(seconds["small"]) + seconds["average"]
    assert found["elapsed"] == pytest.approx(expected) and found["settings"]["workers"] == "in turn"
    assert len(found["workers"]) == 2 and len(found["training_accuracy"]) == found["large_epochs"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run.main() == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert capsys.readouterr().out == printed and "small-digits on digits" in printed
