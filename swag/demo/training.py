"""Training in plain PyTorch: at a cosine rate, and at a constant rate with a collector beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag.demo.data import Rows, Task
from swag.demo.network import convnet
from swag.progress import track

RATE = 0.1
MOMENTUM = 0.9
BATCH = 50


def sgd(task: Task, *, seed: int, epochs: int, weight_decay: float, name: str) -> nn.Module:
    """The baseline: the rate falls from 0.1 to 0 along half a cosine."""
    model = new_network(task, seed)
    rates = [RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]
    for _ in train(model, task.train, rates, weight_decay=weight_decay, seed=seed, name=name):
        pass
    return model


def averaging(task: Task, *, seed: int, epochs: int, weight_decay: float, name: str) -> swag.Collector:
    """The same at a constant rate, with a snapshot after every epoch of the second half.

    The weights of one epoch are poor there: it is their average, and their spread, that is wanted.
    """
    model = new_network(task, seed)
    collector = swag.Collector(model, rank=20)
    rates = [RATE] * epochs
    for epoch in train(model, task.train, rates, weight_decay=weight_decay, seed=seed, name=name):
        if epoch >= epochs // 2:
            collector.collect(model)
    return collector


def train(
    model: nn.Module, rows: Rows, rates: Sequence[float], *, weight_decay: float, seed: int, name: str
) -> Iterator[int]:
    """Trains a model in place, one epoch for every rate, and yields after each of them."""
    batches = Batches(rows, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rates[0], momentum=MOMENTUM, weight_decay=weight_decay)
    for epoch, rate in enumerate(track(rates, name)):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        yield epoch
    model.eval()


class Batches:
    """Rows in random order, each image moved by up to a pixel; another order and other moves each time."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self._rows = rows
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(len(self._rows) / BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images = shifted(self._rows.images, self.generator)
        for batch in torch.randperm(len(self._rows), generator=self.generator).split(BATCH):
            yield images[batch], self._rows.labels[batch]


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every image (N, 1, H, W) moved by −1, 0 or 1 pixels each way, at random; black comes in at the edge."""
    n, _, height, width = images.shape
    down, right = torch.randint(3, (2, n), generator=generator)
    rows = down[:, None, None] + torch.arange(height)[:, None]
    columns = right[:, None, None] + torch.arange(width)
    return F.pad(images, (1, 1, 1, 1))[torch.arange(n)[:, None, None], :, rows, columns].movedim(-1, 1)


def new_network(task: Task, seed: int) -> nn.Module:
    """The untrained network of a seed."""
    return convnet(task.widths, len(task.classes), strides=task.strides, seed=seed)
