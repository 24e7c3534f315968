"""Checkpoints as safetensors: one file, or shards with an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, final

import torch
from torch import Tensor

from swag.checkpoints.index import read_index
from swag.checkpoints.reader import Checkpoint, TensorInfo
from swag.errors import FileError, InputError
from swag.tensorfile import TensorFile


def open_safetensors(path: Path, target: Path, key: str | None) -> Checkpoint:
    """The checkpoint in a .safetensors file, or in the shards of an index."""
    if key is not None:
        raise InputError(f"key: {path} is a safetensors file, whose tensors lie under no key; leave key out")
    if target.suffix == ".safetensors":
        return SafetensorsCheckpoint(path, [TensorFile(target)])
    places = read_index(target)
    files: dict[Path, TensorFile] = {}
    try:
        for name, shard in places.items():
            if shard not in files:
                files[shard] = TensorFile(shard)
            if name not in files[shard].specs:
                raise FileError(f"{shard}: has no tensor '{name}', though {target.name} says so")
        return SafetensorsCheckpoint(path, list(files.values()))
    except FileError:
        for file in files.values():
            file.close()
        raise


@final
class SafetensorsCheckpoint:
    """Tensors in open safetensors files."""

    def __init__(self, path: Path, files: list[TensorFile]) -> None:
        self.path = path
        self.files = files
        self._buffer = torch.empty(0, dtype=torch.uint8, device="cpu")
        self._file_of: dict[str, TensorFile] = {}
        for file in files:
            for name in file.specs:
                if name in self._file_of:
                    raise FileError(f"{file.path}: holds the tensor '{name}' a second time")
                self._file_of[name] = file
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(file.specs[name].dtype, file.specs[name].shape)
            for name, file in self._file_of.items()
        }
        # safetensors.torch.save_model notes the names of shared tensors that it left out.
        self.aliases: Mapping[str, str] = {
            alias: first
            for file in files
            for alias, first in file.metadata.items()
            if alias not in self.tensors and first in self.tensors
        }

    def piece(self, name: str, first: int, last: int) -> Tensor:
        """Values first … last − 1 of a tensor, in a buffer that the next call uses again."""
        n_bytes = (last - first) * self.tensors[name].dtype.itemsize
        if self._buffer.numel() < n_bytes:
            self._buffer = torch.empty(n_bytes, dtype=torch.uint8, device="cpu")
        return self._file_of[name].read_piece(name, first, last, self._buffer)

    def close(self) -> None:
        """Closes the files."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
