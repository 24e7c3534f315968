"""All mass on one weight vector: the SWA solution, or any trained model."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from swag.diagnostics import Diagnosis, diagnose_points
from swag.parameters import Layout, Select
from swag.posterior.protocol import (
    check_dense,
    check_finite,
    check_layout,
    check_n_samples,
    check_range,
    check_vector,
)


@final
class PointMass:
    """δ(θ − mean): every sample is the mean itself.

    Args:
        mean: (D,) weights.
        layout: the parameters they belong to.

    Raises:
        InputError: no vector of floating-point numbers, or values that are not finite.

    >>> PointMass(torch.tensor([1.0, 2.0])).sample(2).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """

    def __init__(self, mean: Tensor, *, layout: Layout | None = None) -> None:
        check_vector("mean", mean)
        check_layout(layout, mean.numel())
        check_finite("mean", mean, layout)
        self.mean = mean
        self.layout = layout

    @classmethod
    def of(cls, model: nn.Module, select: Select = None) -> PointMass:
        """The weights a model has now, in the statistics' dtype: a copy.

        Args:
            model: any module.
            select: which parameters: None for all that require a gradient, a predicate on (name, parameter),
                or a list of names, module names or globs.

        Raises:
            InputError: nothing selected, or weights that are not finite.

        >>> PointMass.of(nn.Linear(3, 1))
        PointMass(D=4)
        """
        layout = Layout.of(model, select)
        return cls(layout.flatten(model), layout=layout)

    @property
    def atoms(self) -> Tensor:
        """The one point (1, D)."""
        return self.mean[None]

    @property
    def variance(self) -> Tensor:
        """Zeros (D,)."""
        return torch.zeros_like(self.mean)

    def covariance_matrix(self) -> Tensor:
        """Zeros (D, D), for small D."""
        check_dense(self.mean.numel())
        return self.mean.new_zeros(self.mean.numel(), self.mean.numel())

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """n_samples copies of the mean (n_samples, D); `generator` is not used."""
        check_n_samples(n_samples)
        return self.mean.repeat(n_samples, 1)

    def sample_range(self, start: int, stop: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Copies of the mean (stop − start, D)."""
        check_range(start, stop)
        return self.mean.repeat(stop - start, 1)

    def diagnose(self) -> Diagnosis:
        """One point: no spread, and no warnings."""
        return diagnose_points(self.atoms, self.layout)

    def __repr__(self) -> str:
        return f"PointMass(D={self.mean.numel():,})"
