"""The empirical distribution of given weight vectors: MCMC draws, FGE snapshots, separate models."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from swag.diagnostics import Diagnosis, diagnose_points
from swag.errors import InputError
from swag.noise import balanced_uniform, take_seed
from swag.parameters import Layout
from swag.posterior.protocol import check_dense, check_layout, check_n_samples, check_range, check_tensor


@final
class Empirical:
    """Equal mass on each of S given vectors.

    `sample` goes through them in one random permutation after another, so that S samples are all of
    them once, and every prefix is balanced.

    Args:
        samples: (S, D).
        layout: the parameters they belong to.

    >>> sorted(Empirical(torch.tensor([[1.0], [2.0], [3.0]])).sample(3).flatten().tolist())
    [1.0, 2.0, 3.0]
    """

    def __init__(self, samples: Tensor, layout: Layout | None = None) -> None:
        check_tensor("samples", samples, "(S, D)")
        if len(samples) == 0:
            raise InputError("samples: the tensor has no rows; pass at least one, S ≥ 1")
        if not samples.isfinite().all():
            row = int((~samples.isfinite()).nonzero()[0, 0])
            raise InputError(f"samples: row {row} holds NaN or infinite values; leave it out")
        check_layout(layout, samples.shape[1])
        self.samples = samples
        self.layout = layout

    @property
    def atoms(self) -> Tensor:
        """The points of equal mass (S, D)."""
        return self.samples

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return self.samples.mean(0)

    @property
    def variance(self) -> Tensor:
        """(D,), of the empirical distribution: divided by S."""
        return self.samples.var(0, correction=0)

    def covariance_matrix(self) -> Tensor:
        """(D, D), divided by S, for small D."""
        check_dense(self.samples.shape[1])
        centred = self.samples - self.mean
        return centred.T @ centred / len(self.samples)

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n_samples, D); the first m of n do not depend on n."""
        check_n_samples(n_samples)
        chosen = balanced_uniform(n_samples, len(self.samples), take_seed(generator))
        return self.samples[chosen.to(self.samples.device)]

    def sample_range(self, start: int, stop: int, *, generator: torch.Generator | None = None) -> Tensor:
        """`sample(stop)[start:]` (stop − start, D), without the others."""
        check_range(start, stop)
        chosen = balanced_uniform(stop, len(self.samples), take_seed(generator))[start:]
        return self.samples[chosen.to(self.samples.device)]

    def centres(
        self, n_samples: int = 1, *, generator: torch.Generator | None = None
    ) -> tuple[list[Tensor], list[int]]:
        """The points that `sample` draws, each once, and which of them each sample is."""
        check_n_samples(n_samples)
        chosen = balanced_uniform(n_samples, len(self.samples), take_seed(generator))
        used, index = chosen.unique(return_inverse=True)
        return [self.samples[point] for point in used.tolist()], index.tolist()

    def diagnose(self) -> Diagnosis:
        """Autocorrelation in the order of the samples, effective rank, spread by layer, warnings."""
        return diagnose_points(self.samples, self.layout)

    def __repr__(self) -> str:
        return f"Empirical({len(self.samples)} samples, D={self.samples.shape[1]:,})"
