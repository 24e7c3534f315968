"""The log-density on a grid over two coordinates of z: what a picture of the posterior shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from swag.arguments import whole
from swag.errors import InputError
from swag.progress import track
from swag.subspace.space import Subspace
from swag.subspace.target import subspace_of, target_of

_ROWS = 256


@final
@dataclass(frozen=True)
class Plane:
    """log p(z) + log p(D|z)/T where two coordinates run over a grid.

    Attributes:
        axes: which coordinates.
        x: values of the first (m,).
        y: values of the second (m,).
        log_density: (m, m), row i at y[i], column j at x[j].
        z: the point (k,) whose other coordinates are held.
    """

    axes: tuple[int, int]
    x: Tensor
    y: Tensor
    log_density: Tensor
    z: Tensor


@torch.no_grad()
def evaluate_plane(
    log_likelihood: Any,
    *,
    prior_std: float | Tensor,
    temperature: float = 1.0,
    axes: tuple[int, int] = (0, 1),
    span: float | tuple[float, float, float, float] = 3.0,
    n_points: int = 40,
    z: Tensor | None = None,
    subspace: Subspace | None = None,
) -> Plane:
    """Evaluates a grid of n_points × n_points.

    Args:
        log_likelihood: as for the samplers.
        prior_std: the prior's standard deviation.
        temperature: T.
        axes: two coordinates of z.
        span: half the side of a square around z, in units of z, or (left, right, bottom, top).
        n_points: a side.
        z: (k,), the others' values and the middle; zeros where None.
        subspace: where z lives; by default the log-likelihood's own.

    Raises:
        InputError: axes that z has not, or a span that is empty.
    """
    n_points = whole("n_points", n_points, 2)
    space = subspace_of(log_likelihood, subspace)
    target = target_of(log_likelihood, prior_std, temperature, space, z)
    centre = (
        torch.zeros(target.k, dtype=target.dtype, device="cpu") if z is None else z.detach().to(target.dtype)
    )
    i, j = axes
    if i == j or not {i, j} <= set(range(target.k)):
        raise InputError(f"axes: got {axes}; pass two of 0 to {target.k - 1}")
    if isinstance(span, tuple):
        left, right, bottom, top = span
    else:
        left, right = float(centre[i]) - span, float(centre[i]) + span
        bottom, top = float(centre[j]) - span, float(centre[j]) + span
    if not (left < right and bottom < top):
        raise InputError(f"span: got {span!r}; pass a positive number, or left < right and bottom < top")
    x = torch.linspace(left, right, n_points, dtype=target.dtype, device="cpu")
    y = torch.linspace(bottom, top, n_points, dtype=target.dtype, device="cpu")
    points = centre.repeat(n_points * n_points, 1)
    points[:, i], points[:, j] = x.repeat(n_points), y.repeat_interleave(n_points)
    points = points.to(target.device)
    rows = [target(points[at : at + _ROWS]) for at in track(range(0, len(points), _ROWS), "plane")]
    return Plane((i, j), x, y, torch.cat(rows).view(n_points, n_points).cpu(), centre)
