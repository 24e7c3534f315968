"""Curves through weight space: control points, the point at t, and lengths along the curve."""

from __future__ import annotations

import os
from numbers import Integral
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from swag.errors import InputError
from swag.geometry.bases import Basis, Bezier
from swag.geometry.vectors import Point, as_vectors
from swag.parameters import Layout
from swag.selection import Select

# Lengths are integrated over this many pieces by Gauss and Legendre's rule of 8 nodes.
_PIECES = 256
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
# Gram matrices are summed over this many weights at a time, in float64.
_CHUNK = 1 << 20


@final
class Curve:
    r"""θ(t) = Σ_i c_i(t) w_i for t from 0 to 1, with n control points w_i: θ(0) is the first, θ(1) the last.

    `CurveFit` trains the inner points; `evaluate_along` scores a curve; `swag.Subspace.from_curve` spans the
    plane of a curve of three points. `Empirical(curve.point(curve.equidistant(20)), curve.layout)` is a
    posterior of 20 nets along it.

    Args:
        points: control points (n, D), n ≥ 2.
        basis: `Bezier()` or `PolygonalChain()`.
        layout: the parameters that θ is made of.

    Raises:
        InputError: fewer than two points, values that are not finite, a layout of another size.

    Source: Garipov et al. 2018, arXiv:1802.10026.

    >>> curve = Curve(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0]]))
    >>> curve.point(0.5).tolist()
    [1.0, 1.0]
    """

    def __init__(self, points: Tensor, basis: Basis | None = None, *, layout: Layout | None = None) -> None:
        if not isinstance(points, Tensor) or points.ndim != 2 or not points.is_floating_point():
            came = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
            raise InputError(f"points: got {came}; pass a floating-point tensor of control points (n, D)")
        if len(points) < 2:
            raise InputError(f"points: got {len(points)}; a curve has two ends: pass n ≥ 2 rows")
        as_vectors({f"points[{i}]": point for i, point in enumerate(points)}, layout=layout)
        self.points = points.detach()
        self.basis: Basis = basis if basis is not None else Bezier()
        if isinstance(self.basis, type) or not isinstance(self.basis, Basis):
            raise InputError(f"basis: got {basis!r}; pass swag.geometry.Bezier() or PolygonalChain()")
        self.layout = layout
        self._gram: NDArray[np.float64] = np.empty((0, 0))
        self._table: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @classmethod
    def between(
        cls,
        first: Point,
        second: Point,
        *,
        n_inner: int = 1,
        basis: Basis | None = None,
        layout: Layout | None = None,
        select: Select = None,
    ) -> Curve:
        """The straight line from one net to another, as a curve whose inner points can be trained.

        Args:
            first: θ(0): a model, a posterior (its mean) or θ (D,).
            second: θ(1).
            n_inner: control points between them, equally spaced on the line.
            basis: `Bezier()` (the default) or `PolygonalChain()`.
            layout: of the vectors, where neither end is a model or posterior.
            select: which parameters the curve moves, as in `Collector`; by default all trainable ones.

        Raises:
            InputError: the ends have different architectures, or differ in a parameter that is not selected.
        """
        if isinstance(n_inner, bool) or not isinstance(n_inner, Integral) or n_inner < 0:
            raise InputError(f"n_inner: got {n_inner!r}; pass an integer of at least 0")
        (start, end), layout = as_vectors({"first": first, "second": second}, layout=layout, select=select)
        shares = torch.linspace(0, 1, n_inner + 2, dtype=start.dtype, device=start.device)[1:-1]
        inner = [torch.lerp(start, end, share) for share in shares]
        return cls(torch.stack([start, *inner, end]), basis, layout=layout)

    @property
    def n_points(self) -> int:
        """n, the control points with both ends."""
        return len(self.points)

    def point(self, t: float | ArrayLike | Tensor) -> Tensor:
        """θ(t): (D,) for one t, (T, D) for t (T,).

        Raises:
            InputError: t below 0, above 1, or NaN.
        """
        at = _checked_t(t)
        coefficients = self.basis.coefficients(at.reshape(-1), self.n_points)
        return (coefficients.to(self.points) @ self.points).reshape((*at.shape, self.points.shape[1]))

    @property
    def length(self) -> float:
        """∫₀¹ ‖θ′(t)‖ dt, in units of weights."""
        return float(self._lengths()[1][-1])

    def distance(self, t: float | ArrayLike | Tensor) -> NDArray[np.float64]:
        """The length of the curve from its start to t: ∫₀ᵗ ‖θ′(u)‖ du, of t's shape."""
        at = np.asarray(_checked_t(t).numpy())
        ends, lengths = self._lengths()
        # From the last end of a piece before t, by the same rule.
        piece = np.clip(np.searchsorted(ends, at, side="right") - 1, 0, len(ends) - 2)
        return lengths[piece] + self._integral(ends[piece], at)

    def equidistant(self, n: int) -> NDArray[np.float64]:
        """n values of t, from 0 to 1, with equal lengths of curve between them.

        Raises:
            InputError: n < 2, or a curve of no length.
        """
        if isinstance(n, bool) or not isinstance(n, Integral) or n < 2:
            raise InputError(f"n: got {n!r}; pass an integer of at least 2: both ends count")
        ends, lengths = self._lengths()
        if lengths[-1] == 0:
            raise InputError("n: the curve's points are all the same, so it has no length to divide")
        wanted = np.linspace(0, lengths[-1], n)
        t = np.interp(wanted, lengths, ends)
        for _ in range(2):  # Newton's steps, from inside the right piece
            speed = self._speed(t)
            off = self.distance(t) - wanted
            t = np.clip(t - np.divide(off, speed, out=np.zeros(n), where=speed > 0), 0, 1)
        t[0], t[-1] = 0.0, 1.0
        return t

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes points, basis and layout as safetensors; the file appears whole or not at all.

        Raises:
            InputError: a basis of your own, which no file can name.
            FileError: the file cannot be written.
        """
        from swag.geometry.curve_files import save_curve

        save_curve(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Curve:
        """Reads what `save` wrote.

        Raises:
            FileError: the file is missing, damaged, or holds no curve.
        """
        from swag.geometry.curve_files import load_curve

        return load_curve(Path(path))

    def _lengths(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of pieces in t, and the length of the curve up to each."""
        if self._table is None:
            self._gram = gram(self.points)
            even = np.linspace(0, 1, _PIECES + 1)
            ends = np.union1d(even, self.basis.knots(self.n_points).numpy())
            pieces = self._integral(ends[:-1], ends[1:])
            self._table = ends, np.concatenate([[0.0], np.cumsum(pieces)])
        return self._table

    def _integral(self, start: NDArray[np.float64], stop: NDArray[np.float64]) -> NDArray[np.float64]:
        """∫ ‖θ′(t)‖ dt over intervals without a knot inside, by Gauss and Legendre's rule."""
        half, middle = (stop - start) / 2, (stop + start) / 2
        return half * (self._speed(middle[..., None] + half[..., None] * _NODES) @ _WEIGHTS)

    def _speed(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """‖θ′(t)‖, by ‖θ′‖² = c′ᵀ G c′ with G the points' inner products."""
        slopes = self.basis.derivatives(torch.from_numpy(t.reshape(-1)), self.n_points).numpy()
        squared = np.einsum("ti,ti->t", slopes @ self._gram, slopes)
        return np.sqrt(squared.clip(0)).reshape(t.shape)

    def __repr__(self) -> str:
        return f"Curve({self.basis!r}, {self.n_points} points, D={self.points.shape[1]:,})"


def gram(points: Tensor) -> NDArray[np.float64]:
    """(n, n): the inner products of w_i − w_0 in float64; what is independent of the origin is exact."""
    total = torch.zeros(len(points), len(points), dtype=torch.float64, device=points.device)
    for piece in points.split(_CHUNK, dim=1):
        centred = piece.double() - piece[0].double()
        total += centred @ centred.T
    return total.cpu().numpy()


def _checked_t(t: float | ArrayLike | Tensor) -> Tensor:
    """t as float64 on the CPU; raises InputError where it is outside of [0, 1] or no number."""
    try:
        at = (
            t.detach().cpu().double()
            if isinstance(t, Tensor)
            else torch.from_numpy(np.array(t, dtype=np.float64))
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"t: got {t!r:.80}; pass numbers from 0 to 1") from error
    outside = ~((at >= 0) & (at <= 1))
    if bool(outside.any()):
        raise InputError(f"t: got {float(at[outside].reshape(-1)[0])!r}; the curve runs from t = 0 to t = 1")
    return at
