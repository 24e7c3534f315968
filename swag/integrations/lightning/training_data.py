"""The training data once more, for batch-norm statistics, without touching the trainer's own loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, final

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from swag.errors import InputError


def training_batches(trainer: Trainer) -> Iterable[Any]:
    """Batches of the training set in a fixed random order: this rank's share, as many as an epoch trains on.

    A loader of its own: going through the trainer's would restart its workers in the middle of an epoch where
    they persist, and draw from the generator that the training draws from.

    Raises:
        InputError: the training data is no single DataLoader over a data set with a length, or its sampler
            chooses rows otherwise than all alike.
    """
    loader = trainer.train_dataloader
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or loader.batch_size is None
        or not _all_alike(loader)
    ):
        sampler = type(getattr(loader, "sampler", None)).__name__
        raise InputError(
            f"bn_loader: the model has batch norm and the training data is a {type(loader).__name__} "
            f"(sampler: {sampler}) that cannot be read beside the training; pass bn_loader= batches of it"
        )
    generator = torch.Generator().manual_seed(0)
    dataset: Any = loader.dataset
    again_by: Any = RandomSampler(dataset, generator=generator)
    if trainer.world_size > 1:
        kwargs = trainer.strategy.distributed_sampler_kwargs  # type: ignore[attr-defined]
        again_by = DistributedSampler(dataset, shuffle=True, seed=0, drop_last=True, **kwargs)
    again: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=loader.batch_size,
        sampler=again_by,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator().manual_seed(0),
    )
    most = trainer.num_training_batches
    return _First(again, int(most)) if most < len(again) else again


def _all_alike(loader: DataLoader[Any]) -> bool:
    """Whether each row of the data set comes once: weights and subsets are the user's choice, not ours."""
    sampler: Any = loader.sampler
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    if isinstance(sampler, DistributedSampler):
        return sampler.dataset is loader.dataset
    return type(sampler) is SequentialSampler


@final
class _First:
    """The first batches of a loader."""

    def __init__(self, loader: Iterable[Any], most: int) -> None:
        self._loader, self._most = loader, most

    def __len__(self) -> int:
        return self._most

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._loader), self._most)
