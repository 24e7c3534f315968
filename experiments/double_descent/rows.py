"""Small training sets whose labels are partly wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from experiments import data
from swag.noise import key_for


@final
@dataclass(frozen=True)
class Rows:
    """What one group of networks is trained on, chosen by, and tested on; pixels with mean 0 and spread 1.

    Attributes:
        x: images (N, channels, side, side).
        y: (N,) labels, some of them wrong.
        held_x, held_y: rows for the choice of a scale, with labels as wrong as those.
        test_x, test_y: with the true labels.
    """

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def to(self, device: str) -> Rows:
        """The same on a device."""
        return Rows(**{name: value.to(device) for name, value in vars(self).items()})


@final
@dataclass(frozen=True)
class Pool:
    """All images (N, channels, side, side) and true labels, of which every group gets its own part."""

    images: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int = 10

    def rows(self, seed: int, *, train: int, held: int, test: int, noise: float) -> Rows:
        """Other training and held-out rows, and other wrong labels, for every seed; the same test rows.

        A label is replaced by another class with probability `noise`, all alike.
        """
        generator = torch.Generator().manual_seed(key_for(seed, 0) >> 1)
        order = torch.randperm(len(self.labels), generator=generator)[: train + held]
        shift = torch.randint(1, self.classes, (len(order),), generator=generator)
        wrong = torch.rand(len(order), generator=generator) < noise
        x, y = self.images[order], (self.labels[order] + shift * wrong) % self.classes
        mean, spread = x[:train].mean(), x[:train].std()
        parts = (x[:train], x[train:], self.test[:test])
        own_x, held_x, test_x = ((part - mean) / spread for part in parts)
        return Rows(own_x, y[:train], held_x, y[train:], test_x, self.test_labels[:test])


def fashion_mnist(data_dir: Path | None) -> Pool:
    """Fashion-MNIST's images, averaged over 2 × 2 pixels: 14 × 14."""
    found = data.fashion_mnist(data.folder(data_dir))
    return Pool(_small(found.train), found.train_labels, _small(found.test), found.test_labels)


def digits() -> Pool:
    """scikit-learn's digits, 8 × 8; for a look in seconds."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float().view(-1, 1, 8, 8), torch.from_numpy(labels).long()
    return Pool(x[400:], y[400:], x[:400], y[:400])


def cifar100(data_dir: Path | None) -> Pool:
    """CIFAR-100, 100 classes."""
    found = data.cifar100(data.folder(data_dir))
    return Pool(found.train.float(), found.train_labels, found.test.float(), found.test_labels, 100)


def noise(classes: int) -> Pool:
    """Small images of nothing, to try a path in seconds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(160, 3, 8, 8, generator=generator)
    y = torch.randint(classes, (160,), generator=generator)
    return Pool(x[:120], y[:120], x[120:], y[120:], classes)


def _small(images: Tensor) -> Tensor:
    return F.avg_pool2d(images.float(), 2)
