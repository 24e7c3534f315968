"""Moment kernels: pure functions on flat tensors, shifted by the first snapshot.

With x_i = θ_i − θ₁ (the shift keeps float32 exact where weights move little beside their size) and the
running mean m_n of the x_i, Welford's update is

    m_n = m_{n−1} + (x_n − m_{n−1})/n
    r_n = x_n − m_n              (= θ_n − θ̄_n, the deviation after including θ_n)
    M_n = M_{n−1} + r_n²·n/(n−1)

so that θ̄ = θ₁ + m_n and Σ_diag = M_n/n. Source: Welford (1962); Chan, Golub, LeVeque (1983) for the shift.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], None]


def accumulate_(
    x: Tensor, origin: Tensor, offset_mean: Tensor, sq_dev: Tensor, deviation: Tensor, n: int
) -> None:
    """One Welford step on a contiguous piece of θ, everything in place, nothing allocated.

    Args:
        x: (m,) the new values θ_n, any floating dtype.
        origin: (m,) θ₁.
        offset_mean: (m,) m_{n−1} on entry, m_n on return.
        sq_dev: (m,) M_{n−1} on entry, M_n on return.
        deviation: (m,) overwritten with r_n; of the statistics dtype.
        n: snapshots including this one, at least 2.
    """
    torch.sub(x, origin, out=deviation)
    offset_mean.lerp_(deviation, 1.0 / n)
    deviation.sub_(offset_mean)
    sq_dev.addcmul_(deviation, deviation, value=n / (n - 1))


def accumulate_where_(
    keep: Tensor, x: Tensor, origin: Tensor, offset_mean: Tensor, sq_dev: Tensor, deviation: Tensor, n: int
) -> None:
    """`accumulate_` where the boolean scalar `keep` is true, nothing where it is false; never waits."""
    torch.sub(x, origin, out=deviation)
    # A bad snapshot becomes the mean itself, which changes nothing; a product with 0 would keep a NaN.
    torch.where(keep, deviation, offset_mean, out=deviation)
    offset_mean.lerp_(deviation, 1.0 / n)
    deviation.sub_(offset_mean)
    sq_dev.addcmul_(deviation, deviation, value=n / (n - 1))


def compiled_kernel() -> Kernel:
    """`accumulate_` fused into one pass by `torch.compile`; pass it as `Collector(…, kernel=…)`.

    The first call compiles (seconds, and a C++ compiler on the CPU). Where that fails the eager kernel
    takes over for good, and a warning is logged.
    """
    return _Compiled()


class _Compiled:
    # A call costs some 60 µs before the first number is read, and one fused pass gains nothing from the
    # cache: so the pieces are large.
    piece = 1 << 24

    def __init__(self) -> None:
        self._fused: Callable[..., None] | None = torch.compile(_step, dynamic=True)

    def __call__(
        self, x: Tensor, origin: Tensor, offset_mean: Tensor, sq_dev: Tensor, deviation: Tensor, n: int
    ) -> None:
        if self._fused is not None:
            try:
                # n goes in as a tensor: as a number it would be compiled anew for each snapshot.
                count = torch.tensor(float(n), dtype=origin.dtype, device="cpu")
                self._fused(x, origin, offset_mean, sq_dev, deviation, count)
                return
            except Exception as error:  # the compiler's failures have many classes
                _log.warning("torch.compile failed (%s); collecting goes on with the eager kernel", error)
                self._fused = None
        accumulate_(x, origin, offset_mean, sq_dev, deviation, n)

    def __reduce__(self) -> tuple[Callable[[], Kernel], tuple[()]]:
        return compiled_kernel, ()


def _step(
    x: Tensor, origin: Tensor, offset_mean: Tensor, sq_dev: Tensor, deviation: Tensor, n: Tensor
) -> None:
    delta = x - origin - offset_mean
    offset_mean.add_(delta / n)
    moved = delta * ((n - 1) / n)
    sq_dev.add_(delta * moved)
    deviation.copy_(moved)


def non_finite_flags(tensors: list[Tensor]) -> Tensor:
    """For each tensor whether it holds a NaN or an infinity (T,), on its device, without synchronising.

    By the largest magnitude, which unlike a sum cannot overflow for finite values. Empty tensors hold none.
    """
    norms = iter(torch._foreach_norm([t for t in tensors if t.numel()], float("inf")))
    zero = tensors[0].new_zeros((), dtype=torch.float32)
    return ~torch.stack([next(norms).float() if t.numel() else zero for t in tensors]).isfinite()


def all_finite(pieces: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite, with one sum a piece and no temporaries.

    A sum that is not finite is confirmed exactly, since finite values can add up to an overflow.
    """
    for piece in pieces:
        total = piece.sum(dtype=torch.float64 if piece.dtype == torch.float64 else torch.float32)
        if not bool(total.isfinite()) and not bool(piece.isfinite().all()):
            return False
    return True


def first_non_finite(tensors: list[Tensor]) -> int | None:
    """The index of the first tensor that holds a NaN or an infinity, or None; exact, one tensor at a time."""
    for index, tensor in enumerate(tensors):
        if not bool(tensor.isfinite().all()):
            return index
    return None
