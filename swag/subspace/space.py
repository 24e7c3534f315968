"""The affine map between z (k,) and the weights: θ = ŵ + P z."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.noise import NormalSource, key_for, take_seed
from swag.parameters import Layout
from swag.posterior.protocol import check_finite, check_layout, check_tensor, check_vector
from swag.subspace.pca import principal_directions

_log = logging.getLogger(__name__)

# A direction shorter than this share of the longest has no length that float32 could tell from rounding.
_FLAT = 1e-7


@final
class Subspace:
    r"""The points θ = offset + basis z of the weight space, z (k,) [Izmailov et al. 2019, eq. 2].

    A column's length is the unit of its z: with `collector.subspace(k)` one unit is one standard deviation
    of the trajectory along that direction.

    Args:
        offset: ŵ (D,), where z = 0 lies.
        basis: P (D, k), one direction a column; any lengths and angles.
        layout: the parameters θ belongs to.

    Raises:
        InputError: shapes that do not fit, values that are not finite, or k = 0.

    Source: Izmailov et al. 2019, arXiv:1907.07504, section 3.

    >>> plane = Subspace(torch.zeros(3), torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    >>> plane.lift(torch.tensor([1.0, 5.0])).tolist()
    [2.0, 5.0, 0.0]
    >>> plane.project(torch.tensor([2.0, 5.0, 7.0])).tolist()
    [1.0, 5.0]
    """

    def __init__(self, offset: Tensor, basis: Tensor, *, layout: Layout | None = None) -> None:
        check_vector("offset", offset)
        check_tensor("basis", basis, "(D, k)")
        if basis.shape[0] != offset.numel() or basis.shape[1] == 0:
            raise InputError(f"basis: got shape {tuple(basis.shape)}, expected (D={offset.numel()}, k ≥ 1)")
        check_layout(layout, offset.numel())
        check_finite("offset", offset, layout)
        check_finite("basis", basis, layout)
        self.offset = offset.detach()
        self.basis = basis.detach().to(offset)
        self.layout = layout
        self._inverse: Tensor | None = None

    @classmethod
    def from_deviations(
        cls,
        offset: Tensor,
        deviations: Tensor | Sequence[Tensor],
        k: int,
        *,
        layout: Layout | None = None,
    ) -> Subspace:
        r"""PCA: column i is s_i v_i, the i-th singular value and right vector of D̂/√(K−1).

        P Pᵀ is then the best rank-k approximation of SWAG's low-rank covariance D̂ᵀD̂/(K−1), so z ~ N(0, I)
        is that part of SWAG at scale 1.

        Args:
            offset: ŵ (D,), the mean of the trajectory.
            deviations: D̂ (K, D), of any floating dtype, K ≥ 2 (or a list of its rows).
            k: directions to keep, 1 to K.
            layout: the parameters θ belongs to.

        Raises:
            InputError: fewer than two rows, or k larger than the rows present.
        """
        basis, lengths = principal_directions(deviations, k)
        flat = int((lengths <= _FLAT * lengths[0]).sum())
        if flat == k:
            raise InputError(
                "deviations: all rows are zero: the weights never moved while they were collected"
            )
        if flat:
            _log.warning(
                "%d of the %d directions have no length (%d rows span %d directions): z has no effect there",
                flat,
                k,
                len(deviations),
                k - flat,
            )
        return cls(offset, basis.to(offset), layout=layout)

    @classmethod
    def random(
        cls,
        offset: Tensor,
        k: int,
        *,
        norm: float = 1.0,
        layout: Layout | None = None,
        generator: torch.Generator | None = None,
    ) -> Subspace:
        """k orthogonal directions of one length, uniformly distributed over all such frames.

        Args:
            offset: ŵ (D,).
            k: 1 to D.
            norm: every column's length; the mean length of PCA's columns is usual (see `random_twin`).
            layout: the parameters θ belongs to.
            generator: gives one seed; None takes it from torch's global generator.

        Raises:
            InputError: k below 1 or above D, or a norm that is not positive.
        """
        check_vector("offset", offset)
        check_k(k, offset.numel(), "the weights")
        if not 0 < norm < float("inf"):
            raise InputError(f"norm: got {norm!r}; pass a positive length, such as subspace.mean_norm")
        seed, source = take_seed(generator), NormalSource(offset.device)
        # In float32 at least: half precision has no QR, nor the digits for right angles.
        dtype = torch.promote_types(offset.dtype, torch.float32)
        columns = torch.empty(k, offset.numel(), dtype=dtype, device=offset.device)
        for index, column in enumerate(columns):
            source.fill_(column, key=key_for(seed, index))
        frame, upper = torch.linalg.qr(columns.T)
        # QR's signs are a convention; with R's diagonal positive the frame is uniformly distributed.
        return cls(offset, frame * (norm * upper.diagonal().sign()), layout=layout)

    def random_twin(self, *, generator: torch.Generator | None = None) -> Subspace:
        """A random subspace of the same offset and k, its columns as long as this one's on average."""
        return type(self).random(
            self.offset, self.k, norm=self.mean_norm, layout=self.layout, generator=generator
        )

    @classmethod
    def from_curve(cls, curve: Any, *, layout: Layout | None = None) -> Subspace:
        r"""The plane of a trained quadratic curve with the points w₀, w₁, w₂ [Garipov et al. 2018]:

            ŵ = (w₀ + w₁ + w₂)/3,   u = (w₂ − w₀)/√3,   v = ((w₁ − w₀) − its part along u)/1.5

        Args:
            curve: (3, D), or a list of three (D,), or something that has them as `points`: the end points
                first and last, the bend between them.
            layout: the parameters θ belongs to; by default the curve's own, where it has one.

        Raises:
            InputError: no three points, or three on one line.
        """
        points = getattr(curve, "points", curve)
        if isinstance(points, list | tuple) and points and all(isinstance(p, Tensor) for p in points):
            if len({point.shape for point in points}) > 1:
                raise InputError("curve: its points differ in shape; pass three vectors (D,)")
            points = torch.stack(list(points))
        check_tensor("curve", points, "(3, D)")
        if len(points) != 3:
            raise InputError(f"curve: got {len(points)} points; pass w₀, w₁, w₂: both ends and one bend")
        w0, w1, w2 = points.detach()
        u, v = (w2 - w0).double(), (w1 - w0).double()
        if not float(u.norm()) > 0:
            raise InputError("curve: its end points coincide; pass a curve between two solutions")
        across = v - u * (v @ u) / (u @ u)
        if float(across.norm()) <= _FLAT * float(v.norm()) or float(v.norm()) == 0:
            raise InputError("curve: its three points lie on one line; train the curve, or use PCA")
        basis = torch.stack([u / 3**0.5, across / 1.5], dim=1)
        if layout is None and not isinstance(curve, Tensor | list | tuple):
            layout = getattr(curve, "layout", None)
        return cls(points.mean(0), basis.to(points), layout=layout)

    @property
    def k(self) -> int:
        """The dimension of z."""
        return self.basis.shape[1]

    @property
    def size(self) -> int:
        """D, the dimension of θ."""
        return self.basis.shape[0]

    @property
    def norms(self) -> Tensor:
        """The columns' lengths (k,)."""
        return self.basis.norm(dim=0)

    @property
    def mean_norm(self) -> float:
        """The columns' mean length, which a random subspace takes over."""
        return float(self.norms.mean())

    def lift(self, z: Tensor) -> Tensor:
        """θ = ŵ + P z, in the offset's dtype; differentiable in z.

        Args:
            z: (k,) or (…, k), of any floating dtype.

        Returns:
            (D,) or (…, D).
        """
        self._check("z", z, self.k)
        return self.offset + z.to(self.basis) @ self.basis.T

    def project(self, theta: Tensor) -> Tensor:
        """The z whose point is nearest to θ: argmin ‖ŵ + P z − θ‖, the shortest z where several are.

        Args:
            theta: (D,) or (…, D).

        Returns:
            (k,) or (…, k), in θ's dtype (of whole numbers, the offset's), where θ is; `project(lift(z))` is
            z where the columns are independent.
        """
        self._check("theta", theta, self.size)
        # In float64 before the difference is taken: weights move little beside their size.
        moved = theta.double() - self.offset.to(theta.device).double()
        dtype = theta.dtype if theta.is_floating_point() else self.offset.dtype
        return (moved @ self.inverse.T.to(moved.device)).to(dtype)

    @property
    def inverse(self) -> Tensor:
        """P⁺ (k, D), the pseudo-inverse, in float64; directions without length get zeros."""
        if self._inverse is None:
            basis = self.basis.double()
            lengths = basis.norm(dim=0)
            unit = lengths.where(lengths > _FLAT * lengths.max(), torch.inf)
            # Unit columns first: PCA's lengths may differ by orders of magnitude, its angles do not.
            scaled = basis / unit
            gram = torch.linalg.pinv(scaled.T @ scaled, rtol=1e-10, hermitian=True)
            self._inverse = (gram @ scaled.T) / unit[:, None]
        return self._inverse

    def _check(self, name: str, value: Tensor, last: int) -> None:
        if not isinstance(value, Tensor) or value.ndim < 1 or value.shape[-1] != last:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name}: got {came}; pass a tensor whose last dimension is {last}")

    def __repr__(self) -> str:
        return f"Subspace(D={self.size:,}, k={self.k})"


def check_k(k: int, most: int, of: str) -> None:
    """Raises InputError where k is not between 1 and `most`."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise InputError(f"k: got {k!r}, and {of} allow 1 to {most}; pass a smaller number of directions")
