r"""Posteriors and collectors as files: safetensors with a JSON header, never a pickle.

The safetensors metadata holds one key, "swag", whose value is JSON:

    {"format_version": 1, "swag_version": …, "object": {"kind": …, "layout": […], …}}

`kind` is one of point_mass, low_rank_gaussian, empirical, mixture, collector; a mixture's components are
nested objects whose tensors carry the prefix "0/", "1/", …. A layout is a list of {name, shape, dtype}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swag.atomic import replacing
from swag.collector import Collector
from swag.errors import FileError, InputError
from swag.parameters import Layout
from swag.posterior import Empirical, LowRankGaussian, Mixture, PointMass, Posterior

FORMAT_VERSION = 1

Header = dict[str, Any]
Tensors = dict[str, Tensor]


def save(path: str | os.PathLike[str], obj: Posterior | Collector) -> None:
    """Writes a posterior or a collector; the file appears whole or not at all.

    Args:
        path: usually ends in .safetensors.
        obj: `PointMass`, `LowRankGaussian`, `Empirical`, a `Mixture` of them, or a `Collector`.

    Raises:
        InputError: another kind of object.
        FileError: the file cannot be written; an old one is unchanged.
    """
    from swag import __version__

    header, tensors = _pack(obj)
    document = {"format_version": FORMAT_VERSION, "swag_version": __version__, "object": header}
    # safetensors wants each tensor contiguous and in memory of its own.
    owned: Tensors = {}
    for name, tensor in tensors.items():
        alone = tensor.detach().to("cpu").contiguous()
        whole = alone.untyped_storage().nbytes() == alone.numel() * alone.element_size()
        shared = any(alone.data_ptr() == other.data_ptr() for other in owned.values() if other.numel())
        owned[name] = alone if whole and not shared else alone.clone()
    with replacing(path) as temporary:
        try:
            save_file(owned, temporary, metadata={"swag": json.dumps(document, sort_keys=True)})
        except SafetensorError as error:  # a full disk, too
            raise FileError(
                f"{path}: could not be written ({error}); the old file, if any, is unchanged"
            ) from error


def load(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Any:
    """Reads what `save` wrote.

    Args:
        path: the file.
        device: where the tensors go.

    Returns:
        The posterior or collector; samples drawn with one seed are those of the saved object.

    Raises:
        FileError: the file is missing, damaged, of another format version, or not from `save`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            # Copied out of the mapped file, which another program may write over or cut short later.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: not a whole safetensors file ({error}); copy or write it again") from error
    try:
        return _unpack(header, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise FileError(f"{path}: its header and tensors do not fit together ({error!r})") from error


def _header(path: Path, metadata: dict[str, str]) -> Header:
    if "swag" not in metadata:
        raise FileError(
            f"{path}: a safetensors file, but not one that swag.save wrote; weights alone are no posterior"
        )
    try:
        document = json.loads(metadata["swag"])
        version, header = document["format_version"], document["object"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"{path}: its header is damaged ({error!r})") from error
    if version != FORMAT_VERSION:
        raise FileError(
            f"{path}: has format version {version!r}, this library reads {FORMAT_VERSION}; update swag"
        )
    return header


def _pack(obj: Any) -> tuple[Header, Tensors]:
    if isinstance(obj, PointMass):
        return {"kind": "point_mass", **_layout(obj)}, {"mean": obj.mean}
    if isinstance(obj, LowRankGaussian):
        header = {"kind": "low_rank_gaussian", **_layout(obj), "row_scale": obj.row_scale}
        return header, {"mean": obj.mean, "cov_diag": obj.cov_diag, "rows": obj.rows}
    if isinstance(obj, Empirical):
        return {"kind": "empirical", **_layout(obj)}, {"samples": obj.samples}
    if isinstance(obj, Mixture):
        packed = [_pack(component) for component in obj.posteriors]
        tensors = {f"{i}/{name}": t for i, (_, own) in enumerate(packed) for name, t in own.items()}
        header = {
            "kind": "mixture",
            "weights": obj.weights.tolist(),
            "components": [own for own, _ in packed],
        }
        return header, tensors
    if isinstance(obj, Collector):
        state = obj.state_dict()
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        return {"kind": "collector", **{k: v for k, v in state.items() if k not in tensors}}, tensors
    raise InputError(
        f"obj: cannot save a {type(obj).__name__}; pass a PointMass, LowRankGaussian, Empirical, Mixture or "
        "Collector"
    )


def _unpack(header: Header, tensors: Tensors) -> Any:
    readers: dict[str, Callable[[Header, Tensors], Any]] = {
        "point_mass": lambda h, t: PointMass(t["mean"], layout=_read_layout(h)),
        "low_rank_gaussian": _unpack_gaussian,
        "empirical": lambda h, t: Empirical(t["samples"], layout=_read_layout(h)),
        "mixture": _unpack_mixture,
        "collector": _unpack_collector,
    }
    if header["kind"] not in readers:
        raise InputError(f"kind {header['kind']!r} is unknown to this version; update swag")
    return readers[header["kind"]](header, tensors)


def _unpack_gaussian(header: Header, tensors: Tensors) -> LowRankGaussian:
    return LowRankGaussian.from_rows(
        tensors["mean"],
        tensors["cov_diag"],
        tensors["rows"],
        row_scale=float(header["row_scale"]),
        layout=_read_layout(header),
    )


def _unpack_mixture(header: Header, tensors: Tensors) -> Mixture:
    components = []
    for index, component in enumerate(header["components"]):
        prefix = f"{index}/"
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        components.append(_unpack(component, own))
    return Mixture(components, header["weights"])


def _unpack_collector(header: Header, tensors: Tensors) -> Collector:
    layout = Layout.from_list(header["layout"])
    collector = Collector.for_layout(
        layout,
        header["rank"],
        deviation_dtype=getattr(torch, header["deviation_dtype"]),
        device=next((tensor.device for tensor in tensors.values()), torch.device("cpu")),
    )
    collector.load_state_dict({**header, **tensors})
    return collector


def _layout(obj: Posterior) -> Header:
    return {"layout": None if obj.layout is None else obj.layout.to_list()}


def _read_layout(header: Header) -> Layout | None:
    return None if header["layout"] is None else Layout.from_list(header["layout"])
