"""A checkpoint that is read tensor by tensor, whatever its format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, final

import torch
from torch import Tensor

from swag.checkpoints.paths import PICKLED, SAFETENSORS, SUFFIXES, model_file
from swag.errors import FileError


@final
@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before its values are read."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class Checkpoint(Protocol):
    """Tensors by name, read when asked for.

    `tensors` has the file's order, without the further names of shared tensors; `aliases` maps those to
    the first.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    aliases: Mapping[str, str]

    def piece(self, name: str, first: int, last: int) -> Tensor:
        """Values first … last − 1 of a tensor, flattened row-major; good until the next call."""

    def close(self) -> None:
        """Lets go of the file."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_checkpoint(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """Opens a checkpoint; nothing in it is ever unpickled beyond tensors and plain data.

    Args:
        path: .safetensors; .pt, .pth, .bin or .ckpt from `torch.save`; or a folder with an index.
        key: where in a pickled dict the weights lie, as in "model" or "ema.state_dict".

    Raises:
        FileError: the file is missing, damaged, of another format, or holds code.
        InputError: `key` for a format that has none.
    """
    from swag.checkpoints.pickled import open_pickled
    from swag.checkpoints.safetensors_files import open_safetensors

    path = Path(path)
    target = model_file(path) if path.is_dir() else path
    if target is None:
        raise FileError(f"{path}: this folder is no checkpoint; it lacks model.safetensors or its index")
    if not target.is_file():
        raise FileError(f"{path}: no such file")
    if target.suffix in SAFETENSORS or target.name.endswith(".safetensors.index.json"):
        return open_safetensors(path, target, key)
    if target.suffix in PICKLED or target.name.endswith(".bin.index.json"):
        return open_pickled(path, target, key)
    raise FileError(f"{path}: its suffix is none of {', '.join(SUFFIXES)}; rename it by its format")
