"""The four networks of the tables, and real images to run them on.

m1: MLP, 1.0 M parameters in 8 tensors. m2: ResNet-20 with batch norm, 0.27 M in 65. m3: ResNet-18 for small
images, 11 M in 62. m4: GPT-like, 50 M in 148, its head tied to its embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_CLASSES = 10


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm beside a shortcut."""

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


def _resnet(channels: list[int], blocks: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
    ]
    n_in = channels[0]
    for n_out in channels:
        for index in range(blocks):
            stride = 2 if index == 0 and n_out != channels[0] else 1
            layers.append(Block(n_in, n_out, stride))
            n_in = n_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, N_CLASSES))


class _Layer(nn.Module):
    """Causal self-attention and a feed-forward part, each behind a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class _GPT(nn.Module):
    def __init__(self, vocabulary: int, context: int, width: int, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(_Layer(width, width // 64) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.layers(x)), self.tokens.weight)


def m1() -> nn.Module:
    sides = (784, 640, 512, 320, N_CLASSES)
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sides):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def m2() -> nn.Module:
    return _resnet([16, 32, 64], 3)


def m3() -> nn.Module:
    return _resnet([64, 128, 256, 512], 2)


def m4() -> nn.Module:
    return _GPT(23_000, 1_024, 512, 12)


MODELS: dict[str, Callable[[], nn.Module]] = {"m1": m1, "m2": m2, "m3": m3, "m4": m4}


def jitter_(model: nn.Module, generator: torch.Generator, size: float = 1e-3) -> None:
    """Moves the weights a little, as a few steps of training do."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=size)


def digits(n_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels: scikit-learn's digits, enlarged, moved by up to 3 pixels, with "
    "noise."""
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    data = load_digits()
    chosen = torch.randint(len(data.images), (n_rows,), generator=generator)
    images = torch.tensor(data.images, dtype=torch.float32)[chosen, None] / 16
    images = F.pad(F.interpolate(images, scale_factor=3.0, mode="bilinear"), (7, 7, 7, 7))
    moves = torch.randint(0, 7, (n_rows, 2), generator=generator).tolist()
    images = torch.stack(
        [image[:, y : y + 32, x : x + 32] for image, (y, x) in zip(images, moves, strict=True)]
    )
    images = images + 0.2 * torch.randn(n_rows, 3, 32, 32, generator=generator)
    return images, torch.tensor(data.target)[chosen]


def train_(
    model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, steps: int, seed: int
) -> Callable[[], None]:
    """Trains a model by SGD, and returns what trains it `steps` on, to the next snapshot."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)

    def take(n: int) -> None:
        model.train()
        for _ in range(n):
            chosen = torch.randint(len(images), (64,), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        model.eval()

    take(max(1, epochs * len(images) // 64))
    return lambda: take(steps)
