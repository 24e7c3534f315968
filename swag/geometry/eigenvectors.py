"""The two leading eigenvectors of a SWAG covariance, without ever forming it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from swag.errors import InputError, StateError
from swag.posterior import LowRankGaussian

# A covariance this much smaller than its largest eigenvalue has one dimension to rounding.
_FLAT = 1e-10


def top_two(posterior: LowRankGaussian) -> tuple[np.ndarray, Tensor]:
    r"""The two largest eigenvalues (2,) of diag(d) + F Fᵀ and their eigenvectors (2, D), largest first.

    Lanczos iteration (ARPACK) on products with the covariance, O(D K) each, in float64. The sign makes the
    entry that is largest in size positive.

    Raises:
        InputError: fewer than two dimensions, or no covariance.
    """
    size = posterior.mean.numel()
    if size < 2:
        raise InputError(f"posterior: has D={size}; a plane needs two dimensions or more")
    diag = posterior.cov_diag.double().cpu().numpy()
    factor = posterior.cov_factor.double().cpu().numpy()
    if posterior.rank == 0:
        places = np.argsort(-diag, kind="stable")[:2]
        values = diag[places]
        axes = np.zeros((2, size))
        axes[[0, 1], places] = 1.0
    else:
        values, vectors = _leading(diag, factor)
        axes = vectors.T * np.sign(vectors[np.abs(vectors).argmax(0), [0, 1]])[:, None]
    if not values[1] > _FLAT * values[0]:
        raise InputError(
            "posterior: its covariance has fewer than two dimensions (scale 0, or too few snapshots), so it "
            "has no plane of its own; collect more, or use Plane.through"
        )
    return values, torch.from_numpy(np.ascontiguousarray(axes)).to(posterior.mean)


def _leading(diag: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = len(diag)
    if size <= 64:
        values, vectors = np.linalg.eigh(np.diag(diag) + factor @ factor.T)
        return values[:-3:-1], vectors[:, :-3:-1]
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    covariance = LinearOperator(
        (size, size), matvec=lambda x: diag * x.ravel() + factor @ (factor.T @ x.ravel()), dtype=np.float64
    )
    # A draw of the covariance to start from: rich in what is looked for. Fixed, so that planes reproduce.
    rng = np.random.default_rng(0)
    start = np.sqrt(diag) * rng.standard_normal(size) + factor @ rng.standard_normal(factor.shape[1])
    if not np.any(start):
        return np.zeros(2), np.zeros((size, 2))
    try:
        values, vectors = eigsh(covariance, k=2, which="LA", v0=start, tol=1e-8)
    except ArpackNoConvergence as error:
        raise StateError(
            "posterior: the leading eigenvectors of its covariance did not converge: its largest eigenvalues "
            "are nearly the same, so it has no plane of its own; use Plane.through"
        ) from error
    order = np.argsort(-values)
    return values[order], vectors[:, order]
