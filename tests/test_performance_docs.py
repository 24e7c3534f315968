"""docs/performance.md agrees with the results it is written from."""

from __future__ import annotations

from pathlib import Path

from experiments.performance import docs
from experiments.performance.__main__ import HERE, main


def test_the_page_agrees_with_the_results() -> None:
    results = docs.read(HERE / "results")
    assert docs.PAGE.read_text(encoding="utf-8") == docs.page(results, docs.read_large(HERE / "results")), (
        "docs/performance.md is stale: run `python -m experiments.performance --docs`"
    )


def test_the_command_writes_the_page(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(docs, "PAGE", tmp_path / "page.md")
    assert main(["--docs"]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# Performance\n")


def test_missed_goals_come_with_their_reason() -> None:
    goal = {"key": "draw", "what": "draws", "goal": "≥ 10×", "found": "5×", "met": False}
    environment = {"versions": {"torch": "2"}, "cpu": "x", "cores": 1, "memory_gib": 1.0, "threads": 1}
    found = {"tables": [], "goals": [goal], "skipped": [], "environment": environment}
    text = docs.page({"sample": {**found, "quick": False, "seed": 0, "repeats": 7, "seconds": 1.0}})
    assert f"- draws: 5×, the goal is ≥ 10×. Reason: {docs.REASONS['draw']}." in text
