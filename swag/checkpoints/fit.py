"""A collector from checkpoints on disk: the snapshots of a training run that is over."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from swag import moments
from swag.checkpoints.names import aliases_in, layout_of_checkpoint, match, names_in
from swag.checkpoints.paths import Paths, expand
from swag.checkpoints.reader import Checkpoint, open_checkpoint
from swag.collector import Collector
from swag.errors import FileError
from swag.parameters import Layout
from swag.progress import track_bytes
from swag.selection import Select
from swag.staging import Staging

_log = logging.getLogger(__name__)


def fit_checkpoints(
    paths: Paths,
    rank: int = 20,
    *,
    model: nn.Module | None = None,
    select: Select = None,
    key: str | None = None,
    deviation_dtype: torch.dtype = torch.float32,
    deviation_folder: str | os.PathLike[str] | None = None,
) -> Collector:
    r"""The collector that would have seen these checkpoints as snapshots, in their order.

    It is bit for bit the one that `Collector.collect` gives for the same weights. Files are read piece by
    piece: memory is that of the collector, 4·(3 + K) bytes a parameter with float32 rows, and a few MiB.

    Args:
        paths: files (.safetensors; .pt, .pth, .bin, .ckpt from `torch.save`), folders as Hugging Face's
            libraries write them, folders of such, or globs; the latter two in natural order.
        rank: K, the deviation rows kept; 0 for the mean and the diagonal alone.
        model: gives names, order and what is trainable. Without it, every floating-point tensor of the first
            file counts, in the file's order, shared ones once; running_mean, running_var,
            num_batches_tracked and integers are left out and logged.
        select: which parameters: a predicate on (name, parameter), or a list of names, module names or globs.
        key: where in a pickled dict the weights lie, as in "model" or "ema.state_dict"; needed where
            several entries could be meant.
        deviation_dtype: dtype of the rows; torch.bfloat16 halves their memory.
        deviation_folder: keeps the rows in a file without a name in this folder, for models whose rows do not
            fit in memory; its space is free again when the collector is gone.

    Raises:
        InputError: settings that cannot be used.
        FileError: a file that is missing or damaged, holds code, differs from the first (file and first such
            tensor are named), or holds NaN or infinite values (file and tensor are named).

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for epoch in (9, 10, 11):
    ...     torch.save(nn.Linear(3, 1).state_dict(), f"{folder}/epoch{epoch}.pt")
    >>> fit_checkpoints(folder, rank=2)
    Collector(3 snapshots, rank=2, D=4)
    """
    found = expand(paths)
    aliases = aliases_in(model) if model is not None else {}
    with open_checkpoint(found[0], key) as first:
        layout = Layout.of(model, select) if model is not None else layout_of_checkpoint(first, select)
        allowed = None if model is not None else set(names_in(first))
    n_bytes = _checked(found, key, layout, aliases, allowed)
    collector = Collector.for_layout(
        layout, rank, deviation_dtype=deviation_dtype, deviation_folder=deviation_folder
    )
    staging = Staging(layout, torch.device("cpu"))
    with track_bytes(n_bytes, f"fit {len(found)} checkpoints") as on_bytes:
        for path in found:
            with open_checkpoint(path, key) as checkpoint:
                own = match(layout, checkpoint, aliases)
                tensors = cast(Sequence[Tensor], Streamed(checkpoint, [own[name] for name in layout.names]))
                staging.fresh()
                collector.collect_pieces(_finite(staging.pieces(tensors), layout, path, on_bytes))
    return collector


@final
class Streamed:
    """Stands in for a list of tensors in `Staging.pieces`: reads each part when it is asked for."""

    def __init__(self, checkpoint: Checkpoint, names: list[str]) -> None:
        self._checkpoint = checkpoint
        self._names = names

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, int):
            return _Flat(self._checkpoint, self._names[index])
        return [self._whole(name) for name in self._names[index]]

    def __len__(self) -> int:
        return len(self._names)

    def _whole(self, name: str) -> Tensor:
        shape = self._checkpoint.tensors[name].shape
        # A copy: the next tensor comes in the same buffer.
        return self._checkpoint.piece(name, 0, torch.Size(shape).numel()).clone().view(shape)


@final
class _Flat:
    """One tensor, flattened, whose slices are read."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint = checkpoint
        self._name = name

    def reshape(self, *_: int) -> _Flat:
        return self

    def __getitem__(self, part: slice) -> Tensor:
        return self._checkpoint.piece(self._name, part.start, part.stop)


def _checked(
    paths: list[Path],
    key: str | None,
    layout: Layout,
    aliases: dict[str, list[str]],
    allowed: set[str] | None,
) -> int:
    """The bytes there are to read, after a look at the names and shapes in every file."""
    n_bytes = 0
    for path in paths:
        with open_checkpoint(path, key) as checkpoint:
            own = match(layout, checkpoint, aliases)
            if allowed is not None:
                more = [name for name in names_in(checkpoint) if name not in allowed]
                if more:
                    raise FileError(
                        f"{path}: has the tensor '{more[0]}', which {paths[0]} lacks; the checkpoints must "
                        "be of one architecture"
                    )
            n_bytes += sum(
                (entry.stop - entry.start) * checkpoint.tensors[own[entry.name]].dtype.itemsize
                for entry in layout.entries
            )
    return n_bytes


def _finite(
    pieces: Iterator[tuple[int, int, Tensor]], layout: Layout, path: Path, on_bytes: Callable[[int], object]
) -> Iterator[tuple[int, int, Tensor]]:
    """The pieces as they come, each looked at first."""
    for start, stop, x in pieces:
        if not moments.all_finite((x,)):
            name = layout.name_at(start + int((~x.isfinite()).nonzero()[0, 0]))
            raise FileError(
                f"{path}: tensor '{name}' holds NaN or infinite values; leave this checkpoint out"
            )
        yield start, stop, x
        on_bytes(x.numel() * x.element_size())
