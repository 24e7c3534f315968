"""Weights written as an ordinary checkpoint: in the format, and under the names, of one that exists."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swag.atomic import replacing
from swag.checkpoints.index import read_index
from swag.checkpoints.names import match
from swag.checkpoints.paths import SUFFIXES, model_file
from swag.checkpoints.pickled import load_pickled, state_in
from swag.checkpoints.reader import open_checkpoint
from swag.errors import FileError
from swag.parameters import Layout
from swag.tensorfile import Stacked, TensorFile, write_tensors


def write_checkpoint(
    target: str | os.PathLike[str],
    base: str | os.PathLike[str],
    layout: Layout,
    theta: Tensor,
    *,
    key: str | None = None,
) -> None:
    """Writes the checkpoint `base` with the weights θ in it; everything else in it stays as it is.

    Args:
        target: a file, or a folder where `base` is one; it appears whole or not at all.
        base: any checkpoint that `open_checkpoint` reads.
        layout: θ's names, which `base` must have.
        theta: (D,); cast to the dtypes in `base`.
        key: where in a pickled dict the weights lie.

    Raises:
        FileError: `base` lacks a tensor or has it in another shape (both named), or cannot be read; the
            target cannot be written, or is a folder that exists.
    """
    base, target = Path(base), Path(target)
    layout.check_theta(theta)
    with open_checkpoint(base, key) as checkpoint:
        own = match(layout, checkpoint)
        of = {own[name]: value for name, value in layout.unflatten(theta).items()}
        values = {name: value.to(checkpoint.tensors[name].dtype) for name, value in of.items()}
        values |= {alias: values[first] for alias, first in checkpoint.aliases.items() if first in values}
    if not base.is_dir():
        _write_file(target, base, values, key)
        return
    if target.exists():
        raise FileError(f"{target}: exists; pass a new folder")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise FileError(f"{target}: cannot be written ({error.strerror}); pass a writable folder") from error
    try:
        _copy_rest(base, partial)
        for file in _weight_files(base):
            _write_file(partial / file.name, file, values, key)
        os.chmod(partial, base.stat().st_mode)
        os.replace(partial, target)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{target}: could not be written ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _weight_files(folder: Path) -> list[Path]:
    target = model_file(folder)
    assert target is not None
    return sorted(set(read_index(target).values())) if target.suffix == ".json" else [target]


def _copy_rest(base: Path, target: Path) -> None:
    """What makes the folder loadable: configuration, tokenizer, the index; no optimizer states."""
    for file in base.iterdir():
        if file.is_file() and file.suffix not in SUFFIXES:
            shutil.copy(file, target / file.name)


def _write_file(target: Path, base: Path, values: dict[str, Tensor], key: str | None) -> None:
    if base.suffix == ".safetensors":
        with TensorFile(base) as file, replacing(target) as temporary:
            tensors: dict[str, Tensor | Stacked] = {
                name: values[name] if name in values else file.mapped(name) for name in file.specs
            }
            write_tensors(temporary, tensors, file.metadata)
        return
    document: Any = load_pickled(base)
    state = state_in(document, key, base)
    fresh: dict[int, Tensor] = {}
    for name in state:
        if name in values:
            # In storage of its own, which torch.save writes whole; a shared tensor's names keep sharing.
            value = values[name]
            tensor = fresh.setdefault(value.data_ptr() if value.numel() else -1 - len(fresh), value.clone())
            was = state[name]
            state[name] = nn.Parameter(tensor, was.requires_grad) if isinstance(was, nn.Parameter) else tensor
    with replacing(target) as temporary:
        try:
            torch.save(document, temporary)
        except RuntimeError as error:  # a full disk, too
            raise FileError(f"{target}: could not be written ({error})") from error
