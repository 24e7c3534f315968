"""Mixed batches out of two loaders: labelled and unlabelled, or an adaptation's source and target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor

from swag.arguments import tensor_of
from swag.batches import check_loader, is_iterator, length
from swag.errors import InputError
from swag.training.random_states import loader_states, put_loader_states_
from swag.training.semi_supervised.consistency import UNLABELLED


@final
class TwoStreams:
    """Joins each batch of an unlabelled loader with one of a labelled loader.

    An epoch is one pass through `unlabelled`; `labelled` begins anew with it, and again wherever it
    ends before. A batch is (inputs, labels): the labelled rows first, then the others with the label
    `UNLABELLED`.

    Args:
        labelled: batches (inputs, labels); the source domain in an adaptation.
        unlabelled: batches of inputs, or tuples that begin with them (the rest is not looked at); the target
            domain.

    Raises:
        InputError: no loaders, empty ones, or iterators, which can be read once.

    >>> source = [(torch.zeros(2, 3), torch.tensor([0, 1]))]
    >>> target = [torch.ones(2, 3), torch.ones(2, 3)]
    >>> [(x.shape[0], labels.tolist()) for x, labels in TwoStreams(source, target)]
    [(4, [0, 1, -1, -1]), (4, [0, 1, -1, -1])]
    """

    def __init__(self, labelled: Iterable[Any], unlabelled: Iterable[Any]) -> None:
        for name, loader in (("labelled", labelled), ("unlabelled", unlabelled)):
            check_loader(name, loader)
            if is_iterator(loader):
                raise InputError(
                    f"{name}: is an iterator, which can be read once; pass a DataLoader or a list"
                )
        self.labelled, self.unlabelled = labelled, unlabelled

    def __len__(self) -> int:
        n = length(self.unlabelled)
        if n is None:
            raise TypeError("the unlabelled loader does not know its length")
        return n

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        labelled = self._again_and_again()
        for batch in self.unlabelled:
            others = batch[0] if isinstance(batch, tuple | list) and batch else batch
            if not isinstance(others, Tensor):
                raise InputError(f"unlabelled: a batch begins with a {type(others).__name__}; pass tensors")
            inputs, labels = next(labelled)
            if inputs.shape[1:] != others.shape[1:]:
                raise InputError(
                    f"unlabelled: has rows of shape {tuple(others.shape[1:])}, labelled of "
                    f"{tuple(inputs.shape[1:])}; bring them to one shape"
                )
            missing = torch.full((len(others),), UNLABELLED, dtype=labels.dtype, device=labels.device)
            yield torch.cat([inputs, others]), torch.cat([labels, missing])

    def _again_and_again(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            empty = True
            for batch in self.labelled:
                if not (isinstance(batch, tuple | list) and len(batch) >= 2):
                    raise InputError(
                        f"labelled: gave a {type(batch).__name__}; pass batches (inputs, labels)"
                    )
                empty = False
                yield batch[0], tensor_of(batch[1])
            if empty:
                raise InputError("labelled: gave no batch; pass a loader with at least one")

    def state_dict(self) -> dict[str, Any]:
        """The generators of both loaders, for a run that resumes."""
        return {"loaders": loader_states([self.labelled, self.unlabelled])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken."""
        put_loader_states_([self.labelled, self.unlabelled], state["loaders"])
