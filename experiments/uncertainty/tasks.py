"""The two tasks: ten classes, with shifted and foreign images; five, with the other five as foreign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from experiments import data
from experiments.corruptions import CORRUPTIONS, SEVERITIES
from experiments.rows import Rows
from experiments.uncertainty.recipes import Recipe
from swag.demo.data import digits

# The classes that the SWAG paper trains on, of ten; the others are out of distribution.
FIVE = (0, 1, 2, 8, 9)


@dataclass(frozen=True)
class Task:
    """What is learned, and what it is judged on.

    Attributes:
        name: "ten" or "five".
        grey: the test images that are corrupted, from 0 to 1, and their labels; None: there are no such.
        ood: images of none of the classes, by what they are.
        centre, width: mean and standard deviation of the training images' pixels.
    """

    name: str
    n_classes: int
    train: Rows
    validation: Rows
    test: Rows
    ood: dict[str, Tensor]
    grey: Rows | None
    centre: float = field(repr=False)
    width: float = field(repr=False)

    @cached_property
    def shifted(self) -> dict[str, Tensor]:
        """By corruption: standardised images (5, N, 1, H, W), one severity after the other.

        Noise and directions are the same for every method, seed and severity.
        """
        if self.grey is None:
            return {}
        found = {}
        for index, (name, corrupted) in enumerate(CORRUPTIONS.items()):
            levels = [
                corrupted(self.grey.images, severity, torch.Generator().manual_seed(index))
                for severity in SEVERITIES
            ]
            found[name] = (torch.stack(levels) - self.centre) / self.width
        return found


class Shuffled:
    """Training batches in random order, as they are; `swag.training.train` keeps the generator's state."""

    def __init__(self, rows: Rows, size: int, seed: int) -> None:
        self.rows, self.size = rows, size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(self.rows), generator=self.generator).split(self.size):
            chosen = chosen.to(self.rows.images.device)
            yield self.rows.images[chosen], self.rows.labels[chosen]


def tasks(recipe: Recipe, folder: Path | None, device: str) -> dict[str, Task]:
    """Both, of the same training, validation and test images; the same for every seed of a run."""
    (train, validation, test), ood, ood_name = _read(recipe, folder)
    std, mean = torch.std_mean(train[0])
    centre, width = float(mean), float(std)

    def rows(part: tuple[Tensor, Tensor]) -> Rows:
        return Rows(((part[0] - centre) / width).to(device), part[1].to(device))

    n = recipe.corrupted_rows
    grey = Rows(test[0][:n].to(device), test[1][:n].to(device))
    foreign = {ood_name: ((ood[: recipe.ood_rows] - centre) / width).to(device)}
    ten = Task("ten", 10, *map(rows, (train, validation, test)), foreign, grey, centre, width)
    inside = [_five(part) for part in (ten.train, ten.validation, ten.test)]
    others = ten.test.images[~torch.isin(ten.test.labels, torch.tensor(FIVE, device=device))]
    five = Task("five", 5, *inside, {"other five classes": others}, None, centre, width)
    return {"ten": ten, "five": five}


def _five(rows: Rows) -> Rows:
    classes = torch.tensor(FIVE, device=rows.labels.device)
    chosen = torch.isin(rows.labels, classes)
    return Rows(rows.images[chosen], torch.searchsorted(classes, rows.labels[chosen]))


def _read(recipe: Recipe, folder: Path | None) -> tuple[list[tuple[Tensor, Tensor]], Tensor, str]:
    """Training, validation and test images from 0 to 1 with their labels, foreign images, their name."""
    if recipe.data == "digits":
        made = digits(seed=0)
        parts = [(part.images.clamp(0, 1), part.labels) for part in (made.train, made.validation, made.test)]
        return parts, made.ood.clamp(0, 1), made.ood_name
    root = data.folder(folder)
    images = data.fashion_mnist(root)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen, held_out = order.split([recipe.train_rows, len(order) - recipe.train_rows])
    held_out = held_out[: recipe.validation_rows]
    parts = [(images.train[part].float() / 255, images.train_labels[part]) for part in (chosen, held_out)] + [
        (images.test.float() / 255, images.test_labels)
    ]
    return parts, data.mnist(root).test.float() / 255, "MNIST"
