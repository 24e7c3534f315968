"""Which rows a SWAP worker reads, batch by batch: pieces of large batches, or small ones of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from swag.errors import InputError
from swag.noise import key_for

# make_loader(dataset, batches) → what reads those rows: `batches` gives lists of indices, once an epoch.
MakeLoader = Callable[[Any, Iterable[list[int]]], Iterable[Any]]

_POSITIVE = (1 << 63) - 1
# Streams that are drawn from the caller's seed.
ORDER, TOGETHER, ALONE, STATISTICS = range(4)


def seed_for(seed: int, *numbers: int) -> int:
    """A seed of 63 bits for a stream."""
    return key_for(seed, *numbers) & _POSITIVE


def default_loader(dataset: Any, batches: Iterable[list[int]]) -> Iterable[Any]:
    """A DataLoader in this process."""
    return DataLoader(dataset, batch_sampler=batches)


@final
class Pieces:
    """One worker's pieces of the large batches, as a batch sampler.

    In epoch e all workers cut the same permutation π_e of the rows into batches of `size`, and each batch
    into W pieces, which differ by at most one row. An incomplete last batch is left out where it has fewer
    than two rows a worker: batch norm has no statistics of one row.

    Args:
        n_rows: rows of the data set.
        size: of a large batch.
        worker: whose pieces, from 0.
        n_workers: W.
        seed: of the permutations.

    >>> halves = [Pieces(6, 4, worker, 2, seed=0) for worker in (0, 1)]
    >>> [[len(piece) for piece in half] for half in halves]
    [[2], [2]]
    """

    def __init__(self, n_rows: int, size: int, worker: int, n_workers: int, seed: int) -> None:
        self.n_rows, self.size, self.worker, self.n_workers = n_rows, size, worker, n_workers
        self.seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch begins, from 0."""
        self._epoch = epoch

    def rows_in(self, batch: int) -> int:
        """The rows of large batch number `batch`, from 0."""
        return min(self.size, self.n_rows - batch * self.size)

    def __len__(self) -> int:
        whole, rest = divmod(self.n_rows, self.size)
        return whole + (rest >= 2 * self.n_workers)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(seed_for(self.seed, ORDER, self._epoch))
        order = torch.randperm(self.n_rows, generator=generator, device="cpu")
        for batch in order.split(self.size)[: len(self)]:
            yield batch.tensor_split(self.n_workers)[self.worker].tolist()


def small_batches(n_rows: int, size: int, seed: int) -> BatchSampler:
    """All rows in an order drawn from a seed; a last batch of a single row is left out."""
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(range(n_rows), generator=generator)
    return BatchSampler(sampler, size, drop_last=n_rows > size and n_rows % size == 1)


@final
class Counted:
    """A loader whose length is that of the list of batches it was told to read.

    `train` steps an `EveryStep` schedule within epochs only where it knows their length.
    """

    def __init__(self, loader: Iterable[Any], batches: BatchSampler) -> None:
        self._loader, self.batch_sampler = loader, batches

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)

    def __getattr__(self, name: str) -> Any:
        """The loader's own generator, data set and state, which a checkpoint keeps."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loader, name)


def in_order(n_rows: int, size: int) -> list[list[int]]:
    """All rows, in their own order."""
    return [piece.tolist() for piece in torch.arange(n_rows, device="cpu").split(size)]


def checked_length(dataset: Any, large: int, small: int, n_workers: int) -> int:
    """The rows of a data set that can be read by index.

    Raises:
        InputError: it has no length, or the batches do not fit.
    """
    try:
        n_rows = len(dataset)
    except TypeError as error:
        raise InputError(
            f"dataset: a {type(dataset).__name__} has no length; pass a map-style data set, such as "
            "TensorDataset(x, y)"
        ) from error
    for name, size, least in (("large", large, 2 * n_workers), ("small", small, 1)):
        if size > n_rows:
            raise InputError(f"{name}: batches of {size} rows, but the data set has {n_rows}; pass fewer")
        if size < least:
            raise InputError(
                f"{name}: batches of {size} rows for {n_workers} workers; pass two rows a worker or more"
            )
    return n_rows
