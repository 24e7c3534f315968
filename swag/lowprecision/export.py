"""Files of integer weights with their scales, and back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from swag.atomic import replacing
from swag.errors import FileError, InputError
from swag.lowprecision.formats import Format
from swag.lowprecision.inputs import LONGEST_WORD
from swag.lowprecision.integers import Integers, packed_size, to_integers, unpack
from swag.lowprecision.layers import quantisable_layers
from swag.lowprecision.model import plain_copy, weight_quantizers
from swag.tensorfile import TensorFile, unique_keys, write_tensors

_KIND = "swag integer weights"
_VERSION = 1
_STEPS = ":steps"


@final
@dataclass(frozen=True)
class Sizes:
    """What a file of integer weights takes, in bytes.

    Args:
        codes: the packed integers.
        steps: their scales.
        others: biases, normalisation and buffers, as they are.
        file: all of the file.
        unquantized: the tensors in the model's own dtypes.
    """

    codes: int
    steps: int
    others: int
    file: int
    unquantized: int

    def __str__(self) -> str:
        return (
            f"{self.file:,} bytes ({self.codes:,} of codes, {self.steps:,} of steps, {self.others:,} others) "
            f"for {self.unquantized:,}: {self.unquantized / max(self.file, 1):.1f} times smaller"
        )


def save_integers(
    path: str | os.PathLike[str], model: nn.Module, form: Format | None = None, *, skip: Iterable[str] = ()
) -> Sizes:
    """Writes a model's weights as integers with scales, below 8 bits packed, all else as it is.

    A safetensors file that appears whole or not at all. `load_integers` gives a `state_dict` back.

    Args:
        path: the file.
        model: a plain model, or one that `quantize_model` or `sqwa` gave: its weights' own formats and grids
            are then kept, and `form` serves the others.
        form: what the weights of linear, convolutional, bilinear and embedding layers are rounded to (to
            nearest); None where the model was quantised with `weights=`.
        skip: names of modules whose weights are written as they are.

    Returns:
        The sizes in bytes.

    Raises:
        InputError: nothing to quantise, or weights that the format refuses; nothing is written.
        FileError: the file cannot be written.

    >>> import tempfile
    >>> from swag.lowprecision import SymmetricUniform
    >>> model = nn.Linear(64, 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sizes = save_integers(f"{folder}/w.safetensors", model, SymmetricUniform(2))
    ...     _ = model.load_state_dict(load_integers(f"{folder}/w.safetensors"))
    >>> sizes.codes, model.weight.unique().numel()
    (1024, 3)
    """
    kept = weight_quantizers(model)
    if form is None and not kept:
        raise InputError("form: got None for a model without quantised weights; pass a format for them")
    plain = plain_copy(model)
    forms: dict[str, tuple[Format, Tensor | None]] = {
        name: (quantizer.form, quantizer.steps) for name, quantizer in kept.items()
    }
    if form is not None:
        for layer in quantisable_layers(plain, skip=skip):
            forms.setdefault(f"{layer}.weight" if layer else "weight", (form, None))
    tensors: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    sizes = {"codes": 0, "steps": 0, "others": 0, "unquantized": 0}
    for name, value in plain.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(f"model: its state '{name}' is a {type(value).__name__}, not a tensor")
        same = first.setdefault((value.data_ptr(), value.shape, value.stride()), name)
        if same != name and value.numel():
            tied[name] = same
            continue
        sizes["unquantized"] += value.numel() * value.element_size()
        if name not in forms:
            tensors[name] = value
            sizes["others"] += value.numel() * value.element_size()
            continue
        own, steps = forms[name]
        integers = to_integers(value, own, steps)
        tensors[name], tensors[name + _STEPS] = integers.packed(), integers.steps
        sizes["codes"] += tensors[name].numel()
        sizes["steps"] += integers.steps.numel() * integers.steps.element_size()
        entries[name] = {
            "wl": integers.wl,
            "low": integers.low,
            "shape": list(integers.shape),
            "arranged": list(integers.codes.shape),
            "dtype": str(integers.dtype).removeprefix("torch."),
        }
    header = json.dumps({"version": _VERSION, "tensors": entries, "tied": tied}, separators=(",", ":"))
    with replacing(path) as temporary:
        write_tensors(temporary, tensors, {"kind": _KIND, "integers": header})
    return Sizes(**sizes, file=Path(path).stat().st_size)


def load_integers(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The `state_dict` of a file of integer weights, dequantised: for `model.load_state_dict(…)`.

    Raises:
        FileError: the file is missing, damaged or of another kind; the message says which.
    """
    with TensorFile(path) as file:
        if file.metadata.get("kind") != _KIND:
            raise FileError(
                f"{file.path}: holds {file.metadata.get('kind', 'other tensors')!r}, not integer weights; "
                "pass a file of save_integers"
            )
        try:
            return _read(file)
        except (ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
            raise FileError(
                f"{file.path}: not a whole file of integer weights ({error!r}); write it again"
            ) from error


def _read(file: TensorFile) -> dict[str, Tensor]:
    header = json.loads(file.metadata["integers"], object_pairs_hook=unique_keys)
    if header["version"] != _VERSION:
        raise ValueError(f"version {header['version']!r}, this is {_VERSION}")
    entries, tied = header["tensors"], header["tied"]
    state: dict[str, Tensor] = {}
    for name in file.specs:
        if name in entries:
            state[name] = _integers(file, name, entries[name]).dequantize()
        elif not (name.endswith(_STEPS) and name.removesuffix(_STEPS) in entries):
            state[name] = file.read(name)
    if missing := entries.keys() - state.keys():
        raise ValueError(f"no codes of '{min(missing)}'")
    for name, same in tied.items():
        state[name] = state[same]
    return state


def _integers(file: TensorFile, name: str, entry: dict[str, Any]) -> Integers:
    wl, low, shape, arranged = entry["wl"], entry["low"], entry["shape"], entry["arranged"]
    dtype = getattr(torch, entry["dtype"])
    numbers = [wl, low, *shape, *arranged]
    if not all(type(number) is int for number in numbers) or not 1 <= wl <= LONGEST_WORD:
        raise ValueError(f"'{name}' has the shape {shape!r:.80} and {wl!r:.20} bits")
    if min([*shape, *arranged], default=0) < 0 or not -(1 << (wl - 1)) <= low <= 0:
        raise ValueError(f"'{name}' has the shape {shape!r:.80} and codes from {low}")
    n = math.prod(arranged)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or n < math.prod(shape):
        raise ValueError(f"'{name}' of shape {shape!r:.80} has {n} codes for {entry['dtype']!r:.20}")
    # Before anything of the claimed size is allocated.
    spec = file.specs[name]
    if spec.dtype != torch.uint8 or spec.shape != (packed_size(n, wl),):
        raise ValueError(f"'{name}' has {spec.shape} bytes for {n} codes of {wl} bits")
    steps = file.read(name + _STEPS)
    if not steps.is_floating_point() or torch.broadcast_shapes(steps.shape, arranged) != torch.Size(arranged):
        raise ValueError(f"'{name}' has steps of shape {tuple(steps.shape)}")
    codes = (unpack(file.read(name), wl, n) + low).view(arranged)
    return Integers(cast(Tensor, codes), steps, wl, low, tuple(shape), dtype)
