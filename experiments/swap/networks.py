"""The networks: a small convnet for a CPU core, and ResNet-9 for CIFAR-10 on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def small_convnet(n_classes: int, strides: Sequence[int] = (2, 2, 2)) -> nn.Sequential:
    """Three strided convolutions with batch norm (16, 32, 64 channels), then the mean over positions."""
    layers: list[nn.Module] = []
    channels = 1
    for width, stride in zip((16, 32, 64), strides, strict=True):
        layers += [
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_classes))


def block(before: int, width: int, *, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(before, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.MaxPool2d(2)) if pool else nn.Sequential(*layers)


class Residual(nn.Module):
    """x + two blocks of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(block(width, width, pool=False), block(width, width, pool=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Scaled(nn.Module):
    """Logits times a constant, so that the last layer's rate may be that of the others."""

    def __init__(self, inside: nn.Module, factor: float) -> None:
        super().__init__()
        self.inside, self.factor = inside, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x) * self.factor


def resnet9(n_classes: int, divide: int = 1) -> nn.Sequential:
    """The network of the fast CIFAR-10 recipes: 64, 128, 256 and 512 channels, two residual pairs."""
    a, b, c, d = (width // divide for width in (64, 128, 256, 512))
    return nn.Sequential(
        block(3, a, pool=False),
        block(a, b, pool=True),
        Residual(b),
        block(b, c, pool=True),
        block(c, d, pool=True),
        Residual(d),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        Scaled(nn.Linear(d, n_classes, bias=False), 0.125),
    )


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "small": small_convnet,
    "small-digits": lambda n_classes: small_convnet(n_classes, strides=(1, 2, 1)),
    "resnet9": resnet9,
    "resnet9/16": lambda n_classes: resnet9(n_classes, divide=16),  # for --quick
}


def seeded(name: str, n_classes: int, seed: int) -> nn.Module:
    """The untrained network of a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](n_classes)
