"""Save, load and describe: the document around the objects, and the errors of files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import nn

from swag.atomic import replacing
from swag.batches import Forward
from swag.collector import Collector
from swag.ensemble import Ensemble
from swag.errors import FileError, InputError
from swag.files.ensembles import OtherModel, pack_ensemble, unpack_ensemble
from swag.files.kinds import FORMAT_VERSION, Header, Packed, check_fields, pack, pack_swag, unpack
from swag.posterior import Posterior
from swag.posterior.protocol import check_scale
from swag.progress import track_bytes
from swag.tensorfile import Spec, TensorFile, unique_keys, write_tensors

Provenance = Mapping[str, str | int | float | bool | None]

_FIELDS = {"format_version", "swag_version", "object", "provenance"}


@runtime_checkable
class WritesItself(Protocol):
    """An object that no process holds whole, such as a sharded collector: `save` leaves the writing to it."""

    def __swag_save__(self, path: str | os.PathLike[str], *, provenance: Provenance | None = None) -> None:
        """What `save(path, self, provenance=provenance)` does."""


def save(
    path: str | os.PathLike[str],
    obj: Posterior | Collector | Ensemble | WritesItself,
    *,
    provenance: Provenance | None = None,
) -> None:
    """Writes a posterior, a collector or an ensemble; the file appears whole or not at all.

    An ensemble's file holds all that its members are made of: drawn weights, batch-norm statistics, and what
    all of them share. Its model's class, and `forward`, are code and stay with you.

    Args:
        path: usually ends in .safetensors.
        obj: `PointMass`, `LowRankGaussian`, `Empirical`, a `Mixture` of them, a `Collector` or an `Ensemble`;
            or a sharded collector or posterior of `swag.distributed`, which EVERY rank must pass.
        provenance: text and numbers by name that go into the header, for people.

    Raises:
        InputError: another kind of object.
        FileError: the file cannot be written; an old one is unchanged.
        StateError: of a sharded object, a rank was lost, or is at another snapshot.
    """
    if isinstance(obj, WritesItself):
        obj.__swag_save__(path, provenance=provenance)
        return
    _write(path, pack_ensemble(obj) if isinstance(obj, Ensemble) else pack(obj), provenance)


def save_swag(
    path: str | os.PathLike[str],
    collector: Collector,
    scale: float = 0.5,
    *,
    provenance: Provenance | None = None,
) -> None:
    """Writes what `save(path, collector.swag(scale))` writes, without a copy of the deviations on the way.

    Raises:
        StateError: fewer than two snapshots.
        InputError: the collector's rank is below 2, or scale is negative.
        FileError: the file cannot be written; an old one is unchanged.
    """
    check_scale(scale)
    _write(path, pack_swag(collector, scale), provenance)


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    mapped: bool = False,
    model: nn.Module | None = None,
    forward: Forward | None = None,
) -> Any:
    """Reads what `save` wrote.

    Args:
        path: the file.
        device: where the tensors go.
        mapped: leaves the tensors in the file, to be read where they are touched: for posteriors larger than
            memory. The file must stay as it is for as long as the object lives.
        model: for an ensemble's file: an instance of its architecture, whose values do not
            matter; it is copied.
        forward: for an ensemble's file, as in `Ensemble`.

    Returns:
        The posterior, collector or ensemble; samples drawn with one seed are those of the saved object.

    Raises:
        FileError: the file is missing, damaged, of another format version, or not from `save`.
        InputError: an ensemble without `model`, or with a model that does not fit; anything else with one.
    """
    path = Path(path)
    if mapped and torch.device(device).type != "cpu":
        raise InputError(f"mapped: tensors on {device} cannot lie in a file; leave device or mapped out")
    with TensorFile(path) as file:
        header = _document(path, file.metadata)["object"]
        is_ensemble = isinstance(header, dict) and header.get("kind") == "ensemble"
        if is_ensemble and model is None:
            raise InputError(f"model: {path} holds an ensemble; pass model= an instance of its architecture")
        if not is_ensemble and (model is not None or forward is not None):
            raise InputError(f"model: {path} holds no ensemble; load it alone and pass it to swag.Ensemble")
        names = list(file.specs)
        tensors = {n: file.mapped(n) if mapped else file.read(n).to(device) for n in names}
    try:
        if is_ensemble:
            assert model is not None
            check_fields(header, tensors)
            return unpack_ensemble(header, tensors, model, forward)
        return unpack(header, tensors)
    except OtherModel as error:
        raise InputError(f"model: {error} ({path})") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise FileError(f"{path}: its header and tensors do not fit together ({error!r})") from error


@final
@dataclass(frozen=True)
class FileInfo:
    """What a file says about itself, without its tensors being read.

    Attributes:
        path: the file.
        n_bytes: its size.
        swag_version: of the library that wrote it.
        header: kind, layout, and the kind's fields.
        tensors: dtype, shape and place of every tensor, by name.
        provenance: what `save` was told.
    """

    path: Path
    n_bytes: int
    swag_version: str
    header: Header
    tensors: Mapping[str, Spec]
    provenance: Provenance


def describe(path: str | os.PathLike[str]) -> FileInfo:
    """Reads the header of a file that `save` wrote.

    Raises:
        FileError: as `load`, as far as the header shows it.
    """
    path = Path(path)
    with TensorFile(path) as file:
        document = _document(path, file.metadata)
        n_bytes = path.stat().st_size
        version = str(document.get("swag_version", ""))
        return FileInfo(
            path, n_bytes, version, document["object"], file.specs, document.get("provenance") or {}
        )


def _write(path: str | os.PathLike[str], packed: Packed, provenance: Provenance | None) -> None:
    header, tensors = packed
    write_document(path, document_of(header, provenance), tensors)


def document_of(header: Header, provenance: Provenance | None) -> str:
    """The text that stands in a file beside an object's tensors."""
    from swag import __version__

    document: Header = {"format_version": FORMAT_VERSION, "swag_version": __version__, "object": header}
    if provenance:
        document["provenance"] = _checked(provenance)
    return json.dumps(document, sort_keys=True)


