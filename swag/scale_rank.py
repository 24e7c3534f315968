"""Choosing the scale and the rank of a posterior by validation likelihood."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from swag.batches import Forward, check_loader
from swag.batchnorm import BatchNormPolicy
from swag.ensemble import Ensemble
from swag.errors import InputError
from swag.parameters import Layout
from swag.posterior import LowRankGaussian, Mixture, Posterior
from swag.posterior.protocol import check_n_samples, check_scale
from swag.predictive import Likelihood
from swag.progress import track

_log = logging.getLogger(__name__)

SCALES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


@final
@dataclass(frozen=True)
class Point:
    """One setting that was tried.

    Attributes:
        scale: of the covariance.
        rank: deviation rows used.
        nll: mean validation negative log-likelihood, nats.
        behind: nll minus the best one's.
        behind_error: standard error of `behind` over the validation rows, paired.
    """

    scale: float
    rank: int
    nll: float
    behind: float
    behind_error: float


@final
@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Attributes:
        posterior: the posterior with the best scale and rank.
        scale: that scale.
        rank: that rank.
        curve: every setting tried, in the order of rank and scale.
        at_edge: for each edge of the grid that the best lies on, a sentence; empty is good.
    """

    posterior: Posterior
    scale: float
    rank: int
    curve: tuple[Point, ...]
    at_edge: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["   scale  rank      nll   behind best"]
        for point in self.curve:
            best = " <- best" if (point.scale, point.rank) == (self.scale, self.rank) else ""
            lines.append(
                f"{point.scale:8.4g}  {point.rank:4d}  {point.nll:7.4f}   {point.behind:.4f} ± "
                f"{point.behind_error:.4f}{best}"
            )
        return "\n".join([*lines, *self.at_edge])


def tune(
    posterior: Posterior,
    model: nn.Module,
    val_loader: Iterable[Any],
    *,
    scales: Sequence[float] = SCALES,
    ranks: Sequence[int] | None = None,
    n_samples: int = 30,
    bn_loader: Iterable[Any] | None = None,
    batchnorm: BatchNormPolicy | None = None,
    seed: int = 0,
    likelihood: Likelihood | None = None,
    forward: Forward | None = None,
    labels: Callable[[Any], Tensor] = lambda batch: batch[1],
) -> Tuned:
    r"""The scale, and the rank by truncation, with the least validation NLL of the model average.

    The draws are made once a rank and stretched: θ_s(scale) = θ̄ + √(scale/scale₀)·(θ_s − θ̄), so that settings
    differ by nothing but what is tuned; validation data are read once. One grid point costs an ensemble's
    batch-norm pass and its predictions. Use data that neither trained the model nor will test it.

    Args:
        posterior: a `LowRankGaussian`, or a `Mixture` of them (one scale and rank for all).
        model: as for `Ensemble`.
        val_loader: validation batches with labels.
        scales: that are tried, each > 0.
        ranks: numbers of last deviations that are tried; None for the posterior's own alone.
        n_samples: S.
        bn_loader: training batches for the batch-norm statistics; read once a setting.
        batchnorm: as for `Ensemble`.
        seed: of the draws.
        likelihood: as for `Ensemble`.
        forward: as for `Ensemble`.
        labels: labels(batch) (N,), for `Pointwise` of any shape; by default the batch's second element.

    Raises:
        InputError: another kind of posterior, settings that cannot be used, no batch, labels that do not fit.

    >>> import swag
    >>> model, collector = nn.Linear(2, 2), swag.Collector(nn.Linear(2, 2), rank=3)
    >>> for _ in range(5):
    ...     _ = nn.init.normal_(model.weight)
    ...     collector.collect(model)
    >>> batch = (torch.randn(8, 2), torch.randint(2, (8,)))
    >>> tuned = tune(collector.swag(), model, [batch], ranks=[0, 3], n_samples=4)
    >>> len(tuned.curve)
    14
    """
    components = _components(posterior)
    own_rank = min(component.rank for component in components)
    tried_ranks = sorted(set(ranks)) if ranks is not None else [own_rank]
    tried = sorted(set(scales))
    if not tried or not tried_ranks:
        raise InputError("scales: nothing to try; pass at least one scale and one rank")
    for scale in tried:
        check_scale(scale)
        if scale == 0:
            raise InputError("scales: 0 is SWA, which needs no samples; compare with collector.swa() instead")
    check_n_samples(n_samples)
    check_loader("val_loader", val_loader)
    batches = list(val_loader)
    if not batches:
        raise InputError("val_loader: gave no batch; pass a loader with at least one batch")
    for batch in batches:
        _labels(labels(batch))  # before anything is tried
    bn_batches = list(bn_loader) if isinstance(bn_loader, Iterator) else bn_loader
    losses: dict[tuple[float, int], Tensor] = {}
    grid = [(scale, rank) for rank in tried_ranks for scale in tried]
    cut: list[_Stretched] = []
    for scale, rank in track(grid, "tune"):
        if scale == tried[0]:
            cut = [_Stretched(_truncated(component, rank)) for component in components]
        for part in cut:
            part.scale = scale
        stretched = Mixture(cast(list[Posterior], cut), _weights(posterior)) if len(cut) > 1 else cut[0]
        ensemble = Ensemble(
            model,
            cast(Posterior, stretched),
            n_samples,
            bn_loader=bn_batches,
            batchnorm=batchnorm,
            seed=seed,
            likelihood=likelihood,
            forward=forward,
        )
        losses[scale, rank] = torch.cat([_row_nll(ensemble(batch), labels(batch)) for batch in batches])
    best = min(grid, key=lambda setting: (_mean(losses[setting]), setting))
    edges = tuple(_edges(best, tried, tried_ranks, own_rank))
    for text in edges:
        _log.info("%s", text)
    curve = tuple(_point(setting, losses[setting], losses[best]) for setting in grid)
    return Tuned(_chosen(posterior, components, best), *best, curve, edges)


