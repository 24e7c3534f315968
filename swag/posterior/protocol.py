"""What every posterior offers, and the checks they share."""

from __future__ import annotations

from numbers import Integral
from typing import Protocol, SupportsFloat, runtime_checkable

import torch
from torch import Tensor

from swag.errors import InputError
from swag.parameters import Layout

# A dense (D, D) float64 matrix of this side is 0.8 GB: beyond it, asking for one is a mistake.
_DENSE_LIMIT = 10_000
# Values looked at in one go, so that rows on disk are not brought into memory together.
_CHECKED_AT_ONCE = 1 << 22


@runtime_checkable
class Posterior(Protocol):
    """A distribution over θ (D,) that can be sampled.

    `sample(n, generator=g)` takes one number from g (torch's global generator where it is None) whatever
    n is, a point mass none; the first m of n samples drawn with one seed are the same whatever n is.
    """

    @property
    def layout(self) -> Layout | None:
        """Which parameters θ is made of; None for a posterior that belongs to no model."""

    @property
    def mean(self) -> Tensor:
        """E[θ] (D,)."""

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n_samples, D)."""


def sample_range(
    posterior: Posterior, start: int, stop: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """`posterior.sample(stop)[start:]` (stop − start, D), at the cost of those alone where it can."""
    check_range(start, stop)
    if hasattr(posterior, "sample_range"):
        return posterior.sample_range(start, stop, generator=generator)
    return posterior.sample(stop, generator=generator)[start:]


def centres(
    posterior: Posterior, n_samples: int, *, generator: torch.Generator | None = None
) -> tuple[list[Tensor], list[int]]:
    """What the samples that `sample` draws lie around: points (D,), and for each sample its point's index.

    A sample of a Gaussian lies around its mean, one of a mixture around its component's, and one of a few
    points is its own centre.
    """
    if hasattr(posterior, "centres"):
        return posterior.centres(n_samples, generator=generator)
    return [posterior.mean], [0] * n_samples


def check_range(start: int, stop: int) -> None:
    if isinstance(start, bool) or not isinstance(start, int | Integral) or start < 0:
        raise InputError(f"start: got {start!r}; pass the number of the first sample wanted, from 0 on")
    if isinstance(stop, bool) or not isinstance(stop, int | Integral) or stop <= start:
        raise InputError(f"stop: got {stop!r}; pass an integer above start ({start})")


def check_n_samples(n_samples: int) -> None:
    if isinstance(n_samples, bool) or not isinstance(n_samples, int | Integral) or n_samples < 1:
        raise InputError(f"n_samples: got {n_samples!r}; pass an integer of at least 1")


def check_scale(scale: float) -> None:
    if not isinstance(scale, SupportsFloat) or not 0 <= scale < float("inf"):
        raise InputError(f"scale: got {scale!r}; it multiplies the covariance: pass a finite number ≥ 0")


def check_tensor(name: str, value: Tensor, *shapes: str) -> None:
    """A floating-point tensor with as many dimensions as one of `shapes`, written as "(D,)" or "(S, D)"."""
    dimensions = [len(shape.strip("(),").split(",")) for shape in shapes]
    if not isinstance(value, Tensor) or value.ndim not in dimensions or not value.is_floating_point():
        came = (
            f"shape {tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        )
        raise InputError(f"{name}: got {came}; pass a floating-point tensor {' or '.join(shapes)}")


def check_vector(name: str, value: Tensor, size: int | None = None) -> None:
    """A floating-point vector, of D = size entries where that is given."""
    check_tensor(name, value, "(D,)")
    if size is not None and value.numel() != size:
        raise InputError(f"{name}: has {value.numel()} entries, expected D={size}")


def check_finite(name: str, value: Tensor, layout: Layout | None) -> None:
    """Finite values (D,) or (D, …); says which parameter holds others."""
    # Along memory: a factor (D, K) is often the transpose of rows.
    lines = value.unbind(1) if value.ndim == 2 and value.stride(0) == 1 else (value,)
    for line in lines:
        step = max(1, _CHECKED_AT_ONCE // max(line[:1].numel(), 1))
        for start in range(0, len(line), step):
            piece = line[start : start + step]
            # One sum without temporaries; finite values can overflow in it, so a bad one is looked into.
            total = piece.sum(dtype=torch.float64 if piece.dtype == torch.float64 else torch.float32)
            if not bool(total.isfinite()) and not bool(piece.isfinite().all()):
                where = place(layout, start + int((~piece.isfinite()).nonzero()[0, 0]))
                raise InputError(f"{name}: not finite at {where}; check the snapshots it comes from")


def check_layout(layout: Layout | None, size: int) -> None:
    if layout is not None and not isinstance(layout, Layout):
        raise InputError(
            f"layout: got a {type(layout).__name__}; pass collector.layout or swag.Layout.of(model)"
        )
    if layout is not None and layout.size != size:
        raise InputError(f"layout: describes D={layout.size} weights, the posterior has D={size}")


def check_dense(size: int) -> None:
    if size > _DENSE_LIMIT:
        raise InputError(
            f"covariance_matrix: D={size:,} would take {8 * size * size / 1e9:.0f} GB; use variance (D,), or "
            f"select fewer than {_DENSE_LIMIT:,} parameters"
        )


def place(layout: Layout | None, index: int) -> str:
    """θ[index] in words: the parameter's name where the layout is known."""
    return f"parameter '{layout.name_at(index)}'" if layout is not None else f"theta[{index}]"
