"""Corruptions of grey images at five severities, computed: noise, blur, contrast, rotation and translation.

In the manner of the benchmarks of calibration under shift (Hendrycks and Dietterich 2019, Ovadia et al.
2019), with strengths of their own: those were made for photographs. Images are (N, 1, H, W) from 0 to 1, and
stay so.

    shifted = CORRUPTIONS["blur"](images, severity=3, generator=torch.Generator().manual_seed(0))
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SEVERITIES = (1, 2, 3, 4, 5)
NOISE = (0.05, 0.10, 0.15, 0.20, 0.30)  # standard deviation
BLUR = (0.5, 0.8, 1.1, 1.5, 2.0)  # standard deviation in pixels of an image of 28
CONTRAST = (0.75, 0.55, 0.40, 0.25, 0.15)  # what is left of the distance to the image's mean
ROTATION = (10, 20, 30, 45, 60)  # degrees, to either side
TRANSLATION = (1, 2, 3, 4, 6)  # pixels of an image of 28, along one of the diagonals

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]


def noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise on every pixel, cut at 0 and 1."""
    drawn = torch.randn(images.shape, generator=generator)
    return (images + NOISE[severity - 1] * drawn.to(images)).clamp(0, 1)


def blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """A Gaussian kernel; beyond the edge lies more of the edge."""
    sigma = BLUR[severity - 1] * images.shape[-1] / 28
    radius = min(max(1, math.ceil(3 * sigma)), images.shape[-1] - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None]).clamp(0, 1)


def contrast(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Every pixel nearer to the image's mean."""
    middle = images.mean((1, 2, 3), keepdim=True)
    return middle + CONTRAST[severity - 1] * (images - middle)


def rotation(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """About the centre, to a random side; black comes in at the corners."""
    degrees = ROTATION[severity - 1] * _signs(len(images), generator).to(images)
    angle = torch.deg2rad(degrees)
    none = torch.zeros_like(angle)
    rows = [
        torch.stack([angle.cos(), -angle.sin(), none], 1),
        torch.stack([angle.sin(), angle.cos(), none], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)


def translation(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """By whole pixels along a random diagonal; black comes in at the edges."""
    size = images.shape[-1]
    by = max(1, round(TRANSLATION[severity - 1] * size / 28))
    down = _signs(len(images), generator).to(images.device).long() * by
    right = _signs(len(images), generator).to(images.device).long() * by
    place = torch.arange(size, device=images.device)
    rows, columns = by + down[:, None] + place, by + right[:, None] + place
    padded = F.pad(images[:, 0], (by,) * 4)
    chosen = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[chosen, rows[:, :, None], columns[:, None, :]][:, None]


CORRUPTIONS: dict[str, Corruption] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "rotation": rotation,
    "translation": translation,
}


def _signs(n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (n,), generator=generator) * 2 - 1
