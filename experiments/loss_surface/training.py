"""The network, the data and the training runs whose surroundings are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import data

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Settings:
    """Sizes of a run; everything that figures depend on."""

    data: str = "Fashion-MNIST"
    n_train: int = 10_000
    n_scored: int = 4_000  # training and test images that each node of a plane is scored on
    widths: tuple[int, ...] = (16, 32, 64)
    strides: tuple[int, ...] = (2, 2, 2)
    shift: int = 2
    start_epochs: int = 15
    more_epochs: int = 15
    curve_epochs: int = 25
    batch: int = 100
    lr: float = 0.1
    swa_lr: float = 0.05
    weight_decay: float = 5e-4
    nodes: int = 19
    along: int = 41
    seed: int = 0


FULL = Settings()
QUICK = Settings(
    data="digits",
    n_train=900,
    n_scored=300,
    widths=(12, 24, 24),
    strides=(1, 2, 1),
    shift=1,
    start_epochs=8,
    more_epochs=10,
    curve_epochs=12,
    batch=50,
    nodes=9,
    along=11,
)


@dataclass(frozen=True)
class Data:
    """Normalised images (N, 1, H, W) and labels (N,)."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def batches(self, rows: int, size: int = 500) -> tuple[list[Batch], list[Batch]]:
        """The first `rows` training and test images in fixed batches."""
        parts = ((self.train, self.train_labels), (self.test, self.test_labels))
        train, test = (list(zip(x[:rows].split(size), y[:rows].split(size), strict=True)) for x, y in parts)
        return train, test


def load(settings: Settings, data_dir: Path | None, device: str) -> Data:
    """Fashion-MNIST from disk, or scikit-learn's digits with noise."""
    generator = torch.Generator().manual_seed(settings.seed)
    if settings.data == "digits":
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16
        x = x + 0.2 * torch.randn(x.shape, generator=generator)
        y = torch.from_numpy(labels).long()
        order = torch.randperm(len(x), generator=generator)
        x, y, n = x[order], y[order], settings.n_train
        parts = (x[:n], y[:n], x[n:], y[n:])
    else:
        all_of_it = data.fashion_mnist(data.folder(data_dir))
        chosen = torch.randperm(len(all_of_it), generator=generator)[: settings.n_train]
        parts = (
            all_of_it.train[chosen].float() / 255,
            all_of_it.train_labels[chosen],
            all_of_it.test.float() / 255,
            all_of_it.test_labels,
        )
    mean, std = parts[0].mean(), parts[0].std()
    train, train_labels, test, test_labels = (part.to(device) for part in parts)
    return Data((train - mean) / std, train_labels, (test - mean) / std, test_labels)


def network(settings: Settings, seed: int) -> nn.Sequential:
    """Convolution, batch norm and ReLU for each width, the mean over positions, a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        channels = 1
        for width, stride in zip(settings.widths, settings.strides, strict=True):
            layers += [
                nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def shuffled(images: Data, settings: Settings, generator: torch.Generator) -> Iterator[Batch]:
    """An epoch of batches, each image shifted by up to `shift` pixels each way."""
    order = torch.randperm(len(images.train), generator=generator)
    for rows in order.split(settings.batch):
        if len(rows) == settings.batch:
            x, y = images.train[rows], images.train_labels[rows]
            yield _shifted(x, settings.shift, generator), y


class Shuffled:
    """A loader that gives another order and other shifts each time it is read."""

    def __init__(self, images: Data, settings: Settings, seed: int) -> None:
        self._images, self._settings = images, settings
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        return shuffled(self._images, self._settings, self._generator)

    def __len__(self) -> int:
        return len(self._images.train) // self._settings.batch


def train(
    model: nn.Module,
    images: Data,
    settings: Settings,
    *,
    epochs: int,
    lr: tuple[float, float],
    seed: int,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """SGD with Nesterov momentum, the rate going linearly from lr[0] to lr[1]."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr[0], momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
    loader = Shuffled(images, settings, seed)
    steps, step = epochs * len(loader), 0
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.param_groups[0]["lr"] = lr[0] + (lr[1] - lr[0]) * step / max(1, steps - 1)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            step += 1
        after_epoch()


def _shifted(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    side, n = x.shape[-1], len(x)
    padded = F.pad(x, [most] * 4, mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (2, n, 1), generator=generator).to(x.device)
    along = torch.arange(side, device=x.device)
    rows, columns = offsets + along
    batch = torch.arange(n, device=x.device)[:, None, None]
    return padded[batch, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)
