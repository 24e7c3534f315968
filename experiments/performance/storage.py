"""Posteriors as files, smaller than `files.py` measures them by itself (50 M parameters, 14 GB, minutes).

python -m experiments.performance --only storage
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from . import files
from .results import Results, Settings, Table


def run(settings: Settings) -> Results:
    """Fit, save and load beside moving the same bytes, in the temporary folder."""
    results = Results("storage", settings)
    size, checkpoints = (1e5, 2) if settings.smoke else (1e6, 5) if settings.quick else (5e6, 20)
    rows = ["fit .safetensors", "save", "load"] if settings.quick else files.ROWS
    with tempfile.TemporaryDirectory() as folder:
        found = files.measure(
            argparse.Namespace(
                dir=Path(folder),
                parameters=size,
                checkpoints=checkpoints,
                repeats=settings.repeats,
                rows=rows,
            )
        )
    table = Table(
        f"{checkpoints} checkpoints of {found['n_parameters'] / 1e6:.3g} M parameters, rank {found['rank']}",
        ["ms", "ms of moving bytes", "ratio", "peak memory ÷ output"],
        unit="",
        note="Files lie in the page cache: a hard comparison, since a cold disk hides the computing.",
    )
    for row in found["rows"]:
        seconds, moving = statistics.median(row["seconds"]), statistics.median(row["moving_seconds"])
        table.add(row["what"], "ours", "ms", 1e3 * seconds)
        table.add(row["what"], "ours", "ms of moving bytes", 1e3 * moving)
        table.add(row["what"], "ours", "ratio", statistics.median(row["ratios"]))
        table.add(row["what"], "ours", "peak memory ÷ output", row["peak_bytes"] / row["output_bytes"])
    results.tables = [table]
    return results