def write_document(path: str | os.PathLike[str], text: str, tensors: Mapping[str, Any]) -> None:
    """Writes such a text and the tensors, or what streams them; the file appears whole or not at all."""
    n_bytes = sum(torch.Size(t.shape).numel() * t.dtype.itemsize for t in tensors.values())
    with replacing(path) as temporary, track_bytes(n_bytes, "save") as on_bytes:
        write_tensors(temporary, tensors, {"swag": text}, on_bytes=on_bytes)


def _document(path: Path, metadata: Mapping[str, str]) -> Header:
    if "swag" not in metadata:
        raise FileError(
            f"{path}: a safetensors file, but not one that swag.save wrote; weights alone are no posterior"
        )
    try:
        document = json.loads(metadata["swag"], object_pairs_hook=unique_keys)
        version, header = document["format_version"], document["object"]
        kind = header["kind"]
        unknown = sorted(document.keys() - _FIELDS)
        _checked(document.get("provenance", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{path}: its header is damaged ({error!r})") from error
    if type(version) is not int or version != FORMAT_VERSION:
        raise FileError(
            f"{path}: has format version {version!r:.80}, this library reads {FORMAT_VERSION}; update swag"
        )
    if unknown or not isinstance(kind, str):
        raise FileError(
            f"{path}: its header has the field {unknown[0] if unknown else kind!r:.80}, which is unknown to "
            "this version; update swag"
        )
    return document


def _checked(provenance: Provenance) -> dict[str, Any]:
    if not isinstance(provenance, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str | int | float | None)
        for key, value in provenance.items()
    ):
        raise InputError(f"provenance: got {provenance!r:.200}; pass text and numbers by name")
    return dict(provenance)
