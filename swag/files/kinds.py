"""Every kind of object as a header and tensors, and back; what is missing or unknown is an error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from swag.collector import Collector
from swag.errors import InputError
from swag.parameters import Layout
from swag.posterior import Empirical, LowRankGaussian, Mixture, PointMass, Posterior
from swag.tensorfile import Stacked

FORMAT_VERSION = 1

Header = dict[str, Any]
Tensors = dict[str, Tensor]
Packed = tuple[Header, dict[str, Tensor | Stacked]]

# kind: (fields, tensors); a mixture's tensors are its components', others are checked where they are used.
_SHAPE_OF: dict[str, tuple[set[str], set[str] | None]] = {
    "point_mass": ({"layout"}, {"mean"}),
    "low_rank_gaussian": (
        {"layout", "row_scale", "scale", "n_collected"},
        {"mean", "cov_diag", "rows"},
    ),
    "empirical": ({"layout"}, {"samples"}),
    "mixture": ({"weights", "components"}, None),
    "collector": ({"version", "layout", "rank", "deviation_dtype", "n_collected"}, None),
    "ensemble": ({"layout", "likelihood", "keep_members", "autocast", "strategy"}, None),
}
_COLLECTOR_TENSORS = {"origin", "offset_mean", "sq_dev", "deviations"}


def pack(obj: Any) -> Packed:
    """Header and tensors of a posterior or a collector.

    Raises:
        InputError: another kind of object.
    """
    if isinstance(obj, PointMass):
        return {"kind": "point_mass", **_layout(obj)}, {"mean": obj.mean}
    if isinstance(obj, LowRankGaussian):
        return _pack_gaussian(obj, obj.mean, obj.cov_diag, obj.rows)
    if isinstance(obj, Empirical):
        return {"kind": "empirical", **_layout(obj)}, {"samples": obj.samples}
    if isinstance(obj, Mixture):
        packed = [pack(component) for component in obj.posteriors]
        tensors = {f"{i}/{name}": t for i, (_, own) in enumerate(packed) for name, t in own.items()}
        header = {
            "kind": "mixture",
            "weights": obj.weights.tolist(),
            "components": [own for own, _ in packed],
        }
        return header, tensors
    if isinstance(obj, Collector):
        state = obj.state_views()
        rows: list[Tensor] = state.pop("deviations", [])
        found: dict[str, Tensor | Stacked] = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        if found:
            found["deviations"] = Stacked(rows, obj.deviation_dtype, (obj.layout.size,))
        return {"kind": "collector", **{k: v for k, v in state.items() if k not in found}}, found
    raise InputError(
        f"obj: cannot save a {type(obj).__name__}; pass a PointMass, LowRankGaussian, Empirical, Mixture, "
        "Collector or Ensemble"
    )


def pack_swag(collector: Collector, scale: float) -> Packed:
    """What `pack(collector.swag(scale))` gives, the rows being those of the collector and no copy."""
    n, rows = collector.n_collected, collector.state_views().get("deviations", [])
    if n < 2 or len(rows) < 2:
        return pack(collector.swag(scale))  # which says what is wrong
    dtype = collector.deviation_dtype
    header: Header = {
        "kind": "low_rank_gaussian",
        "layout": collector.layout.to_list(),
        "row_scale": math.sqrt(scale / (len(rows) - 1)),
        "scale": scale,
        "n_collected": n,
    }
    return header, {
        "mean": collector.mean,
        "cov_diag": scale * (collector.sq_dev / n),
        "rows": Stacked(rows, dtype, (collector.layout.size,)),
    }


def unpack(header: Header, tensors: Tensors) -> Any:
    """The object behind a header and tensors; the opposite of `pack`.

    Raises:
        InputError: a kind, field or tensor is unknown or missing, or does not fit; other errors where the
            header is nonsense.
    """
    readers: dict[str, Callable[[Header, Tensors], Any]] = {
        "point_mass": lambda h, t: PointMass(t["mean"], layout=read_layout(h)),
        "low_rank_gaussian": _unpack_gaussian,
        "empirical": lambda h, t: Empirical(t["samples"], layout=read_layout(h)),
        "mixture": _unpack_mixture,
        "collector": _unpack_collector,
    }
    check_fields(header, tensors)
    return readers[header["kind"]](header, tensors)


def check_fields(header: Header, tensors: Tensors) -> None:
    """Raises InputError for a kind, a field or a tensor that is unknown, or missing."""
    kind = header["kind"]
    if kind not in _SHAPE_OF:
        raise InputError(f"kind {kind!r:.80} is unknown to this version; update swag")
    fields, names = _SHAPE_OF[kind]
    _compare("field", header.keys() - {"kind"}, fields)
    if kind == "collector":
        names = _COLLECTOR_TENSORS if header["n_collected"] else set()
    if names is not None:
        _compare("tensor", set(tensors), names)


def read_layout(header: Header) -> Layout | None:
    """The layout in a header, or None."""
    return None if header["layout"] is None else Layout.from_list(header["layout"])


def _compare(what: str, found: set[str], expected: set[str]) -> None:
    if found - expected:
        raise InputError(f"{what} {min(found - expected)!r:.80} is unknown to this version; update swag")
    if expected - found:
        raise InputError(f"{what} {min(expected - found)!r} is missing")


def _pack_gaussian(obj: LowRankGaussian, mean: Tensor, cov_diag: Tensor, rows: Tensor) -> Packed:
    header = {
        "kind": "low_rank_gaussian",
        **_layout(obj),
        "row_scale": obj.row_scale,
        "scale": obj.scale,
        "n_collected": obj.n_collected,
    }
    return header, {"mean": mean, "cov_diag": cov_diag, "rows": rows}


def _unpack_gaussian(header: Header, tensors: Tensors) -> LowRankGaussian:
    posterior = LowRankGaussian.from_rows(
        tensors["mean"],
        tensors["cov_diag"],
        tensors["rows"],
        row_scale=float(header["row_scale"]),
        layout=read_layout(header),
    )
    scale, n = header["scale"], header["n_collected"]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < math.inf:
        raise InputError(f"scale {scale!r:.80} is no finite number ≥ 0")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 0):
        raise InputError(f"n_collected {n!r:.80} is no number of snapshots")
    posterior.scale, posterior.n_collected = scale, n
    return posterior


def _unpack_mixture(header: Header, tensors: Tensors) -> Mixture:
    components, rest = [], set(tensors)
    for index, component in enumerate(header["components"]):
        prefix = f"{index}/"
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        components.append(unpack(component, own))
        rest -= {prefix + name for name in own}
    _compare("tensor", rest, set())
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
