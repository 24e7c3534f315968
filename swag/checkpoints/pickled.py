"""Checkpoints from `torch.save`: read with weights_only=True, so that code in them never runs."""

from __future__ import annotations

import logging
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import torch
from torch import Tensor

from swag.checkpoints.index import read_index
from swag.checkpoints.reader import Checkpoint, TensorInfo
from swag.errors import FileError

_log = logging.getLogger(__name__)

_EXTRA_STATE = "_extra_state"
_LIGHTNING = "pytorch-lightning_version"


def open_pickled(path: Path, target: Path, key: str | None) -> Checkpoint:
    """The checkpoint in a file of `torch.save`, or in the shards of an index."""
    if target.suffix != ".json":
        return PickledCheckpoint(path, state_in(load_pickled(target), key, path))
    places = read_index(target)
    shards = {shard: state_in(load_pickled(shard), key, shard) for shard in set(places.values())}
    state = {}
    for name, shard in places.items():
        if name not in shards[shard]:
            raise FileError(f"{shard}: has no tensor '{name}', though {target.name} says so")
        state[name] = shards[shard][name]
    return PickledCheckpoint(path, state)


def load_pickled(path: Path) -> Any:
    """What `torch.save` wrote: tensors, mapped from the file where its format allows, and plain data.

    Raises:
        FileError: the file is damaged, or holds something else than tensors and plain data.
    """
    try:
        mapped = zipfile.is_zipfile(path)  # the older format can only be read into memory
        if mapped:
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path}: is damaged, or holds something else than tensors and plain data "
            f"({_first_line(error)}); it was not executed: save model.state_dict() alone"
        ) from error
    except FileError:
        raise
    # A damaged file can make torch raise almost anything.
    except Exception as error:
        raise FileError(
            f"{path}: not a whole file from torch.save ({type(error).__name__}: {_first_line(error)}); copy "
            "or write it again"
        ) from error


def _check_archive(path: Path) -> None:
    """Refuses an archive that would grow when it is read: torch.save never compresses."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
                raise FileError(
                    f"{path}: its part {entry.filename!r:.80} is compressed; torch.save writes none"
                )


def state_in(document: Any, key: str | None, path: Path) -> dict[str, Any]:
    """The weights by name in what a file holds: the file's own dict, which may hold `_extra_state` as well.

    Args:
        document: the file's content.
        key: where the weights lie: an entry, or one inside others, as in "ema.state_dict". None takes
            the content itself, or the one entry that can be meant.
        path: for errors.

    Raises:
        FileError: there are none, or it is not clear which.
    """
    if key is not None:
        found = _look_up(document, key)
        if not _is_state(found):
            raise FileError(
                f"{path}: has no weights by name under key {key!r}; {_offer(_candidates(document), document)}"
            )
        return found
    if _is_state(document):
        return document
    candidates = _candidates(document)
    if isinstance(document, Mapping) and _LIGHTNING in document and "state_dict" in candidates:
        candidates = ["state_dict"]
    if len(candidates) != 1:
        raise FileError(f"{path}: no single set of weights by name; {_offer(candidates, document)}")
    _log.info("%s: takes the weights under '%s'", path, candidates[0])
    return document[candidates[0]]


@final
class PickledCheckpoint:
    """Tensors that lie mapped, or in memory, by name."""

    def __init__(self, path: Path, state: Mapping[str, Any]) -> None:
        self.path = path
        tensors: dict[str, TensorInfo] = {}
        aliases: dict[str, str] = {}
        self.tensors: Mapping[str, TensorInfo] = tensors
        self.aliases: Mapping[str, str] = aliases
        self._state = {}
        self._flat_name, self._flat = "", torch.empty(0, device="cpu")
        firsts: dict[tuple[object, ...], str] = {}
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            tensor = value.detach()
            if tensor.layout != torch.strided or tensor.is_quantized:
                raise FileError(f"{path}: tensor '{name}' is sparse or quantised; save it dense")
            same = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if tensor.numel() and same in firsts:
                aliases[name] = firsts[same]
                continue
            firsts[same] = name
            self._state[name] = tensor
            tensors[name] = TensorInfo(tensor.dtype, tuple(tensor.shape))

    def piece(self, name: str, first: int, last: int) -> Tensor:
        """Values first … last − 1 of a tensor, flattened; a tensor that is not contiguous is copied once."""
        if name != self._flat_name:
            self._flat_name, self._flat = name, self._state[name].reshape(-1)
        return self._flat[first:last]

    def close(self) -> None:
        """Lets the mapping go."""
        self._state.clear()
        self._flat_name, self._flat = "", torch.empty(0, device="cpu")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_state(value: Any) -> bool:
    """Tensors by name, at least one of them floating-point, and nothing else."""
    return (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(t, Tensor) or name.endswith(_EXTRA_STATE) for name, t in value.items())
        and any(isinstance(t, Tensor) and t.is_floating_point() for t in value.values())
    )


def _candidates(document: Any) -> list[str]:
    if not isinstance(document, Mapping):
        return []
    return [name for name, value in document.items() if isinstance(name, str) and _is_state(value)]


def _look_up(document: Any, key: str) -> Any:
    if isinstance(document, Mapping) and key in document:
        return document[key]
    head, dot, rest = key.partition(".")
    return (
        _look_up(document[head], rest) if dot and isinstance(document, Mapping) and head in document else None
    )


def _offer(candidates: list[str], document: Any) -> str:
    if candidates:
        return f"pass key= one of {', '.join(map(repr, candidates))}"
    if isinstance(document, Mapping):
        return f"it holds {', '.join(map(repr, list(document)[:8])) or 'nothing'}: save model.state_dict()"
    return f"it holds a {type(document).__name__}: save model.state_dict()"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
