"""A curve as a safetensors file: its control points, with basis and layout in the header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from swag.atomic import replacing
from swag.errors import FileError, InputError
from swag.geometry.bases import BASES, basis_name
from swag.parameters import Layout
from swag.tensorfile import TensorFile, unique_keys, write_tensors

if TYPE_CHECKING:
    from swag.geometry.curve import Curve

_KEY, _VERSION = "swag.curve", 1


def save_curve(path: str | os.PathLike[str], curve: Curve) -> None:
    """See `Curve.save`."""
    name = basis_name(curve.basis)
    if name is None:
        raise InputError(
            f"basis: {curve.basis!r} is one of your own, which a file cannot name; save its points"
        )
    layout = None if curve.layout is None else curve.layout.to_list()
    header = json.dumps({"version": _VERSION, "basis": name, "layout": layout}, sort_keys=True)
    with replacing(path) as temporary:
        write_tensors(temporary, {"points": curve.points}, {_KEY: header})


def load_curve(path: Path) -> Curve:
    """See `Curve.load`."""
    from swag.geometry.curve import Curve

    with TensorFile(path) as file:
        if _KEY not in file.metadata or set(file.specs) != {"points"}:
            raise FileError(f"{path}: holds no curve; pass a file that Curve.save wrote")
        text, points = file.metadata[_KEY], file.read("points")
    try:
        header = json.loads(text, object_pairs_hook=unique_keys)
        if header["version"] != _VERSION:
            raise ValueError(f"version {header['version']!r:.80}, this library reads {_VERSION}")
        layout = None if header["layout"] is None else Layout.from_list(header["layout"])
        return Curve(points, BASES[header["basis"]], layout=layout)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"{path}: its header is damaged or does not fit its points ({error})") from error
