"""Arrays with a JSON header in one .npz file; no pickle is read or written."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swag.atomic import replacing
from swag.errors import FileError

_VERSION = 1
# What numpy, zipfile and json raise for files that were cut short or tampered with.
_DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    SyntaxError,
    NotImplementedError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_arrays(
    path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Writes the file whole or not at all.

    Raises:
        FileError: the path does not end in .npz, or cannot be written.
    """
    check_suffix(path)
    text = json.dumps({"kind": kind, "version": _VERSION, **header}, sort_keys=True)
    named: dict[str, Any] = {"header": np.array(text), **arrays}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **named)


def read_arrays(
    path: str | os.PathLike[str], *kinds: str
) -> tuple[str, dict[str, Any], dict[str, NDArray[Any]]]:
    """The kind that was found, the header, and the arrays.

    Raises:
        FileError: the file is missing, damaged, of none of the kinds, or of another version.
    """
    if not Path(path).is_file():
        raise FileError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
        kind, version = header.pop("kind"), header.pop("version")
    except _DAMAGED as error:
        raise FileError(f"{path}: cannot be read ({error!r:.200}); write it again") from error
    if kind not in kinds or version != _VERSION:
        raise FileError(
            f"{path}: holds {kind!r:.80} of version {version!r:.80}, expected {kinds[0]!r}, {_VERSION}"
        )
    return kind, header, arrays


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raises FileError where a path does not end in .npz, before any work is done."""
    if Path(path).suffix != ".npz":
        raise FileError(f"{path}: values are written as .npz; pass a path that ends in .npz")
