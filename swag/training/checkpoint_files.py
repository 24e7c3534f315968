"""The file a training run resumes from: tensors and plain data, written whole or not at all."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from swag.atomic import replacing
from swag.checkpoints.pickled import load_pickled
from swag.errors import FileError, InputError

KIND, VERSION = "swag.training", 1
_FIELDS = {
    "settings": dict,
    "epoch": int,
    "step": int,
    "model": dict,
    "optimizer": dict,
    "schedule": dict | None,
    "scaler": dict | None,
    "store": dict,
    "random": dict,
    "loaders": list,
    "callbacks": list,
    "history": list,
}
_MAPPINGS = (dict, OrderedDict, Counter)


@final
class CheckpointFile:
    """A path, and the settings that belong to what lies there.

    Args:
        path: the file; its folder must exist.
        settings: what a run must share with the one it resumes: text and numbers by name.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._settings = dict(settings)

    def write(self, state: Mapping[str, Any]) -> None:
        """Puts the state in the file's place.

        Raises:
            InputError: something in it is neither a tensor nor plain data; says where.
            FileError: the file cannot be written; an old one is unchanged.
        """
        content = {"kind": KIND, "version": VERSION, "settings": self._settings, **state}
        content = {key: _plain(value, key) for key, value in content.items()}
        with replacing(self.path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise FileError(
                    f"{self.path}: could not be written ({error}); the old file, if any, is unchanged"
                ) from error

    def read(self) -> dict[str, Any] | None:
        """The state in the file, or None where there is no file.

        Raises:
            FileError: the file is damaged, or is no checkpoint of a training run.
            InputError: it belongs to a run of other settings; says which.
        """
        if not self.path.exists():
            return None
        state = load_pickled(self.path)
        if not isinstance(state, dict) or state.get("kind") != KIND:
            raise FileError(
                f"{self.path}: holds something else than a checkpoint of swag.training; pass another path"
            )
        if state.get("version") != VERSION:
            raise FileError(
                f"{self.path}: has format version {state.get('version')!r:.80}, this library reads "
                f"{VERSION}; update swag, or pass another path"
            )
        for field, kind in _FIELDS.items():
            if field not in state or not isinstance(state[field], kind):
                raise FileError(
                    f"{self.path}: its field {field!r} is missing or damaged; delete it and begin again"
                )
        theirs = state["settings"]
        for key, mine in self._settings.items():
            if theirs.get(key) != mine:
                raise InputError(
                    f"checkpoint: {self.path} belongs to a run with {key}={theirs.get(key)!r}, this one has "
                    f"{key}={mine!r}; pass the same settings, or another path"
                )
        return state


def _plain(value: Any, where: str) -> Any:
    """The value with every part plain: what `torch.load(weights_only=True)` will read."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        kind: Any = type(value) if type(value) in _MAPPINGS else dict
        return kind({_plain(k, where): _plain(v, f"{where}.{k}") for k, v in value.items()})
    if isinstance(value, list | tuple):
        parts = [_plain(part, f"{where}[{index}]") for index, part in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    # NumPy's numbers are written as objects of NumPy's, and read by nobody without them.
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise InputError(
        f"checkpoint: {where} is of type {type(value).__name__}, which cannot be written safely; keep "
        "tensors and plain data in state_dict()"
    )
