"""Images in memory, on the training device: shuffled and moved about in batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments import data
from experiments.rows import Rows
from swag.demo.data import digits


@dataclass(frozen=True)
class Split:
    """What a run sees: rows to train on, to choose settings by, and to be judged on."""

    train: Rows
    validation: Rows
    test: Rows
    n_classes: int


class Shuffled:
    """Training batches in random order, each image shifted and, half the time, mirrored.

    Args:
        rows: the images.
        size: of a batch.
        shift: the most pixels each way; black comes in at the edge.
        mirrored: whether left and right may change places.
        generator: of all of it; `swag.training.train` keeps its state in checkpoints.
    """

    def __init__(
        self, rows: Rows, size: int, *, shift: int, mirrored: bool, generator: torch.Generator
    ) -> None:
        self.rows, self.size, self.shift, self.mirrored = rows, size, shift, mirrored
        self.generator = generator

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.rows.images.device
        for chosen in torch.randperm(len(self.rows), generator=self.generator).split(self.size):
            chosen = chosen.to(device)
            yield self.moved(self.rows.images[chosen]), self.rows.labels[chosen]

    def moved(self, images: Tensor) -> Tensor:
        n, _, height, width = images.shape
        place = torch.randint(2 * self.shift + 1, (2, n), generator=self.generator)
        mirror = torch.rand(n, generator=self.generator) < 0.5
        place, mirror = place.to(images.device), mirror.to(images.device)
        columns = torch.arange(width, device=images.device).expand(n, width)
        if self.mirrored:
            columns = torch.where(mirror[:, None], width - 1 - columns, columns)
        rows = place[0][:, None, None] + torch.arange(height, device=images.device)[:, None]
        columns = place[1][:, None, None] + columns[:, None, :]
        padded = F.pad(images, (self.shift,) * 4)
        return padded[torch.arange(n, device=images.device)[:, None, None], :, rows, columns].movedim(-1, 1)


def split(name: str, folder: Path | None, n_train: int, n_validation: int, device: str) -> Split:
    """A data set, standardised by its training rows; the same rows whatever the seed of a run."""
    if name == "digits":
        task = digits(seed=0)
        parts = [(part.images, part.labels) for part in (task.train, task.validation, task.test)]
        return _standardised(parts, 10, device)
    if name == "made up":
        generator = torch.Generator().manual_seed(0)
        made = [(torch.randn(40, 3, 32, 32, generator=generator), torch.arange(40) % 4) for _ in range(3)]
        return _standardised(made, 4, device)
    read = {"fashion_mnist": data.fashion_mnist, "cifar100": data.cifar100}[name]
    images = read(data.folder(folder))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen, held_out = order[:n_train], order[n_train : n_train + n_validation]
    parts = [
        (images.train[chosen], images.train_labels[chosen]),
        (images.train[held_out], images.train_labels[held_out]),
        (images.test, images.test_labels),
    ]
    return _standardised(parts, int(images.train_labels.max()) + 1, device)


def _standardised(parts: list[tuple[Tensor, Tensor]], n_classes: int, device: str) -> Split:
    pixels = [images.float() for images, _ in parts]
    std, mean = torch.std_mean(pixels[0], (0, 2, 3), keepdim=True)
    rows = [
        Rows(((x - mean) / std).to(device), labels.to(device))
        for x, (_, labels) in zip(pixels, parts, strict=True)
    ]
    return Split(*rows, n_classes=n_classes)
