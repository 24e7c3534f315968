"""The networks: a small convnet for 28 × 28 images on one CPU core, and VGG-16 for CIFAR on a GPU."""

from __future__ import annotations

from torch import nn

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0 is a pooling


def convnet(channels: int = 1, n_classes: int = 10) -> nn.Module:
    """Three convolutions with batch norm, 29,000 weights; 28 × 28 images."""
    return nn.Sequential(
        *_convolution(channels, 16),
        nn.MaxPool2d(2),
        *_convolution(16, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 9, n_classes),
    )


def small(channels: int = 1, n_classes: int = 10) -> nn.Module:
    """Two convolutions, for scikit-learn's 8 × 8 digits."""
    return nn.Sequential(
        *_convolution(channels, 8),
        nn.MaxPool2d(2),
        *_convolution(8, 16),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 4, n_classes),
    )


def vgg16(channels: int = 3, n_classes: int = 10) -> nn.Module:
    """VGG-16 with batch norm as the SWALP paper's code has it: 15 million weights; 32 × 32 images."""
    layers: list[nn.Module] = []
    for width in _VGG16:
        layers += _convolution(channels, width) if width else [nn.MaxPool2d(2)]
        channels = width or channels
    head = [nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(512, n_classes))


def _convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]


NETWORKS = {"convnet": convnet, "small": small, "vgg16": vgg16}
