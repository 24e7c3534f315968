"""One chain of elliptical slice sampling for a function of one z."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from swag.arguments import whole
from swag.errors import InputError
from swag.noise import take_seed
from swag.subspace.calls import OneByOne, scalar, shape_of_z
from swag.subspace.recorder import Recorder, refuse_start, refuse_stuck
from swag.subspace.space import Subspace
from swag.subspace.target import check_values, checked_std

# Each miss shrinks the bracket by a random factor, a half or so: after these it is below any rounding.
_MOST_SHRINKS = 120


def elliptical_slice(
    log_likelihood: Callable[[Tensor], Any],
    prior_std: float | Tensor,
    n_samples: int,
    *,
    z0: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""One chain of p(z) p(D|z), p(z) = N(0, prior_std² I), by elliptical slice sampling.

    With ν ~ p(z) and the height log y = log p(D|z) + log u, u ~ U(0, 1), the next point lies on the ellipse
    z cos φ + ν sin φ: φ ~ U(0, 2π), the bracket shrinking towards φ = 0 until log p(D|z′) > log y.

    Args:
        log_likelihood: z (k,) → a scalar, log p(D|z) without the prior; −inf for impossible points. For a
            tempered one divide it by T, or use `EllipticalSlice`.
        prior_std: the prior's standard deviation (not its variance): a number or (k,).
        n_samples: transitions; each gives a row, so the burn-in is yours to leave out.
        z0: where to start (k,); None starts at zeros, and k is then that of a `LogLikelihood`, prior_std's
            length or, for a number, the only length of z that log_likelihood accepts (it is called with zeros
            to see).
        generator: gives one seed; None takes it from torch's global generator.

    Returns:
        (n_samples, k), in z0's dtype.

    Raises:
        DensityError: NaN or +∞ (names z and step; the samples before it are in its `chain`), or a chain that
            never moves.
        InputError: other bad arguments.

    Source: Murray, Adams & MacKay 2010, arXiv:1001.0175, figure 2.

    >>> g = torch.Generator().manual_seed(0)
    >>> start = torch.zeros(2)
    >>> z = elliptical_slice(lambda z: -0.5 * (z - 1).square().sum(), 1.0, 2000, z0=start, generator=g)
    >>> z.shape, bool((z.mean(0) - 0.5).abs().max() < 0.1)
    (torch.Size([2000, 2]), True)
    """
    n_samples = whole("n_samples", n_samples, 1)
    if not callable(log_likelihood):
        raise InputError(
            f"log_likelihood: got a {type(log_likelihood).__name__}; pass a function of z (k,) → a scalar"
        )
    if z0 is not None and (not isinstance(z0, Tensor) or z0.ndim != 1):
        raise InputError(f"z0: got {z0!r}; pass a tensor (k,)")
    space = getattr(log_likelihood, "subspace", None)
    if z0 is None and isinstance(space, Subspace):
        z0 = torch.zeros(space.k, device=space.offset.device)
    k, dtype, device = shape_of_z(OneByOne(log_likelihood), prior_std, z0)
    std = checked_std(prior_std, dtype, device).expand(k)
    if z0 is not None and not bool(z0.isfinite().all()):
        raise InputError("z0: holds NaN or infinite values; start at a finite point, such as zeros")
    own = torch.Generator().manual_seed(take_seed(generator))
    z = torch.zeros(k, dtype=dtype, device=device) if z0 is None else z0.detach().clone()
    rows = torch.empty(n_samples, k, dtype=dtype, device=device)

    def value_at(point: Tensor, step: int) -> float:
        # A copy, for functions that write into what they are given: the chain is not theirs.
        value = float(scalar(log_likelihood(point.clone()), point))
        if not value < math.inf:
            check_values(
                torch.tensor([value], device="cpu"), point[None], step, lambda _: rows[:step].clone()
            )
        return value

    with torch.no_grad():
        height = value_at(z, 0)
        if height == -math.inf:
            refuse_start(z, None)
        still = 0
        for step in range(n_samples):
            nu = torch.randn(k, generator=own, dtype=dtype, device="cpu").to(device) * std
            u, turn = torch.rand(2, generator=own, dtype=torch.float64, device="cpu").tolist()
            threshold = height + math.log(max(u, 1e-300))
            angle = 2 * math.pi * turn
            low, high = angle - 2 * math.pi, angle
            for _ in range(_MOST_SHRINKS):
                proposal = z * math.cos(angle) + nu * math.sin(angle)
                value = value_at(proposal, step)
                if value > threshold:
                    break
                low, high = (angle, high) if angle < 0 else (low, angle)
                angle = low + (high - low) * float(
                    torch.rand((), generator=own, dtype=torch.float64, device="cpu")
                )
            else:
                refuse_stuck("elliptical slice sampler", z, step, rows[:step].clone())
            still = still + 1 if bool((proposal == z).all()) else 0
            if still >= Recorder.PATIENCE:
                refuse_stuck("elliptical slice sampler", z, step, rows[:step].clone())
            z, height = proposal, value
            rows[step] = z
    return rows
