"""docs/performance.md from the results files: every figure on that page comes from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import files, tables
from .peers import ROOT

PAGE = ROOT / "docs" / "performance.md"

# In the page's order: the file, its heading, and what is to be known about it.
SECTIONS = {
    "collect": "Taking a snapshot",
    "sample": "Drawing weights",
    "predict": "The model average",
    "memory": "Memory",
    "scaling": "How cost grows",
    "imports": "Importing",
    "metrics": "Scores",
    "storage": "Files",
}

# Why a goal is missed, by its key.
REASONS = {
    "collect-copy": "five operations over pieces of 1 MiB, the test for NaN and infinity read θ once "
    "more; one fused pass (compiled, or C++) would reach the goal and is not part of the library",
    "collect-peer": "follows from the copy: a fused pass would be needed",
    "collect-small-copy": "the 65 parameters are looked up by name and gathered one by one, which costs "
    "Python and one call a tensor; the copy it is compared with is one call",
    "collect-small-peer": "the same: the look-up by name",
    "collect-averaged": "the same: the look-up by name; AveragedModel keeps the mean alone",
    "draw": "the normal numbers: a counter-based generator in plain torch operations takes about ten "
    "passes over cached integers, and gives what torch's own cannot (sample i does not depend on how many"
    " are drawn)",
    "draw-fast": "the normal numbers take most of the time; a fused generator (C++ or Triton) is not part"
    " of the library, so this goal stands for a later version",
    "average-exact-float32": "the convolutions themselves take most of the time, with or without our "
    "batch norm",
    "average-exact-bfloat16": "statistics stay in float32 (their error would not be small in bfloat16), "
    "so only the convolutions gain",
    "average-few-float32": "the sum contains a 30th of the pass over all rows; without that share see the"
    " line below it",
    "average-few-bfloat16": "the sum contains a 30th of the pass over all rows; without that share see "
    "the line below it",
    "average-none-float32": "the convolutions themselves take most of the time",
    "average-none-bfloat16": "bfloat16 gains as much as the processor's bfloat16 units give",
    "average-error": "on a network that was trained for seconds; see experiments/batchnorm for real ones",
    "plain-float32": "torch's float32 matrix product, which the reference uses too, is most of it here",
    "plain-bfloat16": "bfloat16 gains as much as the processor's bfloat16 units give",
    "memory": "temporaries of the step",
    "memory-predict": "something grows with S that should not",
    "import": "modules that are loaded too early",
}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The results files of a folder by benchmark."""
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in SECTIONS
        if (path := folder / f"{name}.json").exists()
    }


def read_large(folder: Path) -> dict[str, Any] | None:
    """What `files.py` wrote, where it did."""
    path = folder / "files.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def page(results: Mapping[str, Mapping[str, Any]], large: Mapping[str, Any] | None = None) -> str:
    """The whole page as Markdown; `large` is from `read_large`."""
    parts = [_OPENING.strip()]
    goals = [goal for found in results.values() for goal in found["goals"]]
    if goals:
        parts += ["## Goals", tables.goals(goals)]
        missed = [goal for goal in goals if goal["met"] is False]
        if missed:
            parts += ["### Goals missed", "\n".join(_missed(goal) for goal in missed)]
    for name, found in results.items():
        parts.append(f"## {SECTIONS[name]}")
        parts += [tables.markdown(table) for table in found["tables"]]
        disturbed = tables.contended(found["tables"])
        if disturbed:
            parts.append(f"\\* Measured under contention, so too high: {', '.join(disturbed)}.")
        if found["skipped"]:
            parts.append("Skipped: " + "; ".join(found["skipped"]) + ".")
    if large is not None:
        parts += ["### Files of a large model", "By `files.py`.", files.table(dict(large))]
    parts += ["## Measured on", _machine(results), _CLOSING.strip()]
    return "\n\n".join(parts) + "\n"


def _missed(goal: Mapping[str, Any]) -> str:
    reason = REASONS.get(goal["key"], "not yet understood")
    return f"- {goal['what']}: {goal['found']}, the goal is {goal['goal']}. Reason: {reason}."


def _machine(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each environment that occurs, with the benchmarks it was."""
    lines: dict[str, list[str]] = {}
    for name, found in results.items():
        own = found["environment"]
        versions = ", ".join(f"{package} {version}" for package, version in own["versions"].items())
        quick = " (a quick run)" if found["quick"] else ""
        line = (
            f"{own['cpu']}, {own['cores']} cores, {own['memory_gib']} GiB, {own['threads']} threads; "
            f"{versions}; seed {found['seed']}, medians of {found['repeats']}{quick}"
        )
        lines.setdefault(line, []).append(f"{name} ({found['seconds']:.0f} s)")
    return "\n".join(f"- {', '.join(names)}: {line}." for line, names in lines.items())


_OPENING = """
# Performance

What collecting snapshots, drawing weights and averaging predictions cost: ours, other libraries, and the
limit of the machine, measured in one process in turn. Absolute times are of one machine; ratios are what
counts. This page is written by `python -m experiments.performance --docs` from
`experiments/performance/results/`; change it there.

    ./run bench --quick                                     # small sizes, under two minutes
    python experiments/performance/peers.py --make .peers   # once: other libraries, in their own environment
    ./run bench --swa-gaussian PATH --out experiments/performance/results
    ./run python -m experiments.performance --docs

`PATH` is a checkout of the code of the SWAG paper (github.com/wjmaddox/swa_gaussian), which has no package.
torch-uncertainty and lightning-uq-box are installed without their dependencies, which include a torchvision
that does not fit this torch; the files with their SWAG are what is run. On a machine without a GPU the
paper's code runs with `tensor.cuda()` giving the tensor itself.

Rows of a table run as A B C A B C …; figures are medians. A sample in which the calling thread was kept off
its core for more than 5 % of the time is rejected and taken again; a row that never got enough clean ones
has a star. The models: m1, an MLP of 1.0 M parameters in 8 tensors; m2, a ResNet-20 with batch norm, 0.27 M
in 65; m3, a ResNet-18 for small images, 11 M in 62; m4, GPT-like, 50 M in 148.
"""

_CLOSING = """
Goals for a GPU (collecting and drawing at 70 % of the copy's bandwidth, a ResNet-18's average at ten times
the reference's speed) are not on this page: no GPU was measured.
"""
