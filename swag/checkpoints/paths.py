"""Which checkpoints are meant: files, folders and globs, in the order in which people count."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from swag.errors import FileError, InputError

SAFETENSORS = (".safetensors",)
PICKLED = (".pt", ".pth", ".ckpt", ".bin")
SUFFIXES = SAFETENSORS + PICKLED
# What makes a folder one checkpoint, as Hugging Face's libraries write it; the first that is there counts.
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
MODEL_FILES = (*INDEX_FILES, "model.safetensors", "pytorch_model.bin")

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def natural_key(path: str | os.PathLike[str]) -> list[tuple[int, int, str]]:
    """Sorts by the numbers inside a name.

    >>> sorted(["epoch=10.ckpt", "epoch=9.ckpt", "last.ckpt"], key=natural_key)
    ['epoch=9.ckpt', 'epoch=10.ckpt', 'last.ckpt']
    """
    parts = re.split(r"([0-9]+)", os.fspath(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def model_file(folder: Path) -> Path | None:
    """The file or index that makes a folder one checkpoint; None for any other folder."""
    return next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)


def expand(paths: Paths) -> list[Path]:
    """The checkpoints that paths stand for: each a file, or a folder that is one checkpoint.

    Args:
        paths: one path or several, which keep their order: a file; a folder as Hugging Face's libraries
            write it, which is one checkpoint; another folder, for the checkpoints in it in natural order;
            or a glob ("run/*.pt"), likewise.

    Raises:
        FileError: a path does not exist, or nothing is found there.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not all(isinstance(path, str | os.PathLike) for path in given):
        raise InputError(f"paths: got {given!r:.200}; pass files, folders or globs")
    found = [checkpoint for path in given for checkpoint in _expand_one(os.fspath(path))]
    if not found:
        raise InputError("paths: the list is empty; pass files, folders or globs")
    return found


def _expand_one(text: str) -> Sequence[Path]:
    path = Path(text)
    if path.is_dir():
        if model_file(path) is not None:
            return [path]
        found = _in_order(path.iterdir())
        if not found:
            raise FileError(
                f"{path}: no checkpoint in this folder; it should hold {', '.join(SUFFIXES)} files"
            )
        return found
    if path.exists():
        return [path]
    if glob.has_magic(text):
        found = _in_order(Path(match) for match in glob.glob(text))
        if not found:
            raise FileError(f"{text}: no checkpoint matches")
        return found
    raise FileError(f"{path}: no such file")


def _in_order(candidates: Iterable[Path]) -> list[Path]:
    found = [
        path
        for path in candidates
        if not path.name.startswith(".")
        and (model_file(path) is not None if path.is_dir() else path.suffix in SUFFIXES)
    ]
    return sorted(found, key=natural_key)
