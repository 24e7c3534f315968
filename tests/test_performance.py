"""Every benchmark in its smallest setting, and the form of what it writes. Nothing here is timed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from experiments.performance import (
    collect,
    imports,
    memory,
    metrics,
    models,
    predict,
    sample,
    scaling,
    tables,
)
from experiments.performance.__main__ import available, main
from experiments.performance.results import Goal, Results, Settings, Table
from experiments.performance.timing import Row, interleaved

SMOKE = Settings.of("smoke")


@pytest.mark.parametrize("benchmark", [collect, sample, predict, memory, scaling, imports, metrics])
def test_a_smallest_run_gives_whole_tables(benchmark, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("SWA_GAUSSIAN", raising=False)
    monkeypatch.setattr(metrics, "_peak_in_a_child", lambda *_: 1)  # four processes that import everything
    path = benchmark.run(SMOKE).write(tmp_path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert path.stem == found["benchmark"] == benchmark.__name__.rpartition(".")[2]
    assert {"python", "torch", "swag"} <= set(found["environment"]["versions"])
    assert found["environment"]["threads"] == torch.get_num_threads()
    assert (found["seed"], found["repeats"], found["quick"]) == (0, 1, True)
    if not found["tables"]:
        assert found["skipped"]
    for table in found["tables"]:
        assert all(row["cells"].keys() <= set(table["columns"]) for row in table["rows"])
        assert any(row["role"] == "ours" for row in table["rows"])
        text = tables.markdown(table)
        assert text.count("\n|") == len(table["rows"]) + 2
    for goal in found["goals"]:
        assert goal["met"] in (True, False, None)
        assert goal["found"] == "not measured" or goal["found"][0].isdigit() or goal["found"][0] == "-"


@pytest.mark.parametrize(
    ("name", "size", "tensors"), [("m1", 1.0e6, 8), ("m2", 0.27e6, 65), ("m3", 11.2e6, 62)]
)
def test_networks_are_as_described(name: str, size: float, tensors: int) -> None:
    parameters = list(models.MODELS[name]().parameters())
    assert len(parameters) == tensors
    assert sum(p.numel() for p in parameters) == pytest.approx(size, rel=0.03)


def test_the_largest_network_is_as_described() -> None:
    with torch.device("meta"):
        model = models.m4()
    parameters = list(model.parameters())
    assert len(parameters) == 148
    assert sum(p.numel() for p in parameters) == pytest.approx(50e6, rel=0.03)
    small = models._GPT(11, 16, 64, 2)
    assert small(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, 11)


def test_images_are_digits() -> None:
    images, labels = models.digits(20, seed=1)
    assert images.shape == (20, 3, 32, 32)
    assert labels.shape == (20,)
    assert torch.equal(images, models.digits(20, seed=1)[0])


# --- timing ----------------------------------------------------------------------------------------------


def test_rows_run_in_turn_and_units_divide() -> None:
    order: list[str] = []
    rows = {
        "a": lambda: (order.append("a"), _spin(0.006)),
        "b": Row(lambda: (order.append("b"), _spin(0.006)), units=100),
    }
    found = interleaved(rows, repeats=3)
    assert order[4:10] == ["a", "b"] * 3
    assert found["b"].median < found["a"].median / 10
    assert found["a"].samples == 3


def test_a_sample_off_the_core_is_rejected() -> None:
    """Sleeping stands for being kept off the core."""
    found = interleaved({"asleep": lambda: time.sleep(0.006)}, repeats=2)["asleep"]
    assert found.contended
    assert (found.samples, found.rejected) == (2, 6)
    assert found.min >= 0.006


def _spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


# --- results and tables ----------------------------------------------------------------------------------


def test_a_table_in_markdown() -> None:
    table = Table("Copying", ["m1", "m2"], unit="", limit="limit", note="A note.")
    table.add("swag", "ours", "m1", 3.0)
    table.add("limit", "limit", "m1", 2.0)
    results = Results("x", SMOKE, [table])
    text = tables.markdown(results.to_dict()["tables"][0])
    assert "| **swag** | 3 (1.5×) | – |" in text
    assert "| limit | 2 | – |" in text
    assert text.endswith("A note.")
    assert table.ratio("swag", "limit", "m1") == 1.5
    assert table.ratio("swag", "limit", "m2") is None


def test_goals() -> None:
    assert Goal.below("k", "what", 1.2, 1.25).met
    assert Goal.above("k", "what", 1.2, 1.25).met is False
    assert Goal.above("k", "what", None, 30).met is None
    assert "| what | ≥ 1.25× | 1.2× | **no** |" in tables.goals([vars(Goal.above("k", "what", 1.2, 1.25))])


def test_the_slope_of_a_power() -> None:
    assert scaling.slope([1, 10, 100], [2.0, 2.0 * 10**0.5, 20.0]) == pytest.approx(0.5)


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_refuses_what_it_does_not_know(tmp_path: Path, capsys) -> None:
    assert main(["--only", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "missing" / "folder")]) == 2
    assert "missing" in capsys.readouterr().err
    assert {"collect", "sample", "predict", "memory", "scaling", "imports"} <= set(available())
