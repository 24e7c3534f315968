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
    "collect-copy": "four operations go over each piece, and θ is read once more for the test of NaN and "
    "infinity; one fused pass (`kernel=compiled_kernel()`, below) is faster",
    "collect-compiled": "the test of NaN and infinity reads θ once more before anything is written, a "
    "seventh of the bytes",
    "collect-compiled-peer": "as for the copy",
    "collect-peer": "as for the copy: it takes a fused pass",
    "collect-small-copy": "finding 65 parameters by name and gathering them takes a call each; the copy "
    "is one call",
    "collect-small-peer": "as for the copy: calls, not bytes",
    "collect-averaged": "calls, not bytes; AveragedModel keeps the mean alone and tests nothing",
    "draw": "normal numbers take about half of the time and fresh memory for the samples most of the "
    "rest; numbers that do not depend on how many are drawn take some ten operations in plain torch, "
    "torch's own take one (and alone take more than a tenth of the reference's time)",
    "draw-fast": "the fused generator (`posterior.compiled()`) leaves the matrix product and fresh memory",
    "average-exact-float32": "convolutions take most of the time, the same ones as in the reference, and "
    "accurate statistics cost more than the training kernel's",
    "average-exact-bfloat16": "convolutions gain; statistics stay in float32 for their accuracy",
    "average-few-float32": "a 30th of the one pass over all rows is in the sum; without it, see the row "
    "below",
    "average-few-bfloat16": "a 30th of the one pass over all rows is in the sum; without it, see the row "
    "below",
    "average-none-float32": "convolutions take most of the time",
    "average-none-bfloat16": "convolutions take most of the time; the gain is this processor's in bfloat16",
    "average-error": "the network was trained for seconds; experiments/batchnorm has others",
    "plain-float32": "float32 matrix products take most of the time, the same ones as in the reference",
    "plain-bfloat16": "matrix products take most of the time; the gain is this processor's in bfloat16",
    "metrics": "the checks of the input and the tie rule are part of the figure",
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
