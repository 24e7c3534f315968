"""Model averaging with a model that is divided over ranks: every rank predicts its own rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from swag.batches import Forward, as_tensor, feed, is_iterator
from swag.batchnorm import batchnorm_modules, eval_mode
from swag.distributed.applied import restored
from swag.distributed.batchnorm import refresh_batchnorm_
from swag.distributed.gaussian import ShardedGaussian
from swag.distributed.lockstep import lockstep
from swag.distributed.point import ShardedPointMass
from swag.errors import InputError
from swag.noise import checked_seed
from swag.parameters import unwrap
from swag.posterior.protocol import check_n_samples
from swag.predictive import Categorical, Likelihood

# Batches kept while members change: every member sees the same ones, and a loader is read once.
_GROUP_BYTES = 1 << 28


def predict(
    model: nn.Module,
    posterior: ShardedGaussian | ShardedPointMass,
    loader: Iterable[Any],
    n_samples: int = 30,
    *,
    seed: int | None = None,
    bn_loader: Iterable[Any] | None = None,
    likelihood: Likelihood | None = None,
    forward: Forward | None = None,
    keep_members: bool | None = None,
) -> Any:
    r"""p(y|x) ≈ (1/S) Σ_s p(y|x, θ_s) for this rank's rows; what `swag.Ensemble(…).predict` finds, sharded.

    One θ_s at a time is written into the model's shards, and the model, its buffers included, is afterwards
    what it was. A member's draw is local; its forward passes gather as training does. Rank r's result covers
    the rows of rank r's loader: `gather_rows` puts them together. Ranks may have different numbers of
    batches, but none may have none. All ranks must call it.

    Args:
        model: divided as the one that was collected from.
        posterior: `collector.swag()`, `.swag_diag()` or `.swa()` (one member, whatever n_samples).
        loader: this rank's batches; read once. Groups of 256 MiB are kept while members change.
        n_samples: S.
        seed: draws are those of `posterior.sample(S, generator=torch.Generator().manual_seed(seed))`; None
            takes one from torch's global generator (rank 0's counts).
        bn_loader: this rank's training batches, for each member's batch-norm statistics; read once a member.
        likelihood: what outputs mean: `swag.Categorical()` (the default), or another of its kind.
        forward: forward(model, batch) → outputs.
        keep_members: as in `swag.Ensemble`.

    Returns:
        A predictive of this rank's rows: `CategoricalPredictive`, or what the likelihood makes.

    Raises:
        InputError: on all ranks: a loader is empty on one; batch norm without bn_loader, or with one of one
            reading; n_samples or seeds that differ.
        StateError: a rank was lost.

    >>> from swag.distributed import ShardedCollector
    >>> model = nn.Linear(4, 3)
    >>> collector = ShardedCollector(model)
    >>> collector.collect(model)
    >>> predict(model, collector.swa(), [torch.zeros(2, 4)])
    CategoricalPredictive(N=2, C=3, n_samples=1)
    """
    shards = posterior.shards

    def checked() -> tuple[nn.Module, dict[str, Any]]:
        module = unwrap(model)  # DDP's wrapper would broadcast the buffers
        shards.module(model)
        return module, _checked_layers(module, n_samples, seed, bn_loader)

    module, layers = shards.ranks.alike(
        "predict",
        checked,
        lambda made: [
            repr(posterior).partition("(")[0],
            f"n_samples={n_samples}",
            f"seed={seed}",
            *made[1],
        ],
    )
    members = 1 if isinstance(posterior, ShardedPointMass) else n_samples
    own_seed = shards.ranks.seed(None) if seed is None else checked_seed(seed)
    run, likelihood = forward or feed, likelihood or Categorical()
    statistics: list[dict[str, Tensor]] = []
    parts: list[Any] = []
    with restored(model, shards), eval_mode(module), torch.no_grad():
        for group in lockstep(loader, shards.ranks, "loader", at_least=_GROUP_BYTES):
            accumulators = [likelihood.accumulator(keep_members=keep_members) for _, real in group if real]
            for index in range(members):
                generator = torch.Generator().manual_seed(own_seed)
                theta = posterior.sample_range(index, index + 1, generator=generator)[0]
                shards.write_(model, theta)
                if bn_loader is not None and layers:
                    if len(statistics) == index:
                        refresh_batchnorm_(module, bn_loader, forward=forward, ranks=shards.ranks)
                        statistics.append(_statistics(module, list(layers)))
                    else:
                        _set_statistics(module, statistics[index])
                for number, (batch, is_real) in enumerate(group):
                    outputs = as_tensor(run(module, batch))
                    if is_real:
                        accumulators[number].update(outputs)
            parts += [accumulator.compute() for accumulator in accumulators]
    return type(parts[0]).concatenate(parts)


def _checked_layers(
    module: nn.Module, n_samples: int, seed: int | None, bn_loader: Iterable[Any] | None
) -> dict[str, Any]:
    """The batch-norm layers by name, the arguments being fit for them."""
    check_n_samples(n_samples)
    if seed is not None:
        checked_seed(seed)
    layers = batchnorm_modules(module)
    if layers and bn_loader is None:
        raise InputError(
            f"bn_loader: the model has batch norm ('{next(iter(layers))}', …), whose statistics belong to "
            "other weights; pass training batches"
        )
    if layers and bn_loader is not None and is_iterator(bn_loader):
        raise InputError(
            "bn_loader: can be read only once, and every member reads it; pass a list or DataLoader"
        )
    return layers


def _statistics(module: nn.Module, names: list[str]) -> dict[str, Tensor]:
    buffers = dict(module.named_buffers())
    leaves = ("running_mean", "running_var")
    return {f"{name}.{leaf}": buffers[f"{name}.{leaf}"].clone() for name in names for leaf in leaves}


def _set_statistics(module: nn.Module, statistics: dict[str, Tensor]) -> None:
    buffers = dict(module.named_buffers())
    for name, value in statistics.items():
        buffers[name].copy_(value)
