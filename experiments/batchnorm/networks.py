"""Three small networks with batch norm for grey 28×28 images: a ResNet-20, a VGG, an MLP."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

N_CLASSES = 10


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet() -> nn.Module:
    """20 layers in stages of three blocks, of 8, 16 and 32 channels; the first convolution has stride 2."""
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    n_in = 8
    for n_out in (8, 16, 32):
        for _ in range(3):
            layers.append(Block(n_in, n_out, 1 if n_out in (8, n_in) else 2))
            n_in = n_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, N_CLASSES))


def vgg() -> nn.Module:
    """Five 3×3 convolutions of 8 to 32 channels, three poolings, one hidden layer; no shortcuts."""
    layers: list[nn.Module] = []
    n_in = 1
    for n_out, pool in ((8, True), (16, False), (16, True), (32, False), (32, True)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        n_in = n_out
    head = [nn.Flatten(), nn.Linear(n_in * 9, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Linear(64, N_CLASSES))


def mlp() -> nn.Module:
    """Two hidden layers of 128."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 128, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 128, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, N_CLASSES),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "vgg": vgg, "mlp": mlp}
