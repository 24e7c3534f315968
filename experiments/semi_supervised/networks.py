"""The networks: a small convnet for a CPU core, and Mean Teacher's 13 layers for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from swag.training.semi_supervised import TwoHeads


def small(n_classes: int, strides: Sequence[int] = (2, 2, 2)) -> nn.Sequential:
    """Three strided convolutions with batch norm (20, 40, 80 channels), the mean over positions, dropout."""
    layers: list[nn.Module] = []
    channels = 1
    for width, stride in zip((20, 40, 80), strides, strict=True):
        layers += [
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    last = nn.Linear(channels, n_classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), last)


def cnn13(n_classes: int, divide: int = 1) -> TwoHeads:
    """Three groups of three convolutions with dropout and pooling between, two heads: Mean Teacher's CNN."""
    a, b, c = 128 // divide, 256 // divide, 512 // divide
    layers: list[nn.Module] = []
    channels = 3
    for width in (a, b):
        for _ in range(3):
            layers += convolution(channels, width)
            channels = width
        layers += [nn.MaxPool2d(2), nn.Dropout(0.5)]
    for width, kernel in ((c, 3), (b, 1), (a, 1)):
        layers += convolution(channels, width, kernel=kernel, padding=0)
        channels = width
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return TwoHeads(body, nn.Linear(channels, n_classes), nn.Linear(channels, n_classes))


def convolution(before: int, width: int, *, kernel: int = 3, padding: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(before, width, kernel, padding=padding, bias=False)
    return [layer, nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "small": small,
    "small-digits": lambda n_classes: small(n_classes, strides=(1, 2, 1)),
    "cnn13": cnn13,
    "cnn13/16": lambda n_classes: cnn13(n_classes, divide=16),  # for --quick
}


def seeded(name: str, n_classes: int, seed: int) -> nn.Module:
    """The untrained network of a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](n_classes)
