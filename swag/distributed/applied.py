"""Other weights in the shards of a model for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from swag.applied import Aside
from swag.batches import Forward
from swag.distributed.batchnorm import refresh_batchnorm_
from swag.distributed.shards import Shards, reshard_
from swag.parameters import Layout


@contextmanager
def applied(
    model: nn.Module,
    shards: Shards,
    theta: Tensor,
    *,
    bn_loader: Iterable[Any] | None = None,
    forward: Forward | None = None,
) -> Iterator[nn.Module]:
    """Inside the block the model's shards hold θ; afterwards its own weights and buffers, bit for bit.

    Also after an exception. Writing and restoring are local; a forward pass gathers as it always does.
    A copy of this rank's shards and of the buffers is kept meanwhile.

    Args:
        model: a model divided as the one `shards` was made from.
        shards: `collector.shards` or `posterior.shards`.
        theta: this rank's part (D_local,), such as a row of `posterior.sample(n)`.
        bn_loader: this rank's training data, for the batch-norm statistics that belong to θ (collective).
        forward: how a batch of bn_loader is fed to the model.

    Yields:
        The model.

    >>> from swag.distributed import ShardedCollector
    >>> model = nn.Linear(2, 1)
    >>> collector = ShardedCollector(model, rank=2)
    >>> before = model.weight.detach().clone()
    >>> with applied(model, collector.shards, before.new_zeros(3)):
    ...     model(before.new_ones(1, 2)).item()
    0.0
    >>> bool((model.weight == before).all())
    True
    """
    with restored(model, shards):
        shards.write_(model, theta)
        if bn_loader is not None:
            refresh_batchnorm_(model, bn_loader, forward=forward, ranks=shards.ranks)
        yield model


@contextmanager
def restored(model: nn.Module, shards: Shards) -> Iterator[None]:
    """After the block the model's shards and buffers are what they were before it."""
    # Of the shards: what a forward pass has gathered is no place to write to.
    weights = Aside(shards.module(model), shards.local)
    buffers = Aside(model, Layout([]))
    try:
        yield
    finally:
        reshard_(model)
        weights.restore_()
        buffers.restore_()
