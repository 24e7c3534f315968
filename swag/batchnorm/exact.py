"""Exact statistics: pooled over the rows of a whole pass, for one model or for many members at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from swag.batches import Forward, check_loader, feed, length
from swag.batchnorm.layers import batchnorm_modules, eval_mode
from swag.batchnorm.policy import Buffers, Members
from swag.batchnorm.statistics import batch_statistics
from swag.errors import InputError
from swag.parameters import unwrap
from swag.progress import track


@final
@dataclass(frozen=True)
class ExactBatchNorm:
    """Every sample's statistics over the whole of `bn_loader`, as `refresh_batchnorm_` computes them.

    The loader is read once for all samples: augmentation and decoding are paid once, and every sample
    sees the same batches. (Under a memory budget, once for each block of samples that fits.)

    Args:
        frozen: names of batch-norm modules to leave as they are.
    """

    frozen: tuple[str, ...] = ()

    @property
    def needs_loader(self) -> bool:
        """True."""
        return True

    def statistics(
        self,
        members: Members,
        layers: Mapping[str, _BatchNorm],
        loader: Iterable[Any],
        forward: Forward | None,
    ) -> list[Buffers]:
        """The statistics of every member, from one pass over the loader for each block of members."""
        found: list[Buffers] = []
        for start in range(0, len(members), members.at_once):
            block = range(start, min(start + members.at_once, len(members)))
            loads = [lambda index=index: members.load_(index) for index in block]
            pooled = pool_statistics(members.module, layers, loader, forward, loads)
            found += [own.buffers() for own in pooled]
        return found


def refresh_batchnorm_(
    model: nn.Module, loader: Iterable[Any], *, forward: Forward | None = None, frozen: Iterable[str] = ()
) -> None:
    r"""Replaces the running statistics of a model's batch-norm layers by those of the data, in place.

    One pass. Each batch is normalised by its own statistics μ_b, σ²_b (as in training, so a layer sees
    what the layers before it do to this batch) and the statistics are pooled over rows, not batches:

        running_mean = Σ_b n_b μ_b / n
        running_var  = (Σ_b n_b (σ²_b + (μ_b − running_mean)²)) / (n − 1),   n = Σ_b n_b

    n_b counts rows times positions; σ²_b is the population variance. Everything but the batch-norm
    layers runs in eval mode, so dropout is off. `num_batches_tracked` becomes the number of batches.
    Modes and momenta are afterwards as they were; after an exception the statistics are too.

    Args:
        model: any module with BatchNorm1d/2d/3d or SyncBatchNorm layers; without any, nothing happens.
        loader: batches of training data.
        forward: forward(model, batch) runs one batch; by default the first element of a tuple, a dict
            by keyword.
        frozen: names of layers to leave alone, besides those in eval mode in a model in train mode.

    Raises:
        InputError: the loader is empty, or gave one value a channel in all.
    """
    check_loader("loader", loader)
    model = unwrap(model)
    layers = batchnorm_modules(model, frozen)
    if not layers:
        return
    saved = {name: _statistics(layer) for name, layer in layers.items()}
    try:
        (pooled,) = pool_statistics(model, layers, loader, forward, [lambda: None])
        pooled.write_()
    except BaseException:
        for name, layer in layers.items():
            _restore_(layer, saved[name])
        raise


def pool_statistics(
    module: nn.Module,
    layers: Mapping[str, _BatchNorm],
    loader: Iterable[Any],
    forward: Forward | None,
    loads: Sequence[Callable[[], None]],
) -> list[Pooled]:
    """One pass over the loader; each batch goes through the module once for each of `loads`.

    Each of `loads` puts other weights into the module. The layers' buffers are scratch meanwhile.

    Raises:
        InputError: the loader is empty, a layer was never reached, or saw one value a channel in all.
    """
    pooled = [Pooled(layers) for _ in loads]
    active = pooled[0]

    def take(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            active.take(name, layer_input(args, kwargs))

        return hook

    handles = [
        layer.register_forward_pre_hook(take(name), with_kwargs=True) for name, layer in layers.items()
    ]
    run, n_batches = forward or feed, 0
    try:
        with eval_mode(module), torch.no_grad():
            for batch in track(loader, "batch norm", total=length(loader)):
                for load, active in zip(loads, pooled, strict=True):  # noqa: B007 (the hooks read `active`)
                    load()
                    run(module, batch)
                n_batches += 1
    finally:
        for handle in handles:
            handle.remove()
    if n_batches == 0:
        raise InputError("loader: gave no batch; pass a loader with at least one batch of training data")
    for own in pooled:
        own.finish(n_batches)
    return pooled


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The input of a batch-norm layer, however it was passed."""
    return args[0] if args else kwargs["input"]


