"""The semi-supervised experiment: its rows, its second domain, its tables, the path through it on digits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import record
from experiments.semi_supervised import domains, run, settings, study, table
from swag.training.semi_supervised import UNLABELLED
from tests.experiment_scripts import called

HERE = Path(run.__file__).parent


def test_labels_are_balanced_and_the_rest_has_none() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 4)
    chosen = domains.balanced(labels, 24, torch.Generator().manual_seed(0))
    assert len(set(chosen.tolist())) == 24
    assert labels[chosen].bincount().tolist() == [10, 10, 4]  # the third class has no more
    pool = domains.Pool(settings.quick("fashion-500"), None, "cpu")
    one, two = pool.parts(0), pool.parts(1)
    assert (one.train.labels != UNLABELLED).sum() == 100 and len(one.train) == 300
    assert one.train.labels[:100].bincount().tolist() == [10] * 10
    assert not torch.equal(one.train.images, two.train.images)
    assert torch.equal(one.validation.images, two.validation.images) and len(one.validation) == 100


def test_the_second_domain_is_blurred_then_noisy() -> None:
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1.0
    seen = domains.corrupted(point, 1.0, 0.0, 0)[0, 0]
    total = sum(math.exp(-(k**2) / 2) for k in range(-3, 4))
    assert seen[4, 4].item() == pytest.approx(1 / total**2, rel=1e-5)
    assert seen[4, 6].item() == pytest.approx(math.exp(-2) / total**2, rel=1e-5)
    noisy = domains.corrupted(torch.full((1, 1, 100, 100), 0.5), 1.0, 0.1, 0)[..., 10:-10, 10:-10]
    assert noisy.std().item() == pytest.approx(0.1, rel=0.05) and noisy.mean().item() == pytest.approx(
        0.5, abs=0.01
    )
    loud = domains.corrupted(torch.ones(1, 1, 100, 100), 1.0, 0.1, 0)
    assert loud.max() == 1.0  # clipped


def test_labels_alone_get_as_many_steps_of_whole_passes() -> None:
    sampler = domains.Repeated(torch.tensor([3, 5, 8]), 4, 3, torch.Generator().manual_seed(0))
    batches = list(sampler)
    rows = [row for batch in batches for row in batch]
    assert len(batches) == len(sampler) == 3 and len(rows) == 12
    assert all(sorted(rows[start : start + 3]) == [3, 5, 8] for start in (0, 3, 6, 9))


def made_up(method: str, seed: int, sgd: float, fast: float) -> dict[str, Any]:
    return {
        "name": f"fashion-500-{method}-{seed}",
        "settings": {"setting": vars(settings.FASHION_500), "method": method, "seed": seed},
        "environment": {"versions": {"torch": "2"}, "cpu": "a cpu", "threads": 1},
        "error": {"sgd": sgd, "swa": sgd - 0.01, "fast-swa": fast},
        "steps": 2400,
        "seconds": 60.0,
    }


def test_differences_are_taken_seed_by_seed_with_students_t() -> None:
    runs = [
        made_up("pi", seed, sgd, sgd - 0.02 + 0.005 * seed) for seed, sgd in enumerate((0.20, 0.30, 0.25))
    ]
    text = table.tables(runs)
    (line,) = [line for line in text.splitlines() if line.startswith("| Pi model |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    t = 4.302652729911275  # 97.5 % of Student's t with two degrees of freedom
    assert cells[1:3] == ["3", f"25.00 ± {t * 5 / math.sqrt(3):.2f}"]
    assert cells[5:] == ["–", "-1.00 ± 0.00", f"-1.50 ± {t * 0.5 / math.sqrt(3):.2f}"]
    assert "3 minutes of processor time" in text and "seeds 0, 1, 2" in text


def test_the_readme_has_the_table_of_the_results() -> None:
    results = run.found(HERE / "results")
    text = (HERE / "README.md").read_text(encoding="utf-8")
    inside = text.split("<!-- tables -->\n")[1].split("\n<!-- end -->")[0]
    assert inside == table.tables(results)


def test_a_run_writes_what_it_found_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--quick", "--settings", "mnist-target", "cifar-4000", "--out", tmp_path]
    assert called(run.main, monkeypatch, *words, "--methods", "supervised", "teacher") == 0
    printed = capsys.readouterr().out
    names = {
        f"{name}-{method}-{what}.json"
        for name in ("mnist-target", "cifar-4000")
        for method in ("supervised", "teacher")
        for what in ("choice", 0)
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    content = json.loads((tmp_path / "mnist-target-teacher-0.json").read_text())
    assert (
        set(content["error"])
        == {"sgd", "swa", "fast-swa", "teacher"}
        == set(content["error_target_statistics"])
    )
    assert content["snapshots"] == {"swa": 3, "fast-swa": 6} and content["steps"] == 40
    choice = record.read(tmp_path / "mnist-target-teacher-choice.json", study.KIND)
    assert choice["chosen"] == min(choice["tried"], key=lambda row: row["validation_error"])
    assert content["weight"] == choice["chosen"]["weight"] and len(choice["tried"]) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run.main() == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert capsys.readouterr().out == printed and "statistics of the target's unlabelled rows" in printed
