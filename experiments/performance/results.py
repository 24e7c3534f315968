"""What a benchmark found: tables of timings, goals, and what they depend on; as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import swag
from swag.atomic import write_text

from ..record import cpu_name
from .timing import Timing

_NAMED = ("numpy", "gpytorch", "torch-uncertainty", "lightning-uq-box", "torchmetrics", "netcal")


@dataclass(frozen=True)
class Settings:
    """What a run is asked for."""

    quick: bool = False
    repeats: int = 9
    seed: int = 0
    swa_gaussian: str | None = None
    smoke: bool = False  # the smallest sizes that still run everything, for the tests

    @classmethod
    def of(cls, size: str, **others: Any) -> Settings:
        """The settings of a "full", "quick" or "smoke" run."""
        repeats = {"full": 7, "quick": 3, "smoke": 1}[size]
        return cls(quick=size != "full", smoke=size == "smoke", repeats=repeats, **others)


@dataclass
class Table:
    """Rows by columns; a cell is a timing in seconds or another figure.

    Args:
        title: what is measured, with sizes.
        columns: the cases.
        unit: of what is shown: "ms" for timings, else what the figures are in.
        limit: the row that the others are compared with.
        note: below the table.
    """

    title: str
    columns: list[str]
    unit: str = "ms"
    limit: str | None = None
    note: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, role: str, column: str, figure: Timing | float) -> None:
        """Sets a cell; `role` is ours, peer or limit."""
        row = next((row for row in self.rows if row["name"] == name), None)
        if row is None:
            row = {"name": name, "role": role, "cells": {}}
            self.rows.append(row)
        cell = figure.to_dict() if isinstance(figure, Timing) else {"value": float(f"{figure:.5g}")}
        row["cells"][column] = cell

    def figure(self, name: str, column: str) -> float | None:
        """A cell's median or value; None where it was not measured."""
        for row in self.rows:
            if row["name"] == name and column in row["cells"]:
                cell = row["cells"][column]
                return cell.get("median", cell.get("value"))
        return None

    def ratio(self, name: str, base: str, column: str) -> float | None:
        """One row's figure over another's."""
        top, bottom = self.figure(name, column), self.figure(base, column)
        return None if top is None or not bottom else top / bottom


@dataclass(frozen=True)
class Goal:
    """A goal and what was found; `met` is None where it could not be measured."""

    key: str
    what: str
    goal: str
    found: str
    met: bool | None

    @classmethod
    def below(cls, key: str, what: str, figure: float | None, most: float, unit: str = "×") -> Goal:
        """figure ≤ most."""
        return cls(
            key, what, f"≤ {most:g}{unit}", shown(figure, unit), None if figure is None else figure <= most
        )

    @classmethod
    def above(cls, key: str, what: str, figure: float | None, least: float, unit: str = "×") -> Goal:
        """figure ≥ least."""
        return cls(
            key, what, f"≥ {least:g}{unit}", shown(figure, unit), None if figure is None else figure >= least
        )

    @classmethod
    def stated(cls, key: str, what: str, figure: float | None, unit: str = "×") -> Goal:
        """A figure without a goal."""
        return cls(key, what, "(stated)", shown(figure, unit), None)


def shown(figure: float | None, unit: str = "×") -> str:
    """A figure in words, to three digits."""
    return "not measured" if figure is None else f"{figure:.3g}{unit}"


@dataclass
class Results:
    """One benchmark's."""

    benchmark: str
    settings: Settings
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "benchmark": self.benchmark,
            "quick": self.settings.quick,
            "seed": self.settings.seed,
            "repeats": self.settings.repeats,
            "seconds": round(self.seconds, 1),
            "environment": environment(),
            "tables": [asdict(table) for table in self.tables],
            "goals": [asdict(goal) for goal in self.goals],
            "skipped": self.skipped,
        }

    def write(self, folder: Path) -> Path:
        """Writes FOLDER/BENCHMARK.json, whole or not at all."""
        path = folder / f"{self.benchmark}.json"
        write_text(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")
        return path


def environment() -> dict[str, Any]:
    """Versions, hardware and threads."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "swag": swag.__version__}
    for name in _NAMED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "bfloat16_on_cpu": torch.cpu._is_avx512_bf16_supported() if hasattr(torch, "cpu") else False,
    }
