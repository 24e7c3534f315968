"""The demo's tasks: images to train on, to tune on and to test on, and images of another kind."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Clean digits leave nothing to improve: a network is sure of them, and right. With this noise it is neither.
NOISE = 0.3
DIGITS_TRAIN, DIGITS_VALIDATION = 900, 200


@dataclass(frozen=True)
class Rows:
    """Labelled images.

    Attributes:
        images: (N, 1, H, W), grey values around 0 to 1.
        labels: (N,) integers.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """What is learned, and what is kept aside.

    Attributes:
        name: of the data set.
        description: what was done to it.
        train: for the weights and the batch-norm statistics.
        validation: for weight decays and temperatures.
        test: for the report, and for nothing before it.
        ood: (N, 1, H, W), images that belong to none of the classes.
        ood_name: what they are.
        classes: one name a class.
        widths: channels of the network's three convolutions.
        strides: of the same.
    """

    name: str
    description: str
    train: Rows
    validation: Rows
    test: Rows
    ood: Tensor
    ood_name: str
    classes: tuple[str, ...]
    widths: tuple[int, int, int]
    strides: tuple[int, int, int]

    @property
    def bn_loader(self) -> tuple[Tensor, ...]:
        """Training images for the batch-norm statistics, as they are: test images are not shifted either."""
        return self.train.images.split(1000)


def digits(seed: int) -> Task:
    """scikit-learn's 1,797 handwritten digits with noise; out of distribution: patches of two photographs.

    Gaussian noise of standard deviation 0.3 is drawn once an image, for all images alike; grey values are
    from 0 to 1 before it.

    Args:
        seed: of the split, the patches and the noise.
    """
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=generator)
    images = torch.from_numpy(bunch.images).float()[order, None] / 16
    labels = torch.from_numpy(bunch.target)[order]
    parts = [DIGITS_TRAIN, DIGITS_VALIDATION, len(order) - DIGITS_TRAIN - DIGITS_VALIDATION]
    patches = photograph_patches(parts[-1], generator)
    images, patches = (x + NOISE * torch.randn(x.shape, generator=generator) for x in (images, patches))
    train, validation, test = map(Rows, images.split(parts), labels.split(parts))
    return Task(
        name="digits",
        description=f"scikit-learn's digits, with noise of standard deviation {NOISE:g} on every image",
        train=train,
        validation=validation,
        test=test,
        ood=patches,
        ood_name="photographs",
        classes=tuple(str(digit) for digit in bunch.target_names),
        widths=(16, 32, 32),
        strides=(1, 2, 1),
    )


def photograph_patches(n: int, generator: torch.Generator) -> Tensor:
    """n grey patches (n, 1, 8, 8) from scikit-learn's two sample photographs, values from 0 to 1.

    Each is a random square of side 16, 32, 64 or 128, averaged down to 8×8: shrunk, patches have edges and
    textures in them, where most squares of 8 pixels would be plain.
    """
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image).float().mean(-1) / 255 for image in load_sample_images().images]
    patches = []
    for i in range(n):
        photograph = photographs[i % len(photographs)]
        factor = 2 ** _below(4, generator) * 2
        side = 8 * factor
        top, left = (_below(length - side + 1, generator) for length in photograph.shape)
        patches.append(F.avg_pool2d(photograph[None, top : top + side, left : left + side], factor))
    return torch.stack(patches)


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))
