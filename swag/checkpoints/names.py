"""Which tensors of a checkpoint are weights, and under which names they meet a layout."""

from __future__ import annotations

import logging

import torch
from torch import nn

from swag.checkpoints.reader import Checkpoint, TensorInfo
from swag.errors import FileError, InputError
from swag.parameters import Layout, clean_name, named_parameters
from swag.selection import Select, selector

_log = logging.getLogger(__name__)

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# What DistributedDataParallel, DataParallel and AveragedModel put before every name.
_WRAPPER = "module."


def names_in(checkpoint: Checkpoint) -> dict[str, str]:
    """The file's tensor names, shared ones under each of theirs, by clean name (no wrappers' parts)."""
    names = {clean_name(name): name for name in checkpoint.tensors}
    names |= {clean_name(alias): first for alias, first in checkpoint.aliases.items()}
    floating = [n for n, own in names.items() if checkpoint.tensors[own].dtype.is_floating_point]
    if floating and all(name.startswith(_WRAPPER) for name in floating):
        return {name.removeprefix(_WRAPPER): own for name, own in names.items()}
    return names


def layout_of_checkpoint(checkpoint: Checkpoint, select: Select = None) -> Layout:
    """The layout that a file alone implies: its floating-point tensors in its order, shared ones once.

    Batch-norm statistics and whatever is not real floating point are left out and logged: a file does not say
    what is a parameter, and a Gaussian over running variances would be nonsense.

    Raises:
        FileError: nothing is left.
        InputError: a pattern of `select` matches nothing.
    """
    first_names: dict[str, str] = {}
    for name, own in names_in(checkpoint).items():
        first_names.setdefault(own, name)
    kept: list[tuple[str, TensorInfo]] = []
    left_out = []
    for own, name in first_names.items():
        info = checkpoint.tensors[own]
        if name.rpartition(".")[2] in _STATISTICS or not info.dtype.is_floating_point:
            left_out.append(name)
        else:
            kept.append((name, info))
    if left_out:
        _log.info(
            "%s: leaves out %d tensors, batch-norm statistics and integers (%s%s): they are not weights",
            checkpoint.path,
            len(left_out),
            ", ".join(left_out[:3]),
            ", …" if len(left_out) > 3 else "",
        )
    if not kept:
        raise FileError(f"{checkpoint.path}: holds no floating-point weights")
    if select is not None:
        stand_ins = [
            (
                name,
                nn.Parameter(torch.empty(info.shape, dtype=info.dtype, device="meta"), requires_grad=False),
            )
            for name, info in kept
        ]
        wanted = selector(select, stand_ins)
        chosen = {name for name, parameter in stand_ins if wanted(name, parameter)}
        if not chosen:
            raise InputError(f"select: none of the {len(kept)} weights in {checkpoint.path} is selected")
        kept = [(name, info) for name, info in kept if name in chosen]
    return Layout((name, info.shape, info.dtype) for name, info in kept)


def aliases_in(model: nn.Module) -> dict[str, list[str]]:
    """For the first name of every shared parameter, the further ones."""
    first_of: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, parameter in named_parameters(model, aliases=True):
        first = first_of.setdefault(id(parameter), name)
        if first != name:
            found.setdefault(first, []).append(name)
    return found


def match(
    layout: Layout, checkpoint: Checkpoint, aliases: dict[str, list[str]] | None = None
) -> dict[str, str]:
    """For each of the layout's names, the file's name of that tensor; compared in names and shapes.

    A prefix that all of them have in the file ("model." in a Lightning checkpoint) is looked through.

    Raises:
        FileError: a tensor is missing or has another shape; names the file and the first such tensor.
    """
    present = names_in(checkpoint)
    prefix = _prefix(layout, present, aliases or {}, checkpoint)
    found: dict[str, str] = {}
    for entry in layout.entries:
        own = _own(entry.name, prefix, present, aliases or {})
        if own is None:
            raise FileError(
                f"{checkpoint.path}: has no tensor '{entry.name}' (but {', '.join(list(present)[:3])}, …); "
                "the checkpoints and the model must be of one architecture"
            )
        info = checkpoint.tensors[own]
        if info.shape != entry.shape:
            raise FileError(
                f"{checkpoint.path}: tensor '{entry.name}' has shape {info.shape}, expected {entry.shape}; "
                "the checkpoints and the model must be of one architecture"
            )
        if not info.dtype.is_floating_point:
            raise FileError(f"{checkpoint.path}: tensor '{entry.name}' has dtype {info.dtype}, no weights")
        found[entry.name] = own
    return found


def _own(name: str, prefix: str, present: dict[str, str], aliases: dict[str, list[str]]) -> str | None:
    for candidate in (name, *aliases.get(name, ())):
        if prefix + candidate in present:
            return present[prefix + candidate]
    return None


def _prefix(
    layout: Layout, present: dict[str, str], aliases: dict[str, list[str]], checkpoint: Checkpoint
) -> str:
    """What stands before the layout's names in the file: nothing, or the one prefix that fits."""
    first = layout.names[0]
    prefixes = [
        name.removesuffix(candidate)
        for candidate in (first, *aliases.get(first, ()))
        for name in present
        if name == candidate or name.endswith("." + candidate)
    ]
    fitting = [p for p in dict.fromkeys(prefixes) if all(_own(n, p, present, aliases) for n in layout.names)]
    if "" in fitting or not fitting:
        return ""
    if len(fitting) > 1:
        raise FileError(
            f"{checkpoint.path}: the weights occur under {', '.join(map(repr, fitting))}; pass a model with "
            "these names, or a file that holds one set"
        )
    return fitting[0]
