"""The SWAG Gaussian, seen inside a subspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from swag.errors import InputError
from swag.posterior import LowRankGaussian
from swag.subspace.fits import GaussianFit, unknown
from swag.subspace.space import Subspace


@final
@dataclass(frozen=True)
class ProjectedGaussian:
    r"""N(P⁺(μ − ŵ), P⁺ Σ P⁺ᵀ): a Gaussian over the weights, N(μ, Σ), projected onto θ = ŵ + P z.

    It comes from the trajectory alone: no likelihood, no prior and no temperature enter, so `run` takes none.

    Args:
        gaussian: usually `collector.swag()`; its scale is already inside.

    Source: Izmailov et al. 2019, arXiv:1907.07504, section 3.2 ("SWAG" in the subspace).

    >>> import torch
    >>> line = Subspace(torch.zeros(2), torch.tensor([[2.0], [0.0]]))
    >>> gaussian = LowRankGaussian(torch.ones(2), torch.ones(2), torch.ones(2, 1))
    >>> ProjectedGaussian(gaussian).infer(line).covariance
    tensor([[0.5000]])
    """

    gaussian: LowRankGaussian

    def run(self, subspace: Subspace) -> LowRankGaussian:
        """`infer(…).posterior()`: a Gaussian over the weights, inside the subspace."""
        return self.infer(subspace).posterior()

    def infer(self, subspace: Subspace) -> GaussianFit:
        """Projects it.

        Raises:
            InputError: the subspace belongs to another model.
        """
        if not isinstance(subspace, Subspace):
            raise InputError(f"subspace: got a {type(subspace).__name__}; pass a swag.Subspace")
        if self.gaussian.mean.numel() != subspace.size:
            raise InputError(
                f"subspace: has D={subspace.size}, the Gaussian D={self.gaussian.mean.numel()}; take both "
                "from one collector"
            )
        inverse = subspace.inverse
        mean = subspace.project(self.gaussian.mean.double())
        covariance = (inverse * self.gaussian.cov_diag.double()) @ inverse.T
        for row in self.gaussian.rows:
            across = inverse @ (row.double() * self.gaussian.row_scale)
            covariance += torch.outer(across, across)
        # A symmetric root, not Cholesky's: it exists for a covariance without full rank, too.
        squared, directions = torch.linalg.eigh(covariance)
        factor = directions * squared.clamp(min=0).sqrt()
        dtype = subspace.offset.dtype
        none = unknown(mean[0])
        return GaussianFit(
            mean.to(dtype), factor.to(dtype), none, none, none, mean.new_empty(0), "projected SWAG", subspace
        )