@final
class _Stretched:
    """A Gaussian whose draws are made once and stretched to any scale."""

    def __init__(self, base: LowRankGaussian) -> None:
        self._base = base
        self._drawn: dict[tuple[int, int], Tensor] = {}
        self.scale = base.scale
        self.layout: Layout | None = base.layout

    @property
    def mean(self) -> Tensor:
        return self._base.mean

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """mean + √(scale/scale₀)·(θ_s − mean)."""
        assert generator is not None
        key = (n_samples, generator.initial_seed())
        if key not in self._drawn:
            self._drawn[key] = self._base.sample(n_samples, generator=generator).sub_(self.mean)
        return torch.add(self.mean, self._drawn[key], alpha=math.sqrt(self.scale / self._base.scale))


def _components(posterior: Posterior) -> list[LowRankGaussian]:
    parts = list(posterior.posteriors) if isinstance(posterior, Mixture) else [posterior]
    found = []
    for part in parts:
        if not isinstance(part, LowRankGaussian):
            raise InputError(
                f"posterior: {part!r} has no scale; pass collector.swag(), or a Mixture of such posteriors"
            )
        if part.scale == 0:
            raise InputError("posterior: was read out with scale 0, which leaves nothing to stretch")
        found.append(part)
    return found


def _truncated(component: LowRankGaussian, rank: int) -> LowRankGaussian:
    return component if rank == component.rank else component.truncated(rank)


def _weights(posterior: Posterior) -> Tensor | None:
    return posterior.weights if isinstance(posterior, Mixture) else None


def _chosen(posterior: Posterior, components: list[LowRankGaussian], best: tuple[float, int]) -> Posterior:
    made: list[Posterior] = [_truncated(component, best[1]).with_scale(best[0]) for component in components]
    return Mixture(made, posterior.weights) if isinstance(posterior, Mixture) else made[0]


def _labels(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim == 0:
        raise InputError(
            f"labels: got a {type(value).__name__} from a batch; pass labels= to say where they are"
        )
    return value


def _row_nll(predictive: Any, y: Tensor) -> Tensor:
    """−log p(y) of every row, float64 on the CPU."""
    if hasattr(predictive, "log_probs"):
        log_probs = predictive.log_probs
        if y.shape != log_probs.shape[:1] or y.is_floating_point():
            raise InputError(
                f"labels: {tuple(y.shape)} {y.dtype}, expected {len(log_probs)} class indices; see labels="
            )
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < log_probs.shape[1]:
            raise InputError(
                f"labels: from {int(y.min())} to {int(y.max())}, the model has {log_probs.shape[1]}"
            )
        return -log_probs.gather(1, y.to(log_probs.device)[:, None])[:, 0].double().cpu()
    return -predictive.log_prob(y).double().cpu()


def _mean(losses: Tensor) -> float:
    value = float(losses.mean())
    return math.inf if math.isnan(value) else value


def _point(setting: tuple[float, int], losses: Tensor, best: Tensor) -> Point:
    difference, n = losses - best, len(losses)
    error = float(difference.std()) / math.sqrt(n) if n > 1 else math.nan
    return Point(*setting, float(losses.mean()), float(difference.mean()), error)


def _edges(best: tuple[float, int], scales: list[float], ranks: list[int], own_rank: int) -> Iterator[str]:
    scale, rank = best
    if len(scales) > 1 and scale == scales[-1]:
        yield f"the best scale, {scale:g}, is the largest that was tried; try larger ones"
    elif len(scales) > 1 and scale == scales[0]:
        yield f"the best scale, {scale:g}, is the smallest that was tried; try smaller ones, and SWA"
    if len(ranks) > 1 and rank == ranks[-1]:
        more = "try larger ones" if rank < own_rank else "collect with a larger rank"
        yield f"the best rank, {rank}, is the largest that was tried; {more}"
    elif len(ranks) > 1 and rank == ranks[0] and rank > 0:
        yield f"the best rank, {rank}, is the smallest that was tried; try smaller ones"
