"""How cost grows with parameters, K, S and rows: slopes of straight lines on double logarithmic axes.

    python -m experiments.performance --only scaling

A slope of 1 is proportional cost, 0 is cost that does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import swag

from .collect import _fill
from .models import digits, m2
from .results import Results, Settings, Table
from .timing import Row, interleaved

_Make = Callable[[int], Row | Callable[[], object]]


def run(settings: Settings) -> Results:
    """One table a series; the slope is in its last column."""
    results = Results("scaling", settings)
    small = settings.quick
    sizes = [
        2**k for k in ((10, 11, 12) if settings.smoke else (16, 18, 20) if small else (16, 18, 20, 22, 24))
    ]
    ranks = [2, 4] if settings.smoke else [5, 10, 20, 40]
    counts = [2, 4] if settings.smoke else [4, 16, 64]
    rows = [32, 64] if settings.smoke else [64, 128, 256] if small else [256, 512, 1024, 2048]
    wide = 2**12 if settings.smoke else 2**20
    every = 4 if settings.smoke else 1
    images = digits(rows[-1], settings.seed)[0][..., ::every, ::every].contiguous()
    series: list[tuple[str, str, list[int], _Make]] = [
        ("collect, K = 20", "D", sizes, lambda d: _collect(d, 20)),
        (f"collect, D = {wide:,}", "K", ranks, lambda k: _collect(wide, k)),
        ("draw, K = 20, S = 4", "D", sizes[:-1], lambda d: _draw(d, 20, 4)),
        (f"draw, D = {wide:,}, S = 4", "K", ranks, lambda k: _draw(wide, k, 4)),
        (f"draw, D = {wide // 4:,}, K = 20", "S", counts, lambda s: _draw(wide // 4, 20, s)),
        ("predict m2, S = 4, without batch norm", "rows", rows, lambda n: _predict(images[:n], 4)),
        (
            "predict m2, 64 rows, without batch norm",
            "S",
            counts[:2],
            lambda s: _predict(images[: rows[0]], s),
        ),
        ("exact batch norm of m2, S = 2", "rows", rows, lambda n: _batch_norm(images[:n])),
    ]
    for title, variable, values, make in series:
        results.tables.append(_series(title, variable, values, make, settings))
    return results


def _series(title: str, variable: str, values: list[int], make: _Make, settings: Settings) -> Table:
    timings = interleaved({str(value): make(value) for value in values}, repeats=settings.repeats, seconds=12)
    columns = [f"{variable} = {value:,}" for value in values]
    table = Table(title, [*columns, "slope"])
    for column, timing in zip(columns, timings.values(), strict=True):
        table.add("swag", "ours", column, timing)
    table.add("swag", "ours", "slope", slope(values, [timing.median for timing in timings.values()]))
    return table


def slope(xs: list[int], ys: list[float]) -> float:
    """The least-squares slope of log y over log x."""
    x, y = [math.log(value) for value in xs], [math.log(value) for value in ys]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return rise / sum((a - x_mean) ** 2 for a in x)


def _collected(size: int, rank: int) -> tuple[nn.Module, swag.Collector]:
    torch.manual_seed(0)
    # One column more than a power of two: rows a power of two apart would fall into the same cache sets.
    model = nn.Linear(size // 256 + 1, 256, bias=False)
    collector = swag.Collector(model, rank=rank)
    _fill(lambda: collector.collect(model), model, rank, 0)
    return model, collector


def _collect(size: int, rank: int) -> Callable[[], object]:
    model, collector = _collected(size, rank)
    return lambda: collector.collect(model)


def _draw(size: int, rank: int, n_samples: int) -> Callable[[], object]:
    posterior = _collected(size, rank)[1].swag()
    return lambda: posterior.sample(n_samples)


def _small_posterior() -> tuple[nn.Module, swag.LowRankGaussian]:
    torch.manual_seed(0)
    model = m2()
    collector = swag.Collector(model, rank=2)
    _fill(lambda: collector.collect(model), model, 2, 0)
    return model, collector.swag()


def _predict(images: Tensor, n_samples: int) -> Callable[[], object]:
    model, posterior = _small_posterior()
    ensemble = swag.Ensemble(model, posterior, n_samples, batchnorm=swag.KeepBatchNorm(), seed=0)
    return lambda: ensemble.predict(images.split(128))


def _batch_norm(images: Tensor) -> Callable[[], object]:
    model, posterior = _small_posterior()
    return lambda: swag.Ensemble(model, posterior, 2, bn_loader=images.split(128), seed=0)
