"""One width of the convnets: all groups' networks trained as one stack."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor

import swag
from experiments.double_descent.network import Net, Stack, stack_loss
from experiments.double_descent.rows import Pool, Rows
from experiments.double_descent.study import Recipe, score_group, two_ways
from swag.noise import key_for


@final
class Batches:
    """Rows for every network of a stack, in an order of its own: x (B, n, 1, side, side), y (B, n).

    Args:
        groups: training rows of each group.
        members: networks a group.
        batch: n.
        seed: of the orders.
    """

    def __init__(self, groups: list[Rows], members: int, batch: int, seed: int) -> None:
        self._x = torch.stack([rows.x for rows in groups])
        self._y = torch.stack([rows.y for rows in groups])
        self._group = torch.arange(len(groups)).repeat_interleave(members).unsqueeze(1)
        self._batch = batch
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-self._y.shape[1] // self._batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        shape = (len(self._group), self._y.shape[1])
        orders = torch.rand(shape, generator=self._generator).argsort(1)
        for rows in orders.split(self._batch, 1):
            yield self._x[self._group, rows], self._y[self._group, rows]


def run(pool: Pool, recipe: Recipe, width: int, device: str = "cpu") -> dict[str, Any]:
    """Trains the stack of one width and scores every method, group by group."""
    started = time.process_time()
    held, test = recipe.held_rows, recipe.test_rows
    cut = {"train": recipe.train_rows, "held": held, "test": test, "noise": recipe.noise}
    groups = [pool.rows(seed, **cut).to(device) for seed in recipe.seeds]
    side = groups[0].x.shape[-1]
    nets = [_net(side, width, pool.classes, seed, m) for seed in recipe.seeds for m in range(recipe.members)]
    stack = Stack(nets).to(device)
    keys = [key_for(recipe.seeds[0], 2, part) >> 1 for part in (0, 1, 1)]
    loaders = [Batches(groups, recipe.members, recipe.batch, key) for key in keys]
    falling, kept = two_ways(stack, loaders, stack_loss, recipe)
    assert isinstance(falling, Stack)
    last, collector = falling.apart(swag.Layout.of(falling).flatten(falling)), kept.collector
    trained = time.process_time() - started

    moments = (
        stack.apart(collector.mean),
        stack.apart(collector.sq_dev / collector.n_collected),
        stack.apart(collector.deviations),
    )
    rows = []
    for number, (seed, group) in enumerate(zip(recipe.seeds, groups, strict=True)):
        members = range(number * recipe.members, (number + 1) * recipe.members)
        means, variances, deviations = moments
        points = [swag.PointMass(last[b], layout=stack.one) for b in members]
        averages = [swag.PointMass(means[b], layout=stack.one) for b in members]
        gaussians = [
            swag.LowRankGaussian.from_moments(
                means[b],
                variances[b],
                deviations[:, b],
                scale=recipe.scale,
                layout=stack.one,
                n_collected=collector.n_collected,
            )
            for b in members
        ]
        rows += score_group(nets[0].to(device), group, points, averages, gaussians, recipe, seed)
    return {
        "settings": {"recipe": asdict(recipe), "width": width},
        "parameters": stack.one.size,
        "rows": rows,
        "seconds": time.process_time() - started,
        "training_seconds": trained,
    }


def _net(side: int, width: int, classes: int, seed: int, member: int) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_for(seed, 1, member) >> 1)
        return Net(side, width, classes)
