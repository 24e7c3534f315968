"""Random changes of images as functions of tensors; all that is random comes from one generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from swag.errors import InputError

# augment(x, generator) → x of the same shape; each row is changed in its own way.
Augment = Callable[[Tensor, torch.Generator | None], Tensor]


def shifted(
    x: Tensor, pixels: int, *, padding: str = "reflect", generator: torch.Generator | None = None
) -> Tensor:
    """Every image moved by a whole number of pixels, each way uniform in −pixels, …, pixels.

    Args:
        x: images (N, C, H, W).
        pixels: the largest move; below H and W where the padding reflects.
        padding: what comes in at the edge, as in `F.pad`: "reflect" (as published), "constant" for zeros.
        generator: of the moves; None for torch's global one.

    Returns:
        (N, C, H, W), a fresh tensor.

    Raises:
        InputError: no images, or such a number.

    >>> x = torch.arange(9.0).view(1, 1, 3, 3)
    >>> shifted(x, 1, padding="constant", generator=torch.Generator().manual_seed(0))[0, 0].tolist()
    [[0.0, 3.0, 4.0], [0.0, 6.0, 7.0], [0.0, 0.0, 0.0]]
    """
    _check_images(x)
    n, _, height, width = x.shape
    most = min(height, width) - 1 if padding == "reflect" else max(height, width)
    if isinstance(pixels, bool) or not isinstance(pixels, int) or not 0 <= pixels <= most:
        raise InputError(f"pixels: got {pixels!r} for images of {height} × {width}; pass 0 to {most}")
    moves = torch.randint(2 * pixels + 1, (2, n), generator=generator, device=_place(x, generator))
    down, right = moves.to(x.device)
    rows = down[:, None] + torch.arange(height, device=x.device)
    columns = right[:, None] + torch.arange(width, device=x.device)
    padded = F.pad(x, (pixels,) * 4, mode=padding)
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def flipped(x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Every image mirrored left to right with probability ½.

    Args:
        x: images (N, C, H, W).
        generator: of the choice; None for torch's global one.

    Returns:
        (N, C, H, W), a fresh tensor.

    Raises:
        InputError: no images.

    >>> x = torch.tensor([1.0, 2.0]).expand(4, 1, 1, 2)
    >>> flipped(x, generator=torch.Generator().manual_seed(0)).flatten(1).tolist()
    [[2.0, 1.0], [1.0, 2.0], [2.0, 1.0], [2.0, 1.0]]
    """
    _check_images(x)
    chosen = torch.rand(len(x), generator=generator, device=_place(x, generator)) < 0.5
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(-1), x)


def noisy(x: Tensor, std: float, *, generator: torch.Generator | None = None) -> Tensor:
    """x plus normal noise of standard deviation `std`, in x's own units.

    Args:
        x: (N, …) floating point.
        std: 0 or more; 0.15 for standardised images in Laine & Aila 2017.
        generator: of the noise; None for torch's global one.

    Returns:
        x's shape, a fresh tensor.

    Raises:
        InputError: whole numbers, or a negative std.

    >>> noisy(torch.zeros(2), 0.0)
    tensor([0., 0.])
    """
    if not x.is_floating_point():
        raise InputError(f"x: got {x.dtype}, to which noise cannot be added; pass x.float()")
    if isinstance(std, bool) or not 0 <= std < float("inf"):
        raise InputError(f"std: got {std!r}; pass 0 or more, in x's own units")
    noise = torch.randn(x.shape, generator=generator, device=_place(x, generator), dtype=x.dtype)
    return x + std * noise.to(x.device)


def _check_images(x: Tensor) -> None:
    if x.ndim != 4:
        raise InputError(f"x: got shape {tuple(x.shape)}; pass images (N, C, H, W)")


def _place(x: Tensor, generator: torch.Generator | None) -> torch.device:
    """Numbers are drawn where the generator lives."""
    return x.device if generator is None else generator.device
