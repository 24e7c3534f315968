"""A collector beside the Trainer's own files: one safetensors file in each checkpoint-N."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swag.collector import Collector
from swag.errors import FileError, InputError
from swag.files import describe, load, save
from swag.parameters import Layout

FILE = "swag.safetensors"
# Of every tensor, so many values tell whose weights they are.
_LOOKED_AT = 1024

Provenance = Mapping[str, str | int | float | bool | None]


def write(folder: Path, collector: Collector, model: nn.Module, settings: Provenance) -> None:
    """Writes the collector, the settings it was collected by, and whose weights these are."""
    save(folder / FILE, collector, provenance={**settings, "weights": digest(model, collector.layout)})


def read_(folder: Path, collector: Collector, model: nn.Module) -> Provenance:
    """Puts what `write` wrote into the collector, bit for bit; returns the settings.

    Raises:
        FileError: no file, a damaged one, or one that belongs to other weights than the model holds.
        InputError: it was collected with another rank, row dtype or selection.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileError(f"{path}: is missing{_where_else(folder)}")
    settings = describe(path).provenance
    loaded = load(path, device=collector.device)
    if not isinstance(loaded, Collector):
        raise FileError(f"{path}: holds a {type(loaded).__name__} and no collector; pass another checkpoint")
    if loaded.rank != collector.rank:
        raise InputError(
            f"rank: got {collector.rank}, the run that {path} belongs to had {loaded.rank}; resume with "
            f"SWAGTrainerCallback(rank={loaded.rank}, …)"
        )
    try:
        collector.load_state_dict(loaded.state_dict())
    except InputError as error:
        raise InputError(f"{path}: does not fit this run ({error})") from error
    if settings.get("weights") != digest(model, collector.layout):
        raise FileError(
            f"{path}: belongs to other weights than those the Trainer resumed from; pass "
            "SWAGTrainerCallback(resume_from=FOLDER) with the folder that "
            "train(resume_from_checkpoint=FOLDER) gets"
        )
    return settings


def digest(model: nn.Module, layout: Layout) -> str:
    """Tells one step's weights from another's, by the first values of every tensor."""
    found = hashlib.sha256()
    for tensor in layout.tensors(model):
        values = tensor.detach().reshape(-1)[:_LOOKED_AT].to("cpu", torch.float64)
        found.update(values.numpy().tobytes())
    return found.hexdigest()[:32]


def _where_else(folder: Path) -> str:
    """The checkpoint beside it that does have a file, in words."""
    others: list[tuple[int, Any]] = [
        (int(match.group(1)), other)
        for other in folder.parent.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", other.name)) and (other / FILE).is_file()
    ]
    if not others:
        return (
            "; was the checkpoint written without this callback, or moved? Pass resume_from=FOLDER, or a "
            "swa_start from the step on at which training resumes"
        )
    return (
        " (a run that is killed while it saves leaves such a checkpoint); resume from "
        f"{max(others)[1]}, which has one"
    )
