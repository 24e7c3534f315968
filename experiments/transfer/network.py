"""The convnet that is carried from one task to the other."""

from __future__ import annotations

import copy

from torch import nn


def convnet(channels: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Three strided convolutions with batch norm, the mean over places, and a linear head."""
    layers: list[nn.Module] = []
    before = 1
    for after in channels:
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def with_new_head(network: nn.Sequential) -> nn.Sequential:
    """A copy whose last layer has fresh weights, by torch's generator."""
    carried = copy.deepcopy(network)
    head = carried[-1]
    assert isinstance(head, nn.Linear)
    head.reset_parameters()
    return carried
