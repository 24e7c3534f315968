"""The time `import swag` takes on top of `import torch`, and that of every public name's module besides.

python -m experiments.performance --only imports
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from .results import Goal, Results, Settings, Table

_ROOT = Path(__file__).resolve().parents[2]
_CODE = """
import time
a = time.perf_counter(); import torch
b = time.perf_counter(); import swag
c = time.perf_counter(); [getattr(swag, name) for name in swag.__all__ if name != "Report"]
d = time.perf_counter()
print(b - a, c - b, d - b)
"""


def run(settings: Settings) -> Results:
    """Each sample is a process of its own; the first is not counted: it writes the bytecode."""
    results = Results("imports", settings)
    samples = []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    for _ in range(settings.repeats + (not settings.smoke)):
        done = subprocess.run(
            [sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, env=environment
        )
        samples.append([float(word) for word in done.stdout.split()])
    medians = [statistics.median(column) for column in zip(*samples[-settings.repeats :], strict=True)]
    table = Table("Import time", ["seconds"], unit="", limit="import torch")
    for name, role, seconds in zip(
        ("import torch", "import swag, after it", "and every public name but Report"),
        ("limit", "ours", "ours"),
        medians,
        strict=True,
    ):
        table.add(name, role, "seconds", seconds)
    results.tables = [table]
    results.goals = [Goal.below("import", "import swag over import torch", medians[1], 0.5, " s")]
    return results
