"""Images in memory, on the training device: batches of given rows, moved about by torch's own generator."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments import data
from experiments.rows import Rows
from swag.demo.data import digits


class Moved:
    """The batches of rows that `batches` lists, each image shifted and, half the time, mirrored.

    Args:
        rows: the images.
        batches: lists of row numbers, gone through once an epoch.
        shift: the most pixels each way; the images' mean comes in at the edge.
        mirrored: whether left and right may change places.
    """

    def __init__(self, rows: Rows, batches: Collection[list[int]], *, shift: int, mirrored: bool) -> None:
        self.rows, self.batch_sampler, self.shift, self.mirrored = rows, batches, shift, mirrored

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.rows.images.device
        for chosen in self.batch_sampler:
            index = torch.tensor(chosen).to(device)
            yield self.moved(self.rows.images[index]), self.rows.labels[index]

    def moved(self, images: Tensor) -> Tensor:
        n, _, height, width = images.shape
        device = images.device
        place = torch.randint(2 * self.shift + 1, (2, n), device=device)
        columns = torch.arange(width, device=device).expand(n, width)
        if self.mirrored:
            mirror = torch.rand(n, device=device) < 0.5
            columns = torch.where(mirror[:, None], width - 1 - columns, columns)
        rows = place[0][:, None, None] + torch.arange(height, device=device)[:, None]
        columns = place[1][:, None, None] + columns[:, None, :]
        padded = F.pad(images, (self.shift,) * 4)
        # Indexing so leaves the channels last, which is how the GPU wants them.
        return padded[torch.arange(n, device=device)[:, None, None], :, rows, columns].movedim(-1, 1)


def split(name: str, folder: Path | None, n_train: int, device: str) -> tuple[Rows, Rows, int]:
    """Training and test rows, the same for every seed, standardised by the former; and the classes."""
    if name == "digits":
        task = digits(seed=0)
        pairs = [(part.images, part.labels) for part in (task.train, task.test)]
    elif name == "made up":
        generator = torch.Generator().manual_seed(0)
        pairs = [(torch.randn(60, 3, 32, 32, generator=generator), torch.arange(60) % 4) for _ in range(2)]
    else:
        read = {"fashion_mnist": data.fashion_mnist, "cifar10": data.cifar10}[name]
        images = read(data.folder(folder))
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n_train]
        pairs = [(images.train[chosen], images.train_labels[chosen]), (images.test, images.test_labels)]
    pixels = [images.float() for images, _ in pairs]
    std, mean = torch.std_mean(pixels[0], (0, 2, 3), keepdim=True)
    train, test = (
        Rows(((x - mean) / std).to(device), labels.to(device))
        for x, (_, labels) in zip(pixels, pairs, strict=True)
    )
    return train, test, int(train.labels.max()) + 1
