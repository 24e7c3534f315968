"""Batch-norm statistics for weights that were never trained with them: pooled over rows, exactly.

The weights of an average or of a posterior sample were never run on data, so every batch-norm layer
needs its running statistics from a pass over the training data [Izmailov et al. 2018, section 3.2].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from swag.batches import Forward, check_loader, feed
from swag.errors import InputError
from swag.parameters import check_initialised, clean_name, unwrap


@final
@dataclass(frozen=True)
class ExactBatchNorm:
    """Every sample's statistics from one full pass over `bn_loader`, as `refresh_batchnorm_` computes them.

    Args:
        frozen: names of batch-norm modules to leave as they are.
    """

    frozen: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class KeepBatchNorm:
    """Every sample keeps the model's statistics: right only where they were frozen in training."""


def batchnorm_modules(model: nn.Module, frozen: Iterable[str] = ()) -> dict[str, _BatchNorm]:
    """The batch-norm layers whose statistics a refresh replaces, by name.

    Left out: layers without running statistics; those named in `frozen`; and, where the model is in
    train mode, layers that are in eval mode (frozen by the user). In a model wholly in eval mode no
    layer counts as frozen.

    Raises:
        InputError: `frozen` is a string, or names something that is no batch-norm layer.
    """
    if isinstance(frozen, str):
        raise InputError(f"frozen: got the string {frozen!r}; pass a list of names, as in [{frozen!r}]")
    check_initialised(model)
    model = unwrap(model)
    found = {clean_name(name): m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    unknown = sorted(set(frozen) - set(found))
    if unknown:
        raise InputError(
            f"frozen: '{unknown[0]}' is no batch-norm layer of the model; it has {sorted(found)}"
        )
    return {
        name: module
        for name, module in found.items()
        if name not in set(frozen)
        and module.running_mean is not None
        and module.running_var is not None
        and (module.training or not model.training)
    }


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
    pools = {name: _Pool(layer) for name, layer in layers.items()}
    saved = {name: _statistics(layer) for name, layer in layers.items()}
    run, n_batches = forward or feed, 0
    hooks = [
        layer.register_forward_pre_hook(pools[name].hook, with_kwargs=True) for name, layer in layers.items()
    ]
    try:
        with eval_mode(model), torch.no_grad():
            for batch in loader:
                run(model, batch)
                n_batches += 1
        if n_batches == 0:
            raise InputError("loader: gave no batch; pass a loader with at least one batch of training data")
        for name, layer in layers.items():
            pools[name].write_(layer, name, n_batches)
    except BaseException:
        for name, layer in layers.items():
            _restore_(layer, saved[name])
        raise
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside the block, each back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Pool:
    """Pooled mean and squared deviations of one layer's input, in float64, by Chan's parallel update."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.rows = 0
        self.mean = torch.zeros(layer.num_features, dtype=torch.float64, device=layer.running_mean.device)  # type: ignore[union-attr]
        self.sq_dev = torch.zeros_like(self.mean)

    def hook(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Takes a batch's statistics in, and sets them on the layer, which then normalises by them."""
        x: Tensor = args[0] if args else kwargs["input"]
        if x.numel() == 0:
            return
        assert (
            isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
        )
        mean, variance, rows = batch_statistics(x)
        self.add(mean, variance, rows)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)

    def add(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        total = self.rows + rows
        delta = mean.double() - self.mean
        self.mean += delta * (rows / total)
        self.sq_dev += variance.double() * rows + delta.square() * (self.rows * rows / total)
        self.rows = total

    def write_(self, layer: _BatchNorm, name: str, n_batches: int) -> None:
        assert layer.running_mean is not None and layer.running_var is not None
        if self.rows == 0:
            raise InputError(
                f"loader: the layer '{name}' was never reached by a forward pass; name it in frozen= or pass "
                "forward= that runs the whole model"
            )
        if self.rows == 1:
            raise InputError(
                f"loader: gave the layer '{name}' one value a channel, which has no variance; pass more rows"
            )
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(self.sq_dev / (self.rows - 1))
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(n_batches)


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and population variance over all dimensions but 1, in float32 or better, and how many values.

    `torch.var_mean` rather than the statistics of a batch-norm kernel in train mode: on the CPU those are
    off by 4e-4 in float32 for channels_last inputs.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    variance, mean = torch.var_mean(x, dim=[d for d in range(x.ndim) if d != 1], correction=0)
    return mean, variance, x.numel() // max(x.shape[1], 1)


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
