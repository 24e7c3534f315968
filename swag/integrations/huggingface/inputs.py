"""From a data set of dicts to batches of a model's own arguments, as the Trainer feeds them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import default_data_collator

from swag.batches import check_loader
from swag.errors import InputError
from swag.integrations.huggingface.adapters import base_of

_log = logging.getLogger(__name__)

Collator = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
# What default_data_collator turns into "labels".
_LABELS = ("label", "label_ids")


def arguments_of(model: nn.Module) -> frozenset[str]:
    """The names that the transformer's forward takes."""
    # Of the class: mixed precision puts another function on the object.
    return frozenset(inspect.signature(type(base_of(model)).forward).parameters) - {"self", "args", "kwargs"}


def batches_of(
    model: nn.Module, dataset: Any, batch_size: int, data_collator: Collator | None
) -> Iterable[Mapping[str, Any]]:
    """Batches with tensors by the forward's names (and labels, where there are some).

    Raises:
        InputError: no data set, a bad batch size, rows that are no dicts, or that cannot be stacked.
    """
    wanted = arguments_of(model) | set(_LABELS)
    if isinstance(dataset, Mapping):
        return [_kept(dataset, wanted)]
    if isinstance(dataset, DataLoader):
        return _Filtered(dataset, wanted)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size: got {batch_size!r}; pass an integer of at least 1")
    if not isinstance(dataset, IterableDataset) and not hasattr(dataset, "__getitem__"):
        raise InputError(
            f"dataset: got a {type(dataset).__name__}; pass a data set of dicts (a list, torch's or "
            "datasets' Dataset), a DataLoader of dicts, or one batch as a dict of tensors"
        )
    if not isinstance(dataset, IterableDataset):
        check_loader("dataset", _Rows(dataset))
    collate = _Collate(data_collator or default_data_collator, wanted, data_collator is None)
    return DataLoader(dataset, batch_size=batch_size, collate_fn=collate)


def split_labels(batch: Mapping[str, Any], device: torch.device) -> tuple[dict[str, Any], Tensor | None]:
    """The forward's arguments on a device, and the labels apart: with them the forward computes a loss."""
    inputs = {name: _to(value, device) for name, value in batch.items()}
    found = [inputs.pop(name) for name in ("labels", *_LABELS) if name in inputs]
    if not inputs:
        raise InputError(
            "dataset: its batches hold labels alone; pass what the model takes, such as input_ids"
        )
    if not any(isinstance(value, Tensor) for value in inputs.values()):
        name, value = next(iter(inputs.items()))
        raise InputError(
            f"dataset: a batch's '{name}' is a {type(value).__name__} and no tensor; pass a tokenizer's "
            'output with return_tensors="pt", or rows in a list'
        )
    return inputs, found[0] if found and isinstance(found[0], Tensor) else None


class _Collate:
    """A collator that sees only what the model takes: text and other columns cannot be stacked."""

    def __init__(self, collate: Collator, wanted: frozenset[str], is_default: bool) -> None:
        self._collate, self._wanted, self._is_default = collate, wanted, is_default

    def __call__(self, rows: list[Any]) -> Mapping[str, Any]:
        for row in rows:
            if not isinstance(row, Mapping):
                raise InputError(
                    f"dataset: a row is a {type(row).__name__}; pass rows as dicts with the names that the "
                    "model takes, such as input_ids and attention_mask"
                )
        kept = [_kept(row, self._wanted) for row in rows]
        try:
            return self._collate(kept)
        except (ValueError, RuntimeError) as error:
            if not self._is_default:
                raise
            raise InputError(
                "data_collator: rows of differing lengths cannot be stacked; pass "
                f"data_collator=DataCollatorWithPadding(tokenizer) ({error})"
            ) from error


class _Filtered:
    """A loader's batches with what the model takes."""

    def __init__(self, loader: DataLoader[Any], wanted: frozenset[str]) -> None:
        self._loader, self._wanted = loader, wanted

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self._loader:
            if not isinstance(batch, Mapping):
                raise InputError(
                    f"dataset: its batches are of type {type(batch).__name__}; pass a DataLoader of dicts"
                )
            yield _kept(batch, self._wanted)

    def __len__(self) -> int:
        return len(self._loader)


class _Rows:
    """A data set seen as something to iterate, for the check that it is not empty."""

    def __init__(self, dataset: Sequence[Any]) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return (self._dataset[index] for index in range(len(self)))

    def __len__(self) -> int:
        return len(self._dataset)


def _kept(row: Mapping[str, Any], wanted: frozenset[str]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name in wanted}
    if not kept:
        raise InputError(
            f"dataset: a row holds {', '.join(map(repr, list(row)[:5]))} and nothing that the model's "
            f"forward takes ({', '.join(sorted(wanted)[:5])}, …); tokenize it first"
        )
    return kept


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
