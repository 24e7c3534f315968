"""Collectors at the end of made-up training runs, and Gaussians with known parts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swag import Collector, LowRankGaussian
from tests import oracles
from tests.cases import plain, walk
from tests.checks import Array, array


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(n: int, rank: int = 3, *, case: Callable[[], nn.Module] = plain, **settings: Any) -> Collector:
    """A collector after n made-up training steps."""
    torch.manual_seed(0)
    model = case()
    collector = Collector(model, rank, **settings)
    for _ in walk(model, n):
        collector.collect(model)
    return collector


def snapshots(model: nn.Module, collector: Collector, n: int, *, seed: int = 0) -> Array:
    """Collects n steps and returns θ₁ … θ_n (n, D) as an oracle reads them."""
    thetas = []
    for _ in walk(model, n, seed=seed):
        collector.collect(model)
        thetas.append(oracles.flat(model, collector.layout.names))
    return np.array(thetas)


def assert_same_state(got: Collector, expected: Collector) -> None:
    """Bit for bit, everything a collector holds and what is read out of it."""
    a, b = got.state_dict(), expected.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], Tensor):
            assert a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]), key
        else:
            assert a[key] == b[key], key
    if got.n_collected:
        assert torch.equal(got.mean, expected.mean)


class TwoLayers:
    """A training run of two layers that move together: one random walk drives both, besides own noise."""

    def __init__(self, n: int = 12, rank: int = 5) -> None:
        self.model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        self.collector = Collector(self.model, rank)
        self.rank = rank
        generator = seeded(3)
        direction = torch.randn(self.collector.layout.size, generator=generator)
        start = self.collector.layout.flatten(self.model)
        thetas = []
        for _ in range(n):
            step = torch.randn((), generator=generator) * direction
            step = step + 0.3 * torch.randn(direction.shape, generator=generator)
            self.collector.layout.write_(self.model, start + step)
            self.collector.collect(self.model)
            thetas.append(oracles.flat(self.model, self.collector.layout.names))
        self.thetas: Array = np.array(thetas)

    def covariance(self, scale: float) -> Array:
        return oracles.swag_covariance(self.thetas, self.rank, scale)


def random_gaussian(
    size: int, rank: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> LowRankGaussian:
    generator = seeded(seed)
    mean = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    diag = (torch.rand(size, generator=generator, dtype=torch.float64) + 0.1).to(dtype)
    factor = torch.randn(size, rank, generator=generator, dtype=torch.float64).to(dtype)
    return LowRankGaussian(mean, diag, factor)


def dense(posterior: LowRankGaussian) -> Array:
    """The covariance as its parts say, in float64."""
    rows = array(posterior.rows) * posterior.row_scale
    return np.diag(array(posterior.cov_diag)) + rows.T @ rows
