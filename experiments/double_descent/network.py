"""A small convnet, and B of them as one module that is trained at once by grouped convolutions.

No network of a stack sees another: convolutions have a group for each, the last layer is a batched product.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag


@final
class Net(nn.Module):
    """Two strided convolutions with ReLU, and a linear layer on all that they give.

    Args:
        side: of the images (n, 1, side, side).
        width: channels of the first convolution; the second has twice as many.
        classes: C.
    """

    def __init__(self, side: int, width: int, classes: int) -> None:
        super().__init__()
        left = -(-side // 4)
        self.first = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.output = nn.Linear(2 * width * left**2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, C)."""
        hidden = self.second(self.first(x).relu()).relu()
        return self.output(hidden.flatten(1))


@final
class Stack(nn.Module):
    """B networks `Net` side by side; parameter i is B of theirs, in the same order.

    Args:
        nets: B networks of one shape, whose weights are copied.
    """

    def __init__(self, nets: list[Net]) -> None:
        super().__init__()
        self.one = swag.Layout.of(nets[0])
        parts = [torch.stack([dict(net.named_parameters())[name] for net in nets]) for name in self.one.names]
        self.parts = nn.ParameterList([nn.Parameter(part.detach()) for part in parts])

    def __len__(self) -> int:
        return len(self.parts[0])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, n, C) of images x (B, n, 1, side, side), each network its own."""
        w1, b1, w2, b2, w3, b3 = self.parts
        hidden = x.transpose(0, 1).flatten(1, 2)  # (n, B, side, side): the networks are groups of channels
        for weight, bias in ((w1, b1), (w2, b2)):
            weight, bias = weight.flatten(0, 1), bias.flatten()
            hidden = F.conv2d(hidden, weight, bias, stride=2, padding=1, groups=len(self)).relu()
        hidden = hidden.unflatten(1, (len(self), -1)).flatten(2).transpose(0, 1)
        return torch.baddbmm(b3.unsqueeze(1), hidden, w3.mT)

    def apart(self, flat: Tensor) -> Tensor:
        """(..., B, D) of (..., B·D): vectors over the stack's parameters, network by network."""
        sizes = [part.numel() for part in self.parts]
        pieces = flat.split(sizes, -1)
        return torch.cat([piece.unflatten(-1, (len(self), -1)) for piece in pieces], -1)


def stack_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The SUM over networks of the mean cross-entropy of their rows: logits (B, n, C), labels (B, n).

    So every network's gradient is that of its own mean loss.
    """
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * len(logits)
