"""The safetensors format: read tensor by tensor, written piece by piece, nothing held twice.

    8 bytes, n as a little-endian integer | n bytes of JSON | the tensors' bytes, one after the other

The JSON is {"__metadata__": {text: text}, name: {"dtype": …, "shape": […], "data_offsets": [from, to]}, …}.
A header is believed in nothing: sizes are compared with the file's before anything is allocated.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast, final

import torch
from torch import Tensor

from swag.errors import FileError, InputError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# A header of a quarter of a million tensors; parsed JSON takes up to twenty times its text in memory.
_LARGEST_HEADER = 1 << 25
_LARGEST_SIDE = 1 << 48
_MOST_DIMENSIONS = 64
_PIECE = 1 << 24
_ALIGNMENT = 8


@final
@dataclass(frozen=True)
class Spec:
    """One tensor of a file: its dtype, shape, and where its bytes lie."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@final
@dataclass(frozen=True)
class Stacked:
    """Tensors of one shape and dtype that a file holds as one, stacked along a new first dimension."""

    parts: Sequence[Tensor]
    dtype: torch.dtype
    part_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.part_shape)


@final
class TensorFile:
    """An open safetensors file.

    Args:
        path: the file; its header is read and checked at once, its tensors when asked for.

    Raises:
        FileError: the file is missing, cut short, or no safetensors file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileError(f"{self.path}: no such file")
        try:
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise FileError(f"{self.path}: cannot be read ({error.strerror})") from error
        try:
            self.specs, self.metadata, self._data = _read_header(self._file.fileno())
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            self._file.close()
            raise FileError(
                f"{self.path}: not a whole safetensors file ({error}); copy or write it again"
            ) from error

    def read(self, name: str) -> Tensor:
        """The tensor `name`, in memory of its own."""
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=spec.dtype, device="cpu")
        if tensor.numel():
            self._read_into(tensor.view(-1).view(torch.uint8), spec.start)
        return tensor

    def read_piece(self, name: str, first: int, last: int, buffer: Tensor) -> Tensor:
        """Values first … last − 1 of a tensor, flattened, in `buffer`: uint8, long enough, overwritten."""
        spec = self.specs[name]
        size = spec.dtype.itemsize
        target = buffer[: (last - first) * size]
        self._read_into(target, spec.start + first * size)
        return target.view(spec.dtype)

    def mapped(self, name: str) -> Tensor:
        """The tensor `name` as a private mapping of the file: read from disk when touched, never kept.

        It is right for as long as nobody writes to the file in place.
        """
        spec = self.specs[name]
        if spec.start == spec.stop:
            return torch.empty(spec.shape, dtype=spec.dtype, device="cpu")
        storage: Any = torch.UntypedStorage.from_file(str(self.path), False, self._data + spec.stop)
        whole = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)
        part = whole[self._data + spec.start :]
        if (self._data + spec.start) % spec.dtype.itemsize:
            part = part.clone()  # another program's file, whose tensors are not aligned
        return part.view(spec.dtype).view(spec.shape)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_into(self, target: Tensor, start: int) -> None:
        view, done = memoryview(cast(Any, target.numpy())), 0
        while done < len(view):
            try:
                n = os.preadv(self._file.fileno(), [view[done:]], self._data + start + done)
            except OSError as error:
                raise FileError(f"{self.path}: cannot be read ({error.strerror})") from error
            if n == 0:
                raise FileError(f"{self.path}: was cut short while it was read; copy or write it again")
            done += n


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor | Stacked],
    metadata: Mapping[str, str] | None = None,
    *,
    on_bytes: Callable[[int], object] = lambda n: None,
) -> None:
    """Writes a safetensors file in pieces; tensors of the largest items first, so that all are aligned.

    Args:
        path: where; written in place (see `swag.atomic.replacing`).
        tensors: by name; of any device and strides.
        metadata: text by name.
        on_bytes: told of every piece how many bytes it had.

    Raises:
        InputError: a dtype that the format lacks.
        OSError: the disk is full, ….
    """
    for name, value in tensors.items():
        if value.dtype not in _CODES:
            raise InputError(f"{name}: safetensors has no {value.dtype}; convert it or leave it out")
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in order:
        value = tensors[name]
        stop = start + math.prod(value.shape) * value.dtype.itemsize
        header[name] = {
            "dtype": _CODES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb", buffering=0) as file:
        _write(file, memoryview(len(text).to_bytes(8, "little") + text))
        for name in order:
            value = tensors[name]
            for part in value.parts if isinstance(value, Stacked) else (value,):
                flat = part.detach().reshape(-1)
                step = _PIECE // flat.element_size()
                for first in range(0, flat.numel(), step):
                    piece = flat[first : first + step].cpu().contiguous().view(torch.uint8)
                    _write(file, memoryview(cast(Any, piece.numpy())))
                    on_bytes(piece.numel())


def _write(file: Any, view: memoryview) -> None:
    while len(view):
        view = view[file.write(view) :]


def _read_header(handle: int) -> tuple[dict[str, Spec], dict[str, str], int]:
    """The tensors, the metadata, and where the data begins. Raises ValueError and the like."""
    size = os.fstat(handle).st_size
    if size < 8:
        raise ValueError(f"it has {size} bytes, a header's length alone takes 8")
    length = int.from_bytes(os.pread(handle, 8, 0), "little")
    if length > min(size - 8, _LARGEST_HEADER):
        raise ValueError(f"its header claims {length:,} bytes, the file has {size:,}")
    document = json.loads(os.pread(handle, length, 8).decode("utf-8"), object_pairs_hook=unique_keys)
    if not isinstance(document, dict):
        raise ValueError(f"its header is a {type(document).__name__}, not an object")
    metadata = document.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not text by name")
    specs = {name: _spec(name, entry) for name, entry in document.items()}
    specs = dict(sorted(specs.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = 0
    for name, spec in specs.items():
        if spec.start != end:
            raise ValueError(f"tensor '{name}' begins at byte {spec.start:,} of the data, expected {end:,}")
        end = spec.stop
    if 8 + length + end != size:
        raise ValueError(f"its tensors end at byte {8 + length + end:,}, the file has {size:,}")
    return specs, metadata, 8 + length


def _spec(name: str, entry: Any) -> Spec:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor '{name}' is not described by dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(
            type(number) is int and 0 <= number < _LARGEST_SIDE for number in numbers
        ):
            raise ValueError(f"tensor '{name}' has the shape {shape!r:.80} and the offsets {offsets!r:.80}")
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"tensor '{name}' has dtype {entry['dtype']!r:.80}, which is unknown here")
    if len(offsets) != 2 or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"tensor '{name}' has {len(shape)} dimensions and {len(offsets)} offsets")
    dtype = _DTYPES[entry["dtype"]]
    if math.prod(max(side, 1) for side in shape) >= 1 << 60:  # of an empty tensor, too
        raise ValueError(f"tensor '{name}' has the shape {shape}")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise ValueError(f"tensor '{name}' of shape {shape} does not fill its {offsets} bytes")
    return Spec(dtype, tuple(shape), offsets[0], offsets[1])


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names must differ: for `json.loads(…, object_pairs_hook=unique_keys)`."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
