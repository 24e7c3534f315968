"""The convnet: three strided convolutions with batch norm, the mean over positions, a linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def convnet(
    widths: Sequence[int], strides: Sequence[int], n_classes: int, *, dropout: float = 0.0, seed: int = 0
) -> nn.Sequential:
    """The untrained network of a seed; torch's global generator is left as it was.

    With `dropout` above 0 there is a dropout layer before each convolution but the first, and before the
    linear layer. Without it there is none, so that names and layouts are those of a plain network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        channels = 1
        for width, stride in zip(widths, strides, strict=True):
            if dropout and layers:
                layers.append(nn.Dropout(dropout))
            layers += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        return nn.Sequential(*layers, nn.Linear(channels, n_classes)).to(memory_format=torch.channels_last)
