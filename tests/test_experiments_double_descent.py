"""The double-descent experiment: stacks of networks, wrong labels, the bump's height, the way through it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import swag
from experiments import record
from experiments.double_descent import rows, run, table
from experiments.double_descent.network import Net, Stack, stack_loss
from experiments.double_descent.study import KIND
from tests.experiment_scripts import called

HERE = Path(run.__file__).parent


def test_a_stack_is_its_networks_side_by_side() -> None:
    torch.manual_seed(0)
    nets = [Net(14, 3, 10) for _ in range(4)]
    stack = Stack(nets)
    x, y = torch.randn(4, 6, 1, 14, 14), torch.randint(10, (4, 6))
    logits = stack(x)
    stack_loss(logits, y).backward()
    for b, net in enumerate(nets):
        own = net(x[b])
        torch.testing.assert_close(logits[b], own)
        F.cross_entropy(own, y[b]).backward()
        for mine, theirs in zip(stack.parts, net.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[b], theirs.grad)
    apart = stack.apart(swag.Layout.of(stack).flatten(stack))
    assert torch.equal(apart, torch.stack([swag.Layout.of(net).flatten(net) for net in nets]))
    rows_of_two = torch.stack([apart.new_zeros(apart.numel()), swag.Layout.of(stack).flatten(stack)])
    assert torch.equal(stack.apart(rows_of_two)[1], apart)


def test_labels_are_wrong_as_often_as_asked_for_and_test_labels_are_true() -> None:
    pool = rows.digits()
    found = pool.rows(0, train=1_000, held=300, test=200, noise=0.2)
    images = {
        tuple(image.flatten().tolist()): int(label) for image, label in zip(*pool_rows(pool), strict=True)
    }
    mean, spread = pool_mean(pool, found)
    truth = [images[tuple(x.flatten().tolist())] for x in (found.x * spread + mean).round()]
    wrong = float((found.y != torch.tensor(truth)).double().mean())
    assert abs(wrong - 0.2) < 4 * (0.2 * 0.8 / 1_000) ** 0.5
    assert torch.equal(found.test_y, pool.test_labels[:200])
    other = pool.rows(1, train=1_000, held=300, test=200, noise=0.2)
    assert not torch.equal(found.y, other.y) and len(found.held_y) == 300
    clean = pool.rows(0, train=1_000, held=300, test=200, noise=0.0)
    assert clean.y.tolist() == truth


def pool_rows(pool: rows.Pool) -> tuple[torch.Tensor, torch.Tensor]:
    return pool.images, pool.labels


def pool_mean(pool: rows.Pool, found: rows.Rows) -> tuple[float, float]:
    """Pixels are whole numbers from 0 to 16: the smallest and largest tell what was taken off."""
    low, high = float(found.x.min()), float(found.x.max())
    spread = 16 / (high - low)
    return -low * spread, spread


@pytest.mark.parametrize(
    ("curve", "expected"),
    [([0.4, 0.3, 0.2], 0.0), ([0.3, 0.4, 0.2], 0.1), ([0.3, 0.2, 0.4, 0.1, 0.15], 0.2), ([0.5], 0.0)],
)
def test_the_bump_is_the_highest_rise_above_all_smaller_networks(curve: list[float], expected: float) -> None:
    assert table.rise(curve) == pytest.approx(expected)


def made_up(width: int, scores: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "settings": {"width": width},
        "rows": [
            {"method": method, "seed": seed, "error": value, "nll": 1.0}
            for method, values in scores.items()
            for seed, value in enumerate(values)
        ],
    }


def test_a_bump_is_called_gone_smaller_or_as_high_by_its_rule() -> None:
    runs = [
        made_up(
            1, {"SGD": [0.30, 0.31], "SWAG": [0.3, 0.3], "deep ensemble": [0.3] * 2, "MultiSWAG": [0.3] * 2}
        ),
        made_up(
            2,
            {"SGD": [0.40, 0.41], "SWAG": [0.40, 0.41], "deep ensemble": [0.35] * 2, "MultiSWAG": [0.30] * 2},
        ),
    ]
    (line,) = table.verdicts(runs).splitlines()
    assert line == (
        "- The bump of the error, 10.0 points for SGD. SWAG: as high (10.5); deep ensemble: smaller (5.0); "
        "MultiSWAG: gone (0.0)."
    )


@pytest.mark.parametrize(("family", "widths"), [("convnets", ["1", "4"]), ("resnets", ["1"])])
def test_a_run_writes_what_it_found_and_is_not_repeated(
    family: str,
    widths: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        called(run.main, monkeypatch, "--quick", "--families", family, "--widths", *widths, "--out", tmp_path)
        == 0
    )
    printed = capsys.readouterr().out
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [f"{family}-0{width}.json" for width in widths]
    for path in paths:
        found = record.read(path, KIND)
        assert {row["method"] for row in found["rows"]} == set(table.METHODS)
        assert all(0 <= row["error"] <= 1 and row["nll"] > 0 for row in found["rows"])
    before = [path.stat().st_mtime_ns for path in paths]
    assert run.main() == 0
    assert capsys.readouterr().out == printed and "Test NLL" in printed
    assert [path.stat().st_mtime_ns for path in paths] == before
    monkeypatch.setattr(sys, "argv", ["run.py", "--plot", "--out", str(tmp_path)])
    assert run.main() == 0
    assert (tmp_path / f"{family}.png").read_bytes()[:4] == b"\x89PNG"


def test_the_readme_has_the_tables_of_its_results() -> None:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- tables -->\n")[1].split("<!-- end -->")[0].strip()
    results = [record.read(path, KIND) for path in sorted((HERE / "results").glob("*.json"))]
    assert block == (table.tables(results) if results else "")
