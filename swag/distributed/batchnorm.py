"""Exact batch-norm statistics of a model on several ranks: pooled over the rows of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from swag.applied import Aside
from swag.batches import Forward, feed
from swag.batchnorm import batch_statistics, batchnorm_modules, eval_mode
from swag.distributed.lockstep import lockstep
from swag.distributed.ranks import Ranks
from swag.errors import InputError
from swag.parameters import Layout, unwrap


def refresh_batchnorm_(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    forward: Forward | None = None,
    frozen: Iterable[str] = (),
    ranks: Ranks | None = None,
) -> None:
    r"""`swag.refresh_batchnorm_` over ranks: each reads its own share, and all end with the same statistics.

    As there, each batch is normalised by its own statistics. Counts, means and squared deviations are then
    pooled over ranks by Chan's formula in float64,

        n = Σ_r n_r,   μ = Σ_r n_r μ_r / n,   M = Σ_r (M_r + n_r (μ_r − μ)²),   running_var = M/(n − 1)

    which is what one process over all batches would find, up to rounding. Ranks may have different numbers of
    batches, but none may have none. On the wire, beside what the forward passes gather: 8 bytes a batch, and
    40 bytes a channel in the end. (A `DistributedSampler` repeats rows to make ranks equal, and repeated rows
    count; pass one with drop_last=True, or shares of your own.)

    Args:
        model: sharded, or whole on every rank.
        loader: this rank's batches of training data.
        forward: forward(model, batch) runs one batch.
        frozen: names of layers to leave alone.
        ranks: who takes part; by default all processes.

    Raises:
        InputError: on all ranks, where one's loader is empty or a layer saw fewer than two values a channel.
            The statistics are then as they were.
    """
    ranks = ranks or Ranks()
    layers = batchnorm_modules(unwrap(model), frozen)
    if not layers:
        return
    before = Aside(unwrap(model), Layout([]))
    try:
        pooled = _pool(unwrap(model), layers, loader, forward, ranks)
        pooled.write_(layers)
    except BaseException:
        before.restore_()
        raise


def _pool(
    module: nn.Module,
    layers: Mapping[str, _BatchNorm],
    loader: Iterable[Any],
    forward: Forward | None,
    ranks: Ranks,
) -> _Pooled:
    pooled, dropped = _Pooled(layers), _Pooled(layers)
    active = pooled

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, _BatchNorm)
        active.take(layer, args[0] if args else kwargs["input"])

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers.values()]
    run, n_batches = forward or feed, 0
    try:
        with eval_mode(module), torch.no_grad():
            for ((batch, is_real),) in lockstep(loader, ranks, "loader"):
                active = pooled if is_real else dropped
                run(module, batch)
                n_batches += is_real
    finally:
        for handle in handles:
            handle.remove()
    pooled.add_up_(ranks, n_batches)
    return pooled


@final
class _Pooled:
    """Counts, means and squared deviations of the layers' inputs, channels of all layers in one vector."""

    def __init__(self, layers: Mapping[str, _BatchNorm]) -> None:
        self._names = {id(layer): name for name, layer in layers.items()}
        self._at: dict[str, slice] = {}
        start = 0
        for name, layer in layers.items():
            self._at[name] = slice(start, start + layer.num_features)
            start += layer.num_features
        device = next(iter(layers.values())).running_mean.device  # type: ignore[union-attr]
        self._rows = torch.zeros(start, dtype=torch.float64, device=device)
        self._mean = torch.zeros_like(self._rows)
        self._sq_dev = torch.zeros_like(self._rows)
        self._n_batches = 0

    def take(self, layer: _BatchNorm, x: Tensor) -> None:
        """Takes a batch's statistics in, and sets them on the layer, which then normalises by them."""
        if x.numel() == 0:
            return
        mean, variance, rows = batch_statistics(x)
        at = self._at[self._names[id(layer)]]
        before = self._rows[at].clone()
        total = before + rows
        delta = mean.double().to(total.device) - self._mean[at]
        self._mean[at] += delta * (rows / total)
        self._sq_dev[at] += variance.double().to(total.device) * rows + delta.square() * (
            before * rows / total
        )
        self._rows[at] = total
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)

    def add_up_(self, ranks: Ranks, n_batches: int) -> None:
        """Pools over ranks, and checks that every layer has a variance."""
        sums = torch.cat([self._rows, self._rows * self._mean, self._rows.new_tensor([float(n_batches)])])
        ranks.sum_(sums)
        channels = len(self._rows)
        rows, weighted = sums[:channels], sums[channels:-1]
        self._n_batches = int(sums[-1])
        for name, at in self._at.items():
            if float(rows[at].min()) < 2:
                raise InputError(
                    f"loader: gave the layer '{name}' {int(rows[at].min())} values a channel on all ranks "
                    "together; pass more rows, a forward= that runs the whole model, or name it in frozen="
                )
        mean = weighted / rows
        self._sq_dev += self._rows * (self._mean - mean).square()
        ranks.sum_(self._sq_dev)
        self._rows, self._mean = rows, mean

    def write_(self, layers: Mapping[str, _BatchNorm]) -> None:
        """Makes them the layers' running statistics, in place."""
        for name, layer in layers.items():
            at = self._at[name]
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.copy_(self._mean[at])
            layer.running_var.copy_(self._sq_dev[at] / (self._rows[at] - 1))
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.fill_(self._n_batches)
