"""The demo's network: three convolutions with batch norm, for small grey images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def convnet(widths: Sequence[int], n_classes: int, *, strides: Sequence[int], seed: int) -> nn.Sequential:
    """Convolution, batch norm and ReLU once a width, then the mean over positions and a linear layer.

    Args:
        widths: channels of each convolution.
        n_classes: C, the logits.
        strides: of each convolution.
        seed: of the initial weights; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        channels = 1
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_classes))
