"""The reinforcement learning experiment: its statistics by hand, small runs, its tables."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("stable_baselines3")

from experiments import record
from experiments.rl import run, table
from experiments.rl.tasks import QUICK, TASKS, build

FOLDER = Path(run.HERE)


def made_up(seed: int, current: list[float], swa: list[float], env: str = "CartPole-v1") -> dict[str, Any]:
    """A results file: evaluations of two episodes, 1 above and 1 below the given mean returns."""
    rows = [{"timesteps": 10, "n_updates": 1, "n_collected": 0, "returns": {"current": [-1e6, -1e6]}}]
    for i, (a, b) in enumerate(zip(current, swa, strict=True)):
        returns = {"current": [a - 1, a + 1], "swa": [b - 1, b + 1], "ema": [a - 1, a + 1]}
        rows.append({"timesteps": 20 + i, "n_updates": 2 + i, "n_collected": 1 + i, "returns": returns})
    return {
        "settings": {**asdict(TASKS[0]), "env": env},
        "seed": seed,
        "seconds": 60.0,
        "rows": rows,
        "packages": {"gymnasium": "1.0"},
        "environment": record.environment(),
    }


def test_a_runs_level_and_spread_are_those_of_its_last_evaluations() -> None:
    current = [1000.0, 0.0, *map(float, range(10))]
    result = made_up(0, current, [5.0] * 12)
    assert table.curve(result, "current") == list(range(10))
    assert table.level(result, "current") == 4.5 and table.level(result, "swa") == 5
    assert table.spread(result, "current") == pytest.approx(statistics.stdev(range(10)))
    assert table.spread(result, "swa") == 0


def test_intervals_and_verdicts() -> None:
    # Mean 2, standard deviation 1, n = 3: 4.303/√3.
    assert table.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3))
    assert table.interval([1.0, 2.0, 3.0]) == "2.0 ± 2.5" and table.interval([2.0], "+") == "+2.0"
    words = ("good", "bad")
    assert table.verdict([1.0, 2.0, 3.0], 1, words) == "not told apart"
    assert table.verdict([10.0, 11.0, 12.0], 1, words) == "good"
    assert table.verdict([10.0, 11.0, 12.0], -1, words) == "bad"
    assert table.verdict([-10.0, -11.0, -12.0], 1, words) == "bad"
    assert table.verdict([0.0, 0.0], 1, words) == "not told apart"
    assert table.verdict([5.0], 1, words) == "one seed"


def test_tables_show_where_the_average_hurts() -> None:
    swinging = [0.0, 100.0] * 5
    better = [made_up(seed, swinging, [90.0 + seed] * 10) for seed in range(3)]
    worse = [made_up(seed, [50.0] * 10, [seed / 10, 0.0] * 5, "Acrobot-v1") for seed in range(3)]
    text = table.table(better + worse)
    helped, hurt = (
        [line for line in text.splitlines() if line.startswith(f"| {env}, A2C |")]
        for env in ("CartPole-v1", "Acrobot-v1")
    )
    assert "| 50.0 ± 0.0 | 91.0 ± 2.5 | +41.0 ± 2.5: higher |" in helped[0]
    assert "−" not in helped[0] and "steadier |" in helped[1] and "not told apart" in helped[0]
    assert "**lower**" in hurt[0] and helped[2].split("|")[2:5] == [" 3 ", " 0 ", " 50.0 → 90.0 "]
    assert hurt[2].split("|")[2:5] == [" 0 ", " 3 ", " 50.0 → 0.0 "]
    assert "100,000" in text and "6 minutes of one core" in text
    assert "nan" not in table.table(better[:1]) and "one seed" in table.table(better[:1])
    assert table.table([]) == "no results yet"


@pytest.mark.parametrize(
    "task",
    [
        replace(TASKS[0], timesteps=400, normalise=True),
        replace(QUICK[1], timesteps=100, options={"learning_starts": 20, "policy_kwargs": {"net_arch": [8]}}),
    ],
    ids=["A2C", "DDPG"],
)
def test_a_run_evaluates_all_policies_and_is_repeatable(task: Any) -> None:
    short = replace(task, n_eval_episodes=1, eval_every=0.2)
    one, other = run.run(short, 1, "cpu"), run.run(short, 1, "cpu")
    assert one["rows"] == other["rows"] and one["n_collected"] > 3
    fifth = short.timesteps // 5
    assert [row["timesteps"] for row in one["rows"]] == [fifth * i for i in range(1, 6)]
    assert set(one["rows"][-1]["returns"]) == {"current", "swa", "ema"}
    assert set(one["rows"][0]["returns"]) == {"current"}


def test_building_a_model_leaves_the_settings_alone() -> None:
    """Algorithms write into the options they are given; another run would then have other settings."""
    before = [asdict(task) for task in TASKS]
    for task in TASKS[3:5]:
        build(task, 0, "cpu")
    assert [asdict(task) for task in TASKS] == before


def test_a_run_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, shortened; what is there is not run again, and tables come from files alone."""
    short = tuple(replace(task, timesteps=160, eval_every=0.25, n_eval_episodes=1) for task in QUICK)
    monkeypatch.setattr(run, "QUICK", short)
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--seeds", "0", "--out", str(tmp_path)])
    assert run.main() == 0
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["CartPole-v1-A2C-0.json", "Pendulum-v1-DDPG-0.json"]
    first = capsys.readouterr().out
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    assert run.main() == 0
    assert files[1].exists() and files[0].stat().st_mtime_ns == kept
    lines = capsys.readouterr().out.splitlines()
    assert any("Pendulum-v1-DDPG seed 0" in line for line in lines)
    assert not any("CartPole-v1-A2C seed 0" in line for line in lines)
    monkeypatch.setattr(sys, "argv", ["run.py", "--table", "--out", str(tmp_path)])
    assert run.main() == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[:8] == first[first.index("Mean return") :].splitlines()[:8]


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    record.write(tmp_path / f"{QUICK[0].name}-0.json", run.KIND, {"settings": {}, "seed": 0})
    with pytest.raises(SystemExit, match="other settings"):
        run.run_all(QUICK, [0], tmp_path, "cpu")


def test_the_readme_shows_what_the_results_hold() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = readme.split("<!-- tables -->\n")[1].split("<!-- end -->")[0].strip()
    assert shown == table.table(run.found(FOLDER / "results"))
    for task in TASKS:
        assert f"| {task.algorithm} | {task.timesteps:,} |" in readme
