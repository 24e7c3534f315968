"""Results files of the experiments: JSON with kind, version, environment and what was found.

    record.write(path, "swa", {"settings": {...}, "rows": [...]})
    record.read(path, "swa")["rows"]

A file is written whole or not at all, so that a run that was stopped goes on with what is missing.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import swag
from swag.atomic import write_text

VERSION = 1
_NAMED = ("numpy", "scipy", "scikit-learn")


def environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Versions, hardware and threads."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "swag": swag.__version__}
    versions |= {name: metadata.version(name) for name in _NAMED}
    found = {"versions": versions, "cpu": cpu_name(), "cores": os.cpu_count()}
    found["threads"] = torch.get_num_threads()
    if torch.device(device).type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
    return found


def cpu_name() -> str:
    """The processor, with its model number where its name says little."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = {
        key: match.group(1)
        for key in ("model name", "cpu family", "model")
        if (match := re.search(rf"^{key}\s*: (.*)$", text, re.MULTILINE))
    }
    numbers = f"(family {found.get('cpu family')}, model {found.get('model')})"
    return f"{found.get('model name', 'unknown')} {numbers}"


def write(path: Path, kind: str, payload: dict[str, Any], *, device: str | torch.device = "cpu") -> None:
    """Writes `payload` with its kind, the format's version and the environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"kind": kind, "version": VERSION, "environment": environment(device), **payload}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=_plain) + "\n")


def read(path: Path, kind: str) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        SystemExit: not JSON in UTF-8, of another kind, or of another version (the message says which).
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise SystemExit(f"{path} holds results of kind {found!r}, not {kind!r}; pass another --out")
    if content.get("version") != VERSION:
        raise SystemExit(
            f"{path} has version {content.get('version')!r} of the format, this is version {VERSION}; "
            "delete it and run again"
        )
    return content


def done(path: Path, kind: str, settings: dict[str, Any] | None = None) -> bool:
    """Whether `path` already holds results of that kind, and of the same settings where they are given.

    Raises:
        SystemExit: it holds something else, or results of other settings.
    """
    if not path.exists():
        return False
    content = read(path, kind)
    if settings is not None and content.get("settings") != json.loads(json.dumps(settings, default=_plain)):
        raise SystemExit(f"{path} has results of other settings; delete it or pass another --out")
    return True


def mean_and_spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for one value."""
    numbers = list(values)
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else math.nan


def spread(values: Sequence[float], digits: int) -> str:
    """mean ± sample standard deviation, or one value alone."""
    mean, sd = mean_and_spread(values)
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if len(values) > 1 else "")


def versions(environment: Mapping[str, Any]) -> str:
    """The versions of an `environment()` in words."""
    return ", ".join(f"{name} {version}" for name, version in environment["versions"].items())


def markdown(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
