"""The transfer experiment: its rows, the network that is carried over, and the path through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments import record
from experiments.transfer import images, run, study, table
from experiments.transfer.network import convnet, with_new_head
from tests.experiment_scripts import called

HERE = Path(run.__file__).parent


def test_parts_of_a_task_have_no_common_rows() -> None:
    task = images.Task(
        torch.arange(50.0).view(50, 1, 1, 1), torch.arange(50), torch.zeros(9, 1, 1, 1), torch.zeros(9)
    )
    first, second = (task.some(20, 5, 3, part, "cpu") for part in (0, 1))
    assert not set(first.y.tolist()) & set(second.y.tolist())
    assert len(first.y) == len(second.y) == 20 and len(first.test_y) == 5
    assert torch.equal(first.x.flatten(), first.y.float())
    assert not torch.equal(task.some(20, 5, 4, 0, "cpu").y, first.y)


def test_all_but_the_head_is_carried_over() -> None:
    network = convnet((2, 3, 4), 5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    carried = with_new_head(network).state_dict()
    differ = {name for name, value in before.items() if not torch.equal(value, carried[name])}
    assert differ == {"11.weight", "11.bias"}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_ways_part_after_common_epochs() -> None:
    _, target = images.digits()
    few = target.some(60, 10, 0, 0, "cpu")
    torch.manual_seed(0)
    network = convnet((2, 3, 4), 10)
    falling, kept = study.two_ways(network, few, study.QUICK, 2, 0)
    assert kept.model is network and falling is not network
    assert kept.collector.n_collected == study.QUICK.averaged  # one in two epochs of twice as many
    assert {row["rates"][0] for row in kept.history} == {study.QUICK.rate}


def test_differences_are_paired_by_seed() -> None:
    assert table.interval([0.25], 2) == "+0.25"
    assert table.interval([1.0, 1.0, 1.0], 1) == "+1.0 [+1.0, +1.0]"
    # sd 1, n = 3: half of the interval is 4.303/√3.
    assert table.interval([-1.0, 0.0, 1.0], 3) == "+0.000 [-2.484, +2.484]"


def test_a_verdict_goes_by_intervals_on_one_side_of_zero() -> None:
    def rows(seed: int) -> list[dict[str, object]]:
        same = {"start": "pre-trained", "nll": 1.0, "ece": 0.1}
        sgd = same | {"method": "SGD", "error": 0.2, "brier": 0.3}
        swa = same | {"method": "SWA", "error": 0.1 + 0.001 * seed, "brier": 0.4 + 0.001 * seed}
        return [sgd, swa]

    runs = [{"rows": rows(seed)} for seed in (0, 1, 2)]
    assert table.verdict(runs) == (
        "- SWA from the pre-trained network, against SGD: better: test error; worse: Brier; "
        "no difference to be seen: NLL, ECE."
    )
    assert table.verdict(runs[:1]) == ""


def test_a_run_writes_what_it_found_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(run.main, monkeypatch, "--quick", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["digits-to-negatives-0.json", "digits-to-negatives-1.json"]
    found = record.read(paths[0], study.KIND)
    methods = {"SGD", "SWA", "SWAG", "SWAG, scale chosen"}
    assert {row["method"] for row in found["rows"]} == methods and len(found["rows"]) == 12
    before = [path.stat().st_mtime_ns for path in paths]
    assert run.main() == 0
    assert capsys.readouterr().out == printed and "pre-trained: SWAG − SGD" in printed
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_the_readme_has_the_tables_of_its_results() -> None:
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    block = readme.split("<!-- tables -->\n")[1].split("<!-- end -->")[0].strip()
    results = [record.read(path, study.KIND) for path in sorted((HERE / "results").glob("*.json"))]
    assert block == (table.tables(results) if results else "")
