"""One whole file for a sharded object: the ordinary format of `swag.save`, written and read in slices.

Rank 0 writes, and receives what others hold in pieces of at most 16 MiB, in the file's order; so no disk need
be shared to write, and no rank ever holds more than its own part and a piece. Reading is local: each rank
takes its slices out of the file, which all must see.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from swag.distributed.collector import ShardedCollector
from swag.distributed.gaussian import ShardedGaussian
from swag.distributed.point import ShardedPointMass
from swag.distributed.ranks import Ranks
from swag.distributed.shards import Shards
from swag.distributed.slices import READERS, Slices
from swag.distributed.streams import Stream, owners
from swag.errors import FileError, InputError, StateError
from swag.files import FileInfo, describe
from swag.files.store import document_of, write_document
from swag.parameters import Layout
from swag.tensorfile import Stacked, TensorFile, write_tensors

Sharded = ShardedCollector | ShardedGaussian | ShardedPointMass

# Tensors of a file that are stacked vectors.
_ROWS = {"rows", "deviations"}


def save(
    path: str | os.PathLike[str],
    obj: Sharded,
    *,
    provenance: Mapping[str, str | int | float | bool | None] | None = None,
) -> None:
    """Writes a sharded collector or posterior as one whole file, which `swag.load` reads; collective.

    `swag.save(path, obj)` is the same.

    The file is that which `swag.save` would have written of the unsharded object. It appears, beside rank 0,
    whole or not at all.

    Args:
        path: usually ends in .safetensors; rank 0's counts.
        obj: `ShardedCollector`, `ShardedGaussian` or `ShardedPointMass`.
        provenance: text and numbers by name that go into the header, for people; rank 0's count.

    Raises:
        InputError: another kind of object.
        StateError: a collector whose ranks took differing numbers of snapshots; a rank was lost.
        FileError: on all ranks, where rank 0 cannot write; an old file is unchanged.
    """
    if not isinstance(obj, Sharded):
        raise InputError(
            f"obj: got a {type(obj).__name__}; pass a ShardedCollector or a posterior of one, and others to "
            "swag.save on one rank"
        )
    ranks = obj.shards.ranks

    def make() -> tuple[str, dict[str, tuple[list[Tensor], torch.dtype]], str]:
        header, vectors = _parts(obj)
        said = {key: value for key, value in header.items() if key != "layout"}
        return document_of(header, provenance), vectors, json.dumps(said, sort_keys=True)

    document, vectors, _ = ranks.alike("obj", make, lambda made: [made[2]], StateError)
    table = owners(obj.shards)
    size = obj.shards.layout.size
    streams: dict[str, Tensor | Stacked] = {}
    for name, (parts, dtype) in vectors.items():
        stream = Stream(parts, dtype, size if name not in _ROWS else len(parts), table, ranks)
        streams[name] = Stacked(stream, dtype, (size,) if name in _ROWS else ())

    def write() -> None:
        if ranks.index:
            write_tensors(os.devnull, streams)
            return
        try:
            write_document(path, document, streams)
        except StateError:  # the others are gone
            raise
        except Exception:
            # They wait until all they send is taken.
            write_tensors(os.devnull, streams)
            raise

    ranks.alike("path", write, error=FileError)


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    device: torch.device | str | None = None,
    group: dist.ProcessGroup | None = None,
) -> Any:
    """Reads this rank's slices of what `save`, or `swag.save`, wrote; collective.

    Args:
        path: the file, to be seen by every rank.
        model: tells how parameters are divided; parameters are found by name.
        device: where the tensors go; by default beside the parameters.
        group: the processes that hold the model; None for all.

    Returns:
        A `ShardedCollector`, `ShardedGaussian` or `ShardedPointMass`, by what the file holds; samples drawn
        with one seed are those of the saved object.

    Raises:
        FileError: the file is missing, damaged, or holds what cannot be sharded.
        InputError: the model lacks a parameter or is divided in a way that cannot be read, or ranks differ.
    """
    ranks = Ranks(group)

    def make() -> tuple[Any, FileInfo]:
        info = describe(path)
        if info.header["kind"] not in READERS:
            raise FileError(
                f"{info.path}: holds a {info.header['kind']}, which cannot be sharded; read it with swag.load"
            )
        try:
            layout = Layout.from_list(info.header["layout"])
        except (LookupError, TypeError, ValueError) as error:
            raise FileError(f"{info.path}: names no parameters ({error}); read it with swag.load") from error
        shards = Shards(model, layout, ranks)
        target = torch.device(device or layout.tensors(model)[0].device)
        with TensorFile(path) as file:
            source = Slices(file, shards, target)
            try:
                return READERS[info.header["kind"]](info.header, source, shards, target), info
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                raise FileError(
                    f"{info.path}: its header and tensors do not fit together ({error!r})"
                ) from error

    made, _ = ranks.alike(
        "path", make, lambda found: [json.dumps(found[1].header, sort_keys=True), str(found[1].n_bytes)]
    )
    return made


def _parts(obj: Sharded) -> tuple[dict[str, Any], dict[str, tuple[list[Tensor], torch.dtype]]]:
    """The header of a whole file, and this rank's vectors (D_local,) and rows by tensor name."""
    layout = obj.shards.layout.to_list()
    if isinstance(obj, ShardedPointMass):
        return {"kind": "point_mass", "layout": layout}, {"mean": ([obj.mean], obj.mean.dtype)}
    if isinstance(obj, ShardedGaussian):
        own = obj.local
        header = {
            "kind": "low_rank_gaussian",
            "layout": layout,
            "row_scale": own.row_scale,
            "scale": own.scale,
            "n_collected": own.n_collected,
        }
        return header, {
            "mean": ([own.mean], own.mean.dtype),
            "cov_diag": ([own.cov_diag], own.cov_diag.dtype),
            "rows": (list(own.rows), own.rows.dtype),
        }
    state = obj.local.state_views()
    rows = state.pop("deviations", [])
    vectors = {name: ([value], value.dtype) for name, value in state.items() if isinstance(value, Tensor)}
    header = {"kind": "collector", **{k: v for k, v in state.items() if k not in vectors}, "layout": layout}
    return header, {**vectors, "deviations": (rows, obj.local.deviation_dtype)} if vectors else {}
