"""The average in the model for as long as validation lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, final

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from swag.applied import Aside
from swag.batches import Forward, feed
from swag.batchnorm import batchnorm_modules, refresh_batchnorm_
from swag.collector import Collector
from swag.distributed import refresh_batchnorm_ as refresh_over_ranks_
from swag.distributed.applied import restored
from swag.integrations.lightning.collecting import AnyCollector
from swag.parameters import clean_name, unwrap
from swag.progress import silent
from swag.training.random_states import put_random_states_, random_states


@final
class Average:
    """Puts θ̄ with batch-norm statistics of its own into a model, and the model's own weights back.

    The statistics are kept: they are computed once a snapshot, however often validation runs. No random
    generator is moved by it.
    """

    def __init__(self) -> None:
        self._open: ExitStack | None = None
        self._statistics: tuple[int, dict[str, Tensor]] | None = None

    @property
    def applied(self) -> bool:
        """Whether the model holds the average now."""
        return self._open is not None

    def put_(
        self,
        trainer: Trainer,
        model: nn.Module,
        collector: AnyCollector,
        *,
        frozen: Iterable[str],
        batches: Callable[[], Iterable[Any]],
        forward: Forward | None,
    ) -> None:
        """From here to `take_out_` the model holds the average; after an error here, its own weights.

        Args:
            trainer: gives precision, device and the number of ranks.
            model: what the collector follows.
            collector: has one snapshot or more.
            frozen: batch-norm layers that keep their statistics.
            batches: makes the loader for the others.
            forward: how a batch of it is fed.
        """
        with ExitStack() as stack:
            if isinstance(collector, Collector):
                stack.callback(Aside(model, collector.layout).restore_)
                collector.layout.write_(model, collector.mean)
            else:
                stack.enter_context(restored(model, collector.shards))
                collector.shards.write_(model, collector.mean)
            layers = batchnorm_modules(unwrap(model), frozen)
            if layers:
                self._refresh_(trainer, model, layers, collector, tuple(frozen), batches, forward)
            self._open = stack.pop_all()

    def take_out_(self) -> None:
        """Gives the model its own weights and buffers back, bit for bit; does nothing where it has them."""
        if self._open is not None:
            stack, self._open = self._open, None
            stack.close()

    def forget(self) -> None:
        """Drops the statistics that are kept: another run begins."""
        self._statistics = None

    def _refresh_(
        self,
        trainer: Trainer,
        model: nn.Module,
        layers: dict[str, Any],
        collector: AnyCollector,
        frozen: tuple[str, ...],
        batches: Callable[[], Iterable[Any]],
        forward: Forward | None,
    ) -> None:
        n = collector.n_collected
        if self._statistics is None or self._statistics[0] != n:
            run = _in_precision(trainer, forward or feed)
            with _generators_kept(trainer.strategy.root_device), silent(), uncompiled():
                if trainer.world_size > 1:
                    refresh_over_ranks_(model, batches(), forward=run, frozen=frozen)
                else:
                    refresh_batchnorm_(model, batches(), forward=run, frozen=frozen)
            self._statistics = n, {k: buffer.clone() for k, buffer in _buffers(layers)}
            return
        kept = self._statistics[1]
        for key, buffer in _buffers(layers):
            buffer.copy_(kept[key])


def frozen_layers(model: nn.Module) -> tuple[str, ...]:
    """The batch-norm layers in eval mode, by name, of a model that is in train mode; none otherwise."""
    model = unwrap(model)
    layers = {clean_name(name) for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    return tuple(sorted(layers - set(batchnorm_modules(model))))


def uncompiled() -> AbstractContextManager[Any]:
    """Compiled modules run as they were written in here.

    Statistics are read by hooks, and what was compiled keeps the hooks that it was compiled with.
    """
    return torch.compiler.set_stance("force_eager")


def _in_precision(trainer: Trainer, forward: Forward) -> Forward:
    """The forward pass as the trainer's precision has it."""

    def run(model: nn.Module, batch: Any) -> Any:
        with trainer.precision_plugin.forward_context():
            return forward(model, trainer.precision_plugin.convert_input(batch))

    return run


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    states = random_states(device)
    try:
        yield
    finally:
        put_random_states_(states, device)


def _buffers(layers: dict[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for name, layer in layers.items():
        for key, buffer in layer.named_buffers(recurse=False):
            yield f"{name}.{key}", buffer