@final
class Pooled:
    """Pooled mean and squared deviations of the layers' inputs, in float64, by Chan's parallel update."""

    def __init__(self, layers: Mapping[str, _BatchNorm]) -> None:
        self._layers = layers
        self._n_batches = 0
        self._rows = dict.fromkeys(layers, 0)
        self._mean = {
            name: torch.zeros(layer.num_features, dtype=torch.float64, device=_running(layer)[0].device)
            for name, layer in layers.items()
        }
        self._sq_dev = {name: torch.zeros_like(mean) for name, mean in self._mean.items()}

    def take(self, name: str, x: Tensor) -> None:
        """Takes a batch's statistics in, and sets them on the layer, which then normalises by them."""
        if x.numel() == 0:
            return
        mean, variance, rows = batch_statistics(x)
        total = self._rows[name] + rows
        delta = mean.double() - self._mean[name]
        self._mean[name] += delta * (rows / total)
        self._sq_dev[name] += variance.double() * rows + delta.square() * (self._rows[name] * rows / total)
        self._rows[name] = total
        running_mean, running_var = _running(self._layers[name])
        running_mean.copy_(mean)
        running_var.copy_(variance)

    def finish(self, n_batches: int) -> None:
        """Checks that every layer has a variance."""
        self._n_batches = n_batches
        for name, rows in self._rows.items():
            if rows == 0:
                raise InputError(
                    f"loader: the layer '{name}' was never reached by a forward pass; name it in frozen= or "
                    "pass forward= that runs the whole model"
                )
            if rows == 1:
                raise InputError(
                    f"loader: gave the layer '{name}' one value a channel, which has no variance; "
                    "pass more rows"
                )

    def mean(self, name: str) -> Tensor:
        """The pooled mean (C,), float64."""
        return self._mean[name]

    def variance(self, name: str) -> Tensor:
        """The pooled variance (C,) with n/(n−1), float64."""
        return self._sq_dev[name] / (self._rows[name] - 1)

    def buffers(self) -> Buffers:
        """As running statistics: fresh tensors of the layers' dtypes."""
        found: Buffers = {}
        for name, layer in self._layers.items():
            running_mean, running_var = _running(layer)
            found[f"{name}.running_mean"] = self.mean(name).to(running_mean.dtype)
            found[f"{name}.running_var"] = self.variance(name).to(running_var.dtype)
            if layer.num_batches_tracked is not None:
                found[f"{name}.num_batches_tracked"] = torch.full_like(
                    layer.num_batches_tracked, self._n_batches
                )
        return found

    def write_(self) -> None:
        """Makes them the layers' own running statistics, in place."""
        for name, layer in self._layers.items():
            running_mean, running_var = _running(layer)
            running_mean.copy_(self.mean(name))
            running_var.copy_(self.variance(name))
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.fill_(self._n_batches)


def _running(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None and layer.running_var is not None
    return layer.running_mean, layer.running_var


def _statistics(layer: _BatchNorm) -> list[Tensor | None]:
    return [
        None if buffer is None else buffer.clone()
        for buffer in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
    ]


def _restore_(layer: _BatchNorm, saved: list[Tensor | None]) -> None:
    buffers = (layer.running_mean, layer.running_var, layer.num_batches_tracked)
    for buffer, value in zip(buffers, saved, strict=True):
        if buffer is not None and value is not None:
            buffer.copy_(value)
