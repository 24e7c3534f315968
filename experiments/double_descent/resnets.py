"""ResNet-18 of varying width on CIFAR-100, for a CUDA device; members are trained one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from experiments.double_descent.rows import Pool
from experiments.double_descent.study import Recipe, score_group, two_ways
from swag.noise import key_for


@final
class Block(nn.Module):
    """Two 3 × 3 convolutions with batch norm, and the way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.around = nn.Sequential()
        if stride != 1 or before != after:
            self.around = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.around(x)).relu()


def resnet18(width: int, classes: int) -> nn.Module:
    """Eight blocks in four stages of width, 2·width, 4·width and 8·width channels; 64 is the usual one."""
    blocks, before = [], width
    for stage in range(4):
        for place in range(2):
            after = width * 2**stage
            blocks.append(Block(before, after, 2 if stage and place == 0 else 1))
            before = after
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(before, classes),
    )


@final
class Shuffled:
    """Batches in a new order every epoch, on the device where the rows are."""

    def __init__(self, x: Tensor, y: Tensor, batch: int, seed: int) -> None:
        self._x, self._y, self._batch = x, y, batch
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._y) // self._batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self._y), generator=self._generator).split(self._batch):
            rows = rows.to(self._y.device)
            yield self._x[rows], self._y[rows]


def run(pool: Pool, recipe: Recipe, width: int, device: str) -> dict[str, Any]:
    """Trains every group of one width and scores every method."""
    started = time.perf_counter()
    trained, rows = 0.0, []
    cut = {"train": recipe.train_rows, "held": recipe.held_rows, "test": recipe.test_rows}
    autocast = torch.bfloat16 if device.startswith("cuda") else None
    for seed in recipe.seeds:
        group = pool.rows(seed, **cut, noise=recipe.noise).to(device)
        points: list[swag.PointMass] = []
        averages: list[swag.PointMass] = []
        gaussians: list[swag.LowRankGaussian] = []
        before = time.perf_counter()
        for member in range(recipe.members):
            torch.manual_seed(key_for(seed, 1, member) >> 1)
            model = resnet18(width, pool.classes).to(device)

            key = key_for(seed, 2, member) >> 1
            loaders = [Shuffled(group.x, group.y, recipe.batch, key + part) for part in (0, 1, 1)]
            falling, kept = two_ways(model, loaders, F.cross_entropy, recipe, autocast=autocast)
            layout = swag.Layout.of(falling)
            points.append(swag.PointMass(layout.flatten(falling), layout=layout))
            averages.append(kept.swa())
            gaussians.append(kept.swag(recipe.scale))
        trained += time.perf_counter() - before
        bn_loader = list(group.x.split(recipe.batch))
        rows += score_group(model, group, points, averages, gaussians, recipe, seed, bn_loader)
    return {
        "settings": {"recipe": asdict(recipe), "width": width},
        "parameters": layout.size,
        "rows": rows,
        "seconds": time.perf_counter() - started,
        "training_seconds": trained,
    }
