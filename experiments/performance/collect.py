"""Taking a snapshot: mean, squared deviations and one row of K, with the ring full.

    python -m experiments.performance --only collect

The limit is `torch.copy_` of as many bytes. A snapshot reads θ, θ₁, mean and squared deviations and writes
mean, squared deviations and the row: 28 bytes a parameter. (24 without θ₁, which buys the accuracy of the
last table.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

import swag
from swag.moments import compiled_kernel

from .models import MODELS, jitter_
from .results import Goal, Results, Settings, Table
from .rivals import rivals
from .timing import interleaved

RANK = 20
OURS = "swag"
BFLOAT16 = "swag, bfloat16 rows"
COMPILED = "swag, compiled kernel"
COPY = "copy_ of 28 bytes a parameter"
COPY_24 = "copy_ of 24 bytes a parameter"
AVERAGED = "AveragedModel (mean only)"
MULTI = "AveragedModel, multi_avg_fn (mean only)"
# Those whose rows need this much memory besides the model are left out of the largest network.
_LARGE = 30_000_000


def run(settings: Settings) -> Results:
    """Times every network, and the accuracy of the variance."""
    results = Results("collect", settings)
    names = ["m1", "m2"] if settings.smoke else ["m1", "m2", "m3"] if settings.quick else list(MODELS)
    rank = 4 if settings.smoke else RANK
    table = Table(
        f"One snapshot, K = {rank}, ring full",
        names,
        limit=COPY,
        note="Every figure of ours includes the test for NaN and infinity. torch-uncertainty runs without "
        "the 16 models that it also draws at every snapshot. In brackets: times the copy.",
    )
    for name in names:
        _one(table, name, rank, settings, results.skipped)
    results.tables = [table, _accuracy(settings, results.skipped)]
    results.goals = _goals(results.tables[0], results.tables[1], names)
    return results


def _one(table: Table, name: str, rank: int, settings: Settings, skipped: list[str]) -> None:
    make = MODELS[name]
    torch.manual_seed(settings.seed)
    model = make()
    size = sum(parameter.numel() for parameter in model.parameters())
    rows: dict[str, Callable[[], object]] = {}
    roles: dict[str, str] = {}

    def add(label: str, role: str, call: Callable[[], object]) -> None:
        rows[label], roles[label] = call, role

    for label, dtype in ((OURS, torch.float32), (BFLOAT16, torch.bfloat16)):
        if dtype != torch.float32 and size > _LARGE:
            continue
        collector = swag.Collector(model, rank=rank, deviation_dtype=dtype)
        _fill(lambda c=collector: c.collect(model), model, rank, settings.seed)
        add(label, "ours", lambda c=collector: c.collect(model))
    if not settings.smoke:
        collector = swag.Collector(model, rank=rank, kernel=compiled_kernel())
        _fill(lambda c=collector: c.collect(model), model, rank, settings.seed)
        add(COMPILED, "ours", lambda c=collector: c.collect(model))
    # A quick run leaves slow rows of m3 out.
    only = ("swa_gaussian",) if size > (_LARGE if not settings.quick else _LARGE // 10) else ()
    for rival, own in rivals(make, rank, settings.swa_gaussian, skipped, only=only):
        _fill(rival.collect, own, rank, settings.seed)
        add(rival.name, "peer", rival.collect)
    for label, function in ((AVERAGED, None), (MULTI, get_swa_multi_avg_fn())):
        averaged = AveragedModel(model, multi_avg_fn=function)
        averaged.update_parameters(model)
        add(label, "peer", lambda a=averaged: a.update_parameters(model))
    for label, numbers in ((COPY, 7), (COPY_24, 6)):
        source = torch.randn(numbers * size // 2)
        target = torch.empty_like(source).copy_(source)
        add(label, "limit", lambda s=source, t=target: t.copy_(s))
    for label, timing in interleaved(rows, repeats=settings.repeats, seconds=25).items():
        table.add(label, roles[label], name, timing)


def _fill(collect: Callable[[], None], model: nn.Module, rank: int, seed: int) -> None:
    """Snapshots along a random walk until the ring is full."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(rank + 1):
        jitter_(model, generator)
        collect()


