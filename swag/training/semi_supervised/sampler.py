"""Which rows make up a mixed batch, where labelled and unlabelled rows lie in one data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from swag.arguments import whole
from swag.errors import InputError
from swag.training.semi_supervised.consistency import UNLABELLED


@final
class TwoStreamSampler:
    """Batches of n_labelled labelled rows and then n_unlabelled unlabelled ones, as a batch sampler.

    An epoch is one pass through the unlabelled rows in a random order, an incomplete last batch left out. The
    labelled rows are gone through again and again, in a new order each time, so that every stretch of one
    pass holds each row once.

    Args:
        labelled: numbers of the rows that have a label.
        unlabelled: numbers of those that have none, or whose label is not to be used; their label in the data
            set must be `UNLABELLED`.
        n_labelled: labelled rows in a batch.
        n_unlabelled: unlabelled rows in a batch.
        generator: of the orders, on the CPU; None for torch's global one.

    Raises:
        InputError: no rows, a row in both, or more in a batch than there are.

    >>> sampler = TwoStreamSampler([0, 1], [2, 3, 4, 5], n_labelled=1, n_unlabelled=2)
    >>> [len(rows) for rows in sampler], sorted(row for rows in sampler for row in rows[1:])
    ([3, 3], [2, 3, 4, 5])
    """

    def __init__(
        self,
        labelled: Sequence[int] | Tensor,
        unlabelled: Sequence[int] | Tensor,
        n_labelled: int,
        n_unlabelled: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.n_labelled = whole("n_labelled", n_labelled)
        self.n_unlabelled = whole("n_unlabelled", n_unlabelled)
        self.labelled = _rows("labelled", labelled, self.n_labelled)
        self.unlabelled = _rows("unlabelled", unlabelled, self.n_unlabelled)
        both = torch.isin(self.labelled, self.unlabelled)
        if both.any():
            row = int(self.labelled[both][0])
            raise InputError(f"unlabelled: row {row} is among the labelled ones, too; leave it out of one")
        self.generator = generator

    @classmethod
    def from_labels(
        cls,
        labels: Sequence[int] | Tensor,
        n_labelled: int,
        n_unlabelled: int,
        *,
        generator: torch.Generator | None = None,
    ) -> TwoStreamSampler:
        """The sampler of a data set whose labels are these, with `UNLABELLED` for rows without one.

        >>> TwoStreamSampler.from_labels([1, -1, 0, -1], 1, 1).labelled.tolist()
        [0, 2]
        """
        known = torch.as_tensor(labels, device="cpu") != UNLABELLED
        labelled, unlabelled = known.nonzero()[:, 0], (~known).nonzero()[:, 0]
        return cls(labelled, unlabelled, n_labelled, n_unlabelled, generator=generator)

    def __len__(self) -> int:
        return len(self.unlabelled) // self.n_unlabelled

    def __iter__(self) -> Iterator[list[int]]:
        order = self._shuffled(self.unlabelled)
        rest = order[:0]
        for batch in order.split(self.n_unlabelled)[: len(self)]:
            if len(rest) < self.n_labelled:
                rest = torch.cat([rest, self._shuffled(self.labelled)])
            chosen, rest = rest[: self.n_labelled], rest[self.n_labelled :]
            yield [*chosen.tolist(), *batch.tolist()]

    def _shuffled(self, rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=self.generator, device="cpu")]


def _rows(name: str, rows: Sequence[int] | Tensor, wanted: int) -> Tensor:
    found = torch.as_tensor(rows, device="cpu")
    if found.numel() == 0:
        raise InputError(f"{name}: is empty; pass the numbers of the {name} rows, at least {wanted}")
    if found.ndim != 1 or found.is_floating_point() or found.dtype == torch.bool:
        raise InputError(f"{name}: got {found.dtype} {tuple(found.shape)}; pass a list of row numbers")
    if wanted > len(found):
        raise InputError(
            f"n_{name}: got {wanted} in a batch, and there are {len(found)} {name} rows; pass fewer"
        )
    return found.long()
