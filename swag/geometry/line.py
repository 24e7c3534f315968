"""The straight line through two points of weight space."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from swag.errors import InputError
from swag.geometry.vectors import Point, as_vectors
from swag.parameters import Layout
from swag.selection import Select


@final
class Line:
    r"""θ(t) = start + t (end − start), for any t: 0 is the start, 1 the end.

    Args:
        start: a model, a posterior (its mean) or θ (D,).
        end: likewise.
        layout: of the vectors, where neither is a model or posterior.
        select: which parameters of models are meant, as in `Collector`.

    Raises:
        InputError: different architectures, or the same point twice.

    >>> Line(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0])).distance([0.0, 0.5, 2.0]).tolist()
    [0.0, 2.5, 10.0]
    """

    def __init__(
        self, start: Point, end: Point, *, layout: Layout | None = None, select: Select = None
    ) -> None:
        (self.start, self.end), self.layout = as_vectors(
            {"start": start, "end": end}, layout=layout, select=select
        )
        self.length: float = float((self.end.double() - self.start.double()).norm())
        if self.length == 0:
            raise InputError("end: is the same point as start; a line needs two different points")

    def point(self, t: float | ArrayLike | Tensor) -> Tensor:
        """θ(t): (D,) for one t, (T, D) for t (T,); exact at both ends."""
        at = torch.from_numpy(np.asarray(t, dtype=np.float64)).to(self.start)[..., None]
        return (1 - at) * self.start + at * self.end

    def distance(self, t: float | ArrayLike | Tensor) -> NDArray[np.float64]:
        """t times the distance from start to end."""
        return np.asarray(t, dtype=np.float64) * self.length

    def __repr__(self) -> str:
        return f"Line(length {self.length:.4g}, D={self.start.numel():,})"
