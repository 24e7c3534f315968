"""The memory behind an average: θ̄ as an origin plus a mean offset, in float32 or better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.moments import all_finite
from swag.parameters import Layout
from swag.staging import Staging

_AT_ONCE = 1 << 20


def accumulate_mean_(
    x: Tensor, origin: Tensor, offset: Tensor, scratch: Tensor, share: float, keep: Tensor | None = None
) -> None:
    """m ← m + share·((x − origin) − m), in place, nothing allocated but under a mask.

    Args:
        x: (m,) the new values, any floating dtype.
        origin: (m,) the origin.
        offset: (m,) m, updated.
        scratch: (m,) overwritten; of the statistics dtype.
        share: of the new values in the mean.
        keep: a boolean scalar; where it is false nothing changes.
    """
    torch.sub(x, origin, out=scratch)
    if keep is not None:
        # A bad snapshot becomes the mean itself, which changes nothing; a product with 0 would keep a NaN.
        torch.where(keep, scratch, offset, out=scratch)
    offset.lerp_(scratch, share)


def recentre_(origin: Tensor, offset: Tensor) -> None:
    """Moves the origin to θ̄ and leaves in the offset what rounding took: their sum is exactly what it was.

    An average that forgets θ₁ would otherwise be rounded for ever to what θ₁'s size allows.
    """
    for o, m in zip(origin.split(_AT_ONCE), offset.split(_AT_ONCE), strict=True):
        total = o + m
        moved = total - o
        m.copy_((o - (total - moved)) + (m - moved))  # Knuth's sum of two without error
        o.copy_(total)


@final
class ShiftedMean:
    """θ̄ (D,) of snapshots that come as lists of tensors, as origin + offset.

    The origin is θ₁, and after 2, 4, 8, … snapshots the average so far.

    Args:
        layout: names, shapes and order of the tensors.
        device: where the mean lives.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self.n = 0
        self._staging = Staging(layout, device)
        self._origin: Tensor | None = None
        self._offset: Tensor | None = None
        self._scratch: Tensor | None = None

    @torch.no_grad()
    def take(self, tensors: Sequence[Tensor], share: float, keep: Tensor | None = None) -> None:
        """Takes a snapshot in; the first one is the mean, whatever its share."""
        origin, offset, scratch = self._allocated()
        if self.n > 1 and self.n & (self.n - 1) == 0:
            recentre_(origin, offset)
        self._staging.fresh()
        for start, stop, x in self._staging.pieces([tensor.detach() for tensor in tensors]):
            at = slice(start, stop)
            if self.n == 0:
                # Under a mask zeros are taken in: the next snapshot is then the first again.
                origin[at].copy_(x if keep is None else torch.where(keep, x, torch.zeros_like(x)))
                offset[at].zero_()
            else:
                accumulate_mean_(x, origin[at], offset[at], scratch[: stop - start], share, keep)
        self.n += 1

    def put(self, mean: Tensor, n: int) -> None:
        """Goes on from a mean (D,) of n snapshots that was computed elsewhere."""
        origin, offset, _ = self._allocated()
        origin.copy_(mean)
        offset.zero_()
        self.n = n

    def mean(self) -> Tensor:
        """θ̄ (D,), a fresh tensor; only after the first snapshot."""
        assert self._origin is not None and self._offset is not None
        return self._origin + self._offset

    def state(self) -> dict[str, Any]:
        """n, and after the first snapshot the vectors, as copies."""
        if self._origin is None or self._offset is None or self.n == 0:
            return {"n": 0}
        return {"n": self.n, "origin": self._origin.clone(), "offset_mean": self._offset.clone()}

    def load(self, checked: Mapping[str, Any]) -> None:
        """Takes over what `checked_mean` let through."""
        if checked["n"] > 0:
            origin, offset, _ = self._allocated()
            origin.copy_(checked["origin"])
            offset.copy_(checked["offset_mean"])
        self.n = checked["n"]

    @torch.inference_mode(False)  # tensors made in inference mode could not be updated outside of it
    def _allocated(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._origin is None or self._offset is None or self._scratch is None:
            dtype = self.layout.statistics_dtype
            self._origin = torch.zeros(self.layout.size, dtype=dtype, device=self.device)
            self._offset = torch.zeros_like(self._origin)
            self._scratch = self._origin.new_empty(self._staging.widest)
        return self._origin, self._offset, self._scratch


def checked_mean(state: Any, size: int, where: str) -> Mapping[str, Any]:
    """The state of a `ShiftedMean` of D = size, after a look at it.

    Raises:
        InputError: something missing, of the wrong shape, or not finite.
    """
    n = state.get("n") if isinstance(state, Mapping) else None
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise InputError(f"{where}: 'n' is {n!r}, not a number of snapshots; the state is damaged")
    for key in ("origin", "offset_mean") if n else ():
        value = state.get(key)
        if not isinstance(value, Tensor) or tuple(value.shape) != (size,):
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{where}: '{key}' should be a tensor of shape ({size},), got {came}")
        if not all_finite([value]):
            raise InputError(f"{where}: '{key}' holds NaN or infinite values; the state is damaged")
    return state