# --- accuracy --------------------------------------------------------------------------------------------


def _accuracy(settings: Settings, skipped: list[str]) -> Table:
    """The variance's worst relative error against float64, for weights that move little beside their size."""
    table = Table(
        "Relative error of the variance after 20 snapshots, weights c ± 1e-4 (mean over 10,000 weights)",
        ["c = 1", "c = 10"],
        unit="",
        note="Against the same snapshots in float64.",
    )
    for centre, column in ((1.0, "c = 1"), (10.0, "c = 10")):
        thetas = _walk(centre, settings.seed)
        exact = torch.stack(thetas).double().var(0, correction=0)
        model = _Weights(thetas[0])
        collector = swag.Collector(model, rank=2)
        for theta in thetas:
            model.weight.data.copy_(theta)
            collector.collect(model)
        table.add(OURS, "ours", column, _error(collector.sq_dev / collector.n_collected, exact))
        for rival, own in rivals(
            lambda start=thetas[0]: _Weights(start), 2, settings.swa_gaussian, skipped, only=("swa_gaussian",)
        ):
            for theta in thetas:
                own.weight.data.copy_(theta)
                rival.collect()
            mean, square = rival.swag.base.weight_mean, rival.swag.base.weight_sq_mean
            table.add(rival.name, "peer", column, _error(square - mean**2, exact))
        shifted, mean, sq_dev = thetas, torch.zeros_like(thetas[0]), torch.zeros_like(thetas[0])
        for n, theta in enumerate(shifted, 1):
            delta = theta - mean
            mean = mean + delta / n
            sq_dev = sq_dev + delta * (theta - mean)
        table.add("Welford in float32, not shifted", "peer", column, _error(sq_dev / len(thetas), exact))
    return table


def _walk(centre: float, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [centre + 1e-4 * torch.randn(10_000, generator=generator) for _ in range(20)]


def _error(variance: torch.Tensor, exact: torch.Tensor) -> float:
    return ((variance.double() - exact).abs() / exact).mean().item()


class _Weights(nn.Module):
    """Nothing but a vector of weights."""

    def __init__(self, theta: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(theta.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


# --- goals -----------------------------------------------------------------------------------------------


def _goals(table: Table, accuracy: Table, names: list[str]) -> list[Goal]:
    goals = list(_speed(table, names))
    for column in accuracy.columns:
        figure = accuracy.figure(OURS, column)
        what = f"variance's relative error, {column} ± 1e-4".replace("c = ", "weights ")
        goals.append(Goal.below("variance", what, figure, 1e-5, unit=""))
    return goals


def _speed(table: Table, names: list[str]) -> Iterator[Goal]:
    for name in (n for n in names if n in ("m3", "m4")):
        copies = table.ratio(OURS, COPY, name)
        yield Goal.below(
            "collect-copy", f"collect {name}, eager, against copy_ of its 28 bytes", copies, 1.25
        )
        gain = table.ratio("swa_gaussian", OURS, name)
        yield Goal.above("collect-peer", f"collect {name}, against swa_gaussian", gain, 30)
        if table.figure(COMPILED, name) is None:
            continue
        copies, gain = table.ratio(COMPILED, COPY, name), table.ratio("swa_gaussian", COMPILED, name)
        what = f"collect {name}, compiled"
        yield Goal.below("collect-compiled", f"{what}, against copy_ of its 28 bytes", copies, 0.8)
        yield Goal.above("collect-compiled-peer", f"{what}, against swa_gaussian", gain, 50)
    copies = table.ratio(OURS, COPY, "m2")
    yield Goal.below("collect-small-copy", "collect m2 (65 small tensors), against copy_", copies, 2)
    gain = table.ratio("swa_gaussian", OURS, "m2")
    yield Goal.above("collect-small-peer", "collect m2, against swa_gaussian", gain, 20)
    ratio = table.ratio(OURS, AVERAGED, "m2")
    what = "collect m2, against AveragedModel's default (mean only)"
    yield Goal.below("collect-averaged", what, ratio, 1)
