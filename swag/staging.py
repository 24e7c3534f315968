"""θ piece by piece: how a model's tensors are read in order without ever making one flat copy.

Large tensors are views of themselves, cut so that a piece stays in the cache; runs of small ones are
gathered into one piece, so that the cost of a step does not grow with the number of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from swag.parameters import Layout

# 2¹⁹ float32 values are 2 MiB: the few buffers of a step stay near the cores, and a small model is one piece,
# whose small tensors are gathered once for the test and the step.
_CPU_PIECE = 1 << 19
# On a device a piece costs kernel launches, and there is no cache to stay in.
_DEVICE_PIECE = 1 << 24
# Tensors of this size and above are not gathered: a copy of them costs more than the calls that it saves.
_CPU_LARGE, _DEVICE_LARGE = 1 << 17, 1 << 21


@final
class Staging:
    """Cuts θ (D,) into pieces and hands out their values.

    Args:
        layout: θ's parameters.
        device: where the pieces are wanted.
        piece: the most weights in one; by default by device.
    """

    def __init__(self, layout: Layout, device: torch.device, *, piece: int | None = None) -> None:
        self._device = device
        self._dtype = layout.statistics_dtype
        limit = piece or (_CPU_PIECE if device.type == "cpu" else _DEVICE_PIECE)
        self._plan = _plan(layout, limit, _CPU_LARGE if device.type == "cpu" else _DEVICE_LARGE)
        self.widest = max((p.stop - p.start for p in self._plan), default=0)
        self._buffer: Tensor | None = None
        self._views: list[list[Tensor]] = []
        self._shapes = [entry.shape for entry in layout.entries]
        self._staged: int | None = None

    def pieces(self, tensors: Sequence[Tensor]) -> Iterator[tuple[int, int, Tensor]]:
        """(start, stop, θ[start:stop]) from the first to the last; a value is good until the next is taken.

        Args:
            tensors: the model's tensors in the layout's order, of any float dtype and device.
        """
        flat, of = torch.empty(0, device="cpu"), -1
        for index, piece in enumerate(self._plan):
            if piece.cut is None:
                yield piece.start, piece.stop, self._gathered(index, piece, tensors)
                continue
            if piece.first != of:
                # A tensor that is not contiguous is copied here: once, and not for each of its pieces.
                flat, of = tensors[piece.first].reshape(-1), piece.first
            values = flat[piece.cut : piece.cut + piece.stop - piece.start]
            yield piece.start, piece.stop, values.to(self._device)

    def fresh(self) -> None:
        """Forgets what is staged: call when the tensors have new values."""
        self._staged = None

    def __getstate__(self) -> dict[str, object]:
        # The views would come back from a pickle as tensors of their own; they are remade when needed.
        return {**vars(self), "_buffer": None, "_views": [], "_staged": None}

    def _gathered(self, index: int, piece: _Piece, tensors: Sequence[Tensor]) -> Tensor:
        if self._buffer is None:
            with torch.inference_mode(False):  # a buffer made in inference mode could not be filled outside
                gathered = max(p.stop - p.start for p in self._plan if p.cut is None)
                self._buffer = torch.empty(gathered, dtype=self._dtype, device=self._device)
                self._views = [self._views_of(p) for p in self._plan]
        if self._staged != index:
            torch._foreach_copy_(self._views[index], list(tensors[piece.first : piece.last]))
            self._staged = index
        return self._buffer[: piece.stop - piece.start]

    def _views_of(self, piece: _Piece) -> list[Tensor]:
        if piece.cut is not None or self._buffer is None:
            return []
        shapes = self._shapes[piece.first : piece.last]
        lengths = [torch.Size(shape).numel() for shape in shapes]
        parts = self._buffer[: piece.stop - piece.start].split(lengths)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class _Piece:
    """θ[start:stop]: the tensors first … last − 1 whole, or, with `cut`, tensor `first` from there on."""

    def __init__(self, start: int, stop: int, first: int, last: int, cut: int | None) -> None:
        self.start, self.stop, self.first, self.last, self.cut = start, stop, first, last, cut


def _plan(layout: Layout, limit: int, large: int) -> list[_Piece]:
    plan: list[_Piece] = []
    for index, entry in enumerate(layout.entries):
        if entry.stop - entry.start >= min(limit, large):
            for start in range(entry.start, entry.stop, limit):
                stop = min(start + limit, entry.stop)
                plan.append(_Piece(start, stop, index, index + 1, start - entry.start))
        elif plan and plan[-1].cut is None and entry.stop - plan[-1].start <= limit:
            plan[-1].stop, plan[-1].last = entry.stop, index + 1
        else:
            plan.append(_Piece(entry.start, entry.stop, index, index + 1, None))
    return plan
