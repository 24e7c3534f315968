"""Planes through weight space: coordinates in units of distance between weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from swag.errors import InputError
from swag.geometry.eigenvectors import top_two
from swag.geometry.vectors import Point, as_vectors
from swag.parameters import Layout
from swag.posterior import LowRankGaussian
from swag.selection import Select

Array = NDArray[np.float64]

# Points are collinear where the third is nearer to the line than this share of their distances: weights in
# float32 have directions to about 1e-7 only.
_COLLINEAR = 1e-5
# A grid's shorter side is at least this share of its longer one.
_FLATTEST = 0.65


@final
@dataclass(frozen=True)
class Grid:
    """Nodes α_i û + β_j v̂ of a plane.

    Attributes:
        alpha: (A,), ascending.
        beta: (B,), ascending.
    """

    alpha: Array
    beta: Array

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if (
                values.ndim != 1
                or len(values) < 2
                or not np.isfinite(values).all()
                or (np.diff(values) <= 0).any()
            ):
                raise InputError(f"{name}: pass two or more finite numbers in ascending order")
            object.__setattr__(self, name, values)

    @property
    def nodes(self) -> Array:
        """(B·A, 2), a row of constant β after the other."""
        alpha, beta = np.meshgrid(self.alpha, self.beta)
        return np.stack([alpha.reshape(-1), beta.reshape(-1)], axis=1)


@final
@dataclass(frozen=True)
class Ellipse:
    """A Gaussian seen on a plane: the marginal of its two coordinates.

    Attributes:
        centre: (2,).
        cov: (2, 2).
    """

    centre: Array
    cov: Array

    def outline(self, n_std: float = 1.0, n: int = 200) -> Array:
        """(n, 2): where the Mahalanobis distance is n_std."""
        values, vectors = np.linalg.eigh(self.cov)
        angle = np.linspace(0, 2 * math.pi, n)
        circle = np.stack([np.cos(angle), np.sin(angle)])
        return self.centre + n_std * (vectors @ (np.sqrt(values.clip(0))[:, None] * circle)).T


@final
class Plane:
    r"""θ = origin + α û + β v̂ with û, v̂ orthonormal, so distances on it are distances between weights.

    Args:
        origin: (D,).
        axes: û and v̂ (2, D).
        layout: the parameters that θ is made of.

    Raises:
        InputError: axes that are not orthonormal.

    >>> first, second, third = torch.tensor([[0.0, 0.0, 1.0], [2.0, 3.0, 1.0], [4.0, 0.0, 1.0]])
    >>> Plane.through(first, second, third).project(second).tolist()
    [2.0, 3.0]
    """

    def __init__(self, origin: Tensor, axes: Tensor, *, layout: Layout | None = None) -> None:
        (self.origin,), self.layout = as_vectors({"origin": origin}, layout=layout)
        if not isinstance(axes, Tensor) or axes.shape != (2, self.origin.numel()):
            came = tuple(axes.shape) if isinstance(axes, Tensor) else type(axes).__name__
            raise InputError(f"axes: got {came}; pass two directions (2, D={self.origin.numel()})")
        wide = axes.detach().double()
        if not torch.allclose(
            wide @ wide.T, torch.eye(2, dtype=torch.float64, device=axes.device), atol=1e-4
        ):
            raise InputError(
                "axes: are not orthonormal; use Plane.through for the plane through three points"
            )
        self.axes = axes.detach().to(self.origin)

    @classmethod
    def through(
        cls,
        first: Point,
        second: Point,
        third: Point,
        *,
        layout: Layout | None = None,
        select: Select = None,
    ) -> Plane:
        """The plane of three points: origin `first`, û towards `third`, `second` on the side of positive β.

        Args:
            first: w₀: a model, a posterior (its mean) or θ (D,).
            second: w₁; v̂ is its part orthogonal to û.
            third: w₂.
            layout: of the vectors, where no point is a model or posterior.
            select: which parameters of models are meant, as in `Collector`.

        Raises:
            InputError: different architectures, or points on one line.

        Source: Garipov et al. 2018, arXiv:1802.10026, section A.
        """
        named = {"first": first, "second": second, "third": third}
        (w0, w1, w2), layout = as_vectors(named, layout=layout, select=select)
        u, across = w2.double() - w0.double(), w1.double() - w0.double()
        size = max(float(u.norm()), float(across.norm()))
        if float(u.norm()) <= _COLLINEAR * size:
            raise InputError("third: is the same point as first; a plane needs three different points")
        u /= u.norm()
        v = across - (u @ across) * u
        if float(v.norm()) <= _COLLINEAR * size:
            raise InputError(
                "second: lies on the line through first and third, so there is no plane of the three; pass "
                "another point, or use Line"
            )
        v /= v.norm()
        v -= (u @ v) * u
        return cls(w0, torch.stack([u, v / v.norm()]).to(w0.dtype), layout=layout)

    @classmethod
    def of_swag(cls, posterior: LowRankGaussian) -> Plane:
        """The plane of the covariance's two leading eigenvectors, through the mean; α along the first.

        Raises:
            InputError: another kind of posterior, or a covariance of less than two dimensions.

        Source: Maddox et al. 2019, arXiv:1902.02476, figure 1.
        """
        if not isinstance(posterior, LowRankGaussian):
            raise InputError(
                f"posterior: got a {type(posterior).__name__}; pass a SWAG posterior: collector.swag()"
            )
        _, axes = top_two(posterior)
        return cls(posterior.mean, axes, layout=posterior.layout)

    def lift(self, coordinates: ArrayLike) -> Tensor:
        """θ (D,) or (S, D) at coordinates (2,) or (S, 2)."""
        at = torch.from_numpy(np.array(coordinates, dtype=np.float64))
        if at.shape[-1:] != (2,):
            raise InputError(f"coordinates: got shape {tuple(at.shape)}; pass (2,) or (S, 2)")
        return self.origin + at.to(self.origin) @ self.axes

    def project(self, point: Point) -> Array:
        """Coordinates (2,) of the nearest point of the plane; of (S, D) vectors, (S, 2)."""
        return (self._offsets(point) @ self.axes.double().T).cpu().numpy()

    def height(self, point: Point) -> Array:
        """How far a point (or each of (S, D)) is from the plane."""
        offsets, axes = self._offsets(point), self.axes.double()
        return (offsets - (offsets @ axes.T) @ axes).norm(dim=-1).cpu().numpy()

    def ellipse(self, posterior: LowRankGaussian) -> Ellipse:
        """The marginal of a Gaussian posterior on this plane: mean and covariance of û·θ and v̂·θ."""
        if not isinstance(posterior, LowRankGaussian):
            raise InputError(f"posterior: got a {type(posterior).__name__}; pass a SWAG posterior")
        axes = self.axes.double()
        rows = (axes @ posterior.cov_factor.to(axes)) if posterior.rank else axes.new_zeros(2, 0)
        cov = (axes * posterior.cov_diag.to(axes)) @ axes.T + rows @ rows.T
        return Ellipse(self.project(posterior), cov.cpu().numpy())

    def grid(
        self, n: int | tuple[int, int] = 21, *, show: Iterable[Point | Ellipse] = (), margin: float = 0.2
    ) -> Grid:
        """A grid that shows given points and ellipses (to three standard deviations), and a margin around.

        Args:
            n: nodes each way, or (along α, along β).
            show: points, (S, D) vectors or ellipses; none: the origin and one unit around it.
            margin: added on each side, as a share of what is shown.

        Raises:
            InputError: fewer than two nodes, a negative margin.
        """
        n_alpha, n_beta = n if isinstance(n, tuple | list) else (int(n), int(n))
        if min(n_alpha, n_beta) < 2 or not margin >= 0:
            raise InputError(f"n, margin: got {n!r}, {margin!r}; pass two nodes or more and a margin ≥ 0")
        shown = [
            item.outline(3.0) if isinstance(item, Ellipse) else self.project(item).reshape(-1, 2)
            for item in show
        ]
        corners = np.concatenate(shown) if shown else np.array([[-1.0, -1.0], [1.0, 1.0]])
        low, high = corners.min(0), corners.max(0)
        # Points in a row have no height of their own, and a flat picture shows little of what is around.
        size = np.maximum(high - low, (high - low).max() * _FLATTEST)
        if size.max() == 0:
            size = np.ones(2)
        middle = (low + high) / 2
        low, high = middle - (0.5 + margin) * size, middle + (0.5 + margin) * size
        return Grid(np.linspace(low[0], high[0], n_alpha), np.linspace(low[1], high[1], n_beta))

    def _offsets(self, point: Point) -> Tensor:
        """point − origin, (D,) or (S, D), float64."""
        if isinstance(point, Tensor) and point.ndim == 2:
            vectors = torch.stack(
                as_vectors({f"point[{i}]": row for i, row in enumerate(point)}, layout=self.layout)[0]
            )
        else:
            (vectors,), _ = as_vectors({"point": point}, layout=self.layout)
        if vectors.shape[-1] != self.origin.numel():
            raise InputError(
                f"point: has D={vectors.shape[-1]}, the plane has D={self.origin.numel()}: pass a point of "
                "the same architecture"
            )
        return vectors.to(self.origin.device).double() - self.origin.double()

    def __repr__(self) -> str:
        return f"Plane(D={self.origin.numel():,})"
