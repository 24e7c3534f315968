"""Two ways from control points to a curve: what weight each point has at t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Basis(Protocol):
    """θ(t) = Σ_i c_i(t) w_i, with c(0) = (1, 0, …), c(1) = (…, 0, 1) and Σ_i c_i(t) = 1."""

    def coefficients(self, t: Tensor, n_points: int) -> Tensor:
        """c (T, n_points) at t (T,), both float64."""

    def derivatives(self, t: Tensor, n_points: int) -> Tensor:
        """dc/dt (T, n_points) at t (T,), both float64."""

    def knots(self, n_points: int) -> Tensor:
        """Where dc/dt may jump, both ends included, ascending, float64."""


@final
@dataclass(frozen=True)
class Bezier:
    r"""A Bézier curve of degree n: c_i(t) = C(n, i) (1−t)^(n−i) tⁱ, for n + 1 control points.

    Source: Garipov et al. 2018, arXiv:1802.10026, equation 3.

    >>> Bezier().coefficients(torch.tensor([0.5], dtype=torch.float64), 3).tolist()
    [[0.25, 0.5, 0.25]]
    """

    def coefficients(self, t: Tensor, n_points: int) -> Tensor:
        """c (T, n_points)."""
        degree = n_points - 1
        i = torch.arange(n_points, dtype=torch.float64, device="cpu")
        choose = torch.tensor(
            [math.comb(degree, k) for k in range(n_points)], dtype=torch.float64, device="cpu"
        )
        return choose * (1 - t[:, None]) ** (degree - i) * t[:, None] ** i

    def derivatives(self, t: Tensor, n_points: int) -> Tensor:
        """dc/dt (T, n_points): n times the differences of the coefficients of one degree less."""
        lower = self.coefficients(t, n_points - 1)
        zero = torch.zeros(len(t), 1, dtype=torch.float64, device="cpu")
        return (n_points - 1) * (torch.cat([zero, lower], 1) - torch.cat([lower, zero], 1))

    def knots(self, n_points: int) -> Tensor:
        """The ends: the curve is smooth between them."""
        return torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")


@final
@dataclass(frozen=True)
class PolygonalChain:
    r"""Straight pieces from point to point, equally much of t for each: c_i(t) = max(0, 1 − |n t − i|).

    Source: Garipov et al. 2018, arXiv:1802.10026, equation 2.

    >>> PolygonalChain().coefficients(torch.tensor([0.25, 0.5], dtype=torch.float64), 3).tolist()
    [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]
    """

    def coefficients(self, t: Tensor, n_points: int) -> Tensor:
        """c (T, n_points)."""
        i = torch.arange(n_points, dtype=torch.float64, device="cpu")
        return (1 - (t[:, None] * (n_points - 1) - i).abs()).clamp_min(0)

    def derivatives(self, t: Tensor, n_points: int) -> Tensor:
        """dc/dt (T, n_points); at a corner that of the piece that begins there."""
        pieces = n_points - 1
        piece = (t * pieces).floor().clamp(0, pieces - 1).long()
        slopes = torch.zeros(len(t), n_points, dtype=torch.float64, device="cpu")
        slopes[torch.arange(len(t), device="cpu"), piece] = -float(pieces)
        slopes[torch.arange(len(t), device="cpu"), piece + 1] = float(pieces)
        return slopes

    def knots(self, n_points: int) -> Tensor:
        """The corners."""
        return torch.arange(n_points, dtype=torch.float64, device="cpu") / (n_points - 1)


BASES: dict[str, Basis] = {"bezier": Bezier(), "chain": PolygonalChain()}


def basis_name(basis: Basis) -> str | None:
    """The name under which a file or a state records a basis; None for one of the caller's own."""
    return next((name for name, known in BASES.items() if known == basis), None)
