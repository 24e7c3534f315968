"""The networks: a small convnet for one CPU core, and the three of the SWA paper for CIFAR-100."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def small_convnet(n_classes: int, channels: int = 1, strides: Sequence[int] = (2, 2, 2)) -> nn.Sequential:
    """Three strided convolutions with batch norm (16, 32, 64 channels), then the mean over positions."""
    layers: list[nn.Module] = []
    for width, stride in zip((16, 32, 64), strides, strict=True):
        layers += [
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_classes))


def vgg16(n_classes: int, divide: int = 1) -> nn.Sequential:
    """VGG-16 without batch norm for 32×32 images, dropout before two hidden layers, as in the SWA paper."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width // divide, 3, padding=1), nn.ReLU()]
            channels = width // divide
    layers.append(nn.Flatten())
    for _ in range(2):
        layers += [nn.Dropout(), nn.Linear(channels, channels), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(channels, n_classes))
    for module in network:
        if isinstance(module, nn.Conv2d):  # without batch norm it does not start from torch's default
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return network


class PreBlock(nn.Module):
    """Batch norm and ReLU before each convolution, and a shortcut around them (He et al. 2016b)."""

    def __init__(self, channels: int, widths: Sequence[int], kernels: Sequence[int], stride: int) -> None:
        super().__init__()
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        before, strided = channels, kernels.index(3)
        for index, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
            self.norms.append(nn.BatchNorm2d(before))
            step = stride if index == strided else 1
            self.convs.append(nn.Conv2d(before, width, kernel, step, padding=kernel // 2, bias=False))
            before = width
        same = stride == 1 and channels == before
        self.shortcut = None if same else nn.Conv2d(channels, before, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for index, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            out = F.relu(norm(out))
            if index == 0 and self.shortcut is not None:
                x = self.shortcut(out)
            out = conv(out)
        return out + x


class PreActivated(nn.Module):
    """A first convolution, three groups of blocks, batch norm, the mean over positions, a linear layer."""

    def __init__(self, first: int, groups: Sequence[Sequence[PreBlock]], last: int, n_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*(block for group in groups for block in group))
        self.norm = nn.BatchNorm2d(last)
        self.head = nn.Linear(last, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.blocks(self.first(x)))).mean((2, 3)))


def preresnet164(n_classes: int, depth: int = 164) -> PreActivated:
    """Bottleneck blocks, (depth − 2)/9 in each of three groups."""
    groups, channels = [], 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        group = []
        for index in range((depth - 2) // 9):
            group.append(
                PreBlock(channels, (width, width, 4 * width), (1, 3, 1), stride if index == 0 else 1)
            )
            channels = 4 * width
        groups.append(group)
    return PreActivated(16, groups, channels, n_classes)


def wrn28_10(n_classes: int, depth: int = 28, widen: int = 10) -> PreActivated:
    """Pairs of 3×3 convolutions, (depth − 4)/6 in each of three groups, ten times as wide; no dropout."""
    groups, channels = [], 16
    for base, stride in ((16, 1), (32, 2), (64, 2)):
        group = []
        for index in range((depth - 4) // 6):
            group.append(PreBlock(channels, (base * widen,) * 2, (3, 3), stride if index == 0 else 1))
            channels = base * widen
        groups.append(group)
    return PreActivated(16, groups, channels, n_classes)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "small-digits": lambda n_classes: small_convnet(n_classes, strides=(1, 2, 1)),
    "small": small_convnet,
    "vgg16": vgg16,
    "preresnet164": preresnet164,
    "wrn28-10": wrn28_10,
    # shallow and narrow, for --quick
    "vgg16/8": lambda n_classes: vgg16(n_classes, divide=8),
    "preresnet11": lambda n_classes: preresnet164(n_classes, depth=11),
    "wrn10-1": lambda n_classes: wrn28_10(n_classes, depth=10, widen=1),
}


def seeded(name: str, n_classes: int, seed: int) -> nn.Module:
    """The untrained network of a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](n_classes)
