"""A mixture of posteriors: MultiSWA, MultiSWAG, deep ensembles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import final

import torch
from torch import Tensor

from swag.diagnostics import Diagnosis, diagnose_mixture
from swag.errors import InputError
from swag.noise import balanced_uniform, balanced_weighted, split_seeds, take_seed
from swag.parameters import Layout
from swag.posterior.protocol import (
    Posterior,
    centres,
    check_dense,
    check_n_samples,
    check_range,
    sample_range,
)

_WEIGHT_TOLERANCE = 1e-6


@final
class Mixture:
    r"""Σ_m w_m p_m(θ) [MultiSWAG: Wilson & Izmailov 2020, arXiv:2002.08791].

    Components are assigned by a seeded low-discrepancy sequence, so every prefix of the samples is
    balanced: with uniform weights each block of M samples holds every component once. A mixture of point
    masses with uniform weights is a deep ensemble (or MultiSWA).

    Args:
        posteriors: M ≥ 1 posteriors of one layout.
        weights: (M,) ≥ 0 with sum 1; None for uniform.

    Raises:
        InputError: no posterior, differing layouts, weights that are negative or do not sum to 1.

    >>> from swag.posterior import PointMass
    >>> mixture = Mixture([PointMass(torch.zeros(1)), PointMass(torch.ones(1))])
    >>> mixture.mean.item(), mixture.variance.item()
    (0.5, 0.25)
    """

    def __init__(
        self, posteriors: Sequence[Posterior], weights: Sequence[float] | Tensor | None = None
    ) -> None:
        if not isinstance(posteriors, Sequence):
            raise InputError(f"posteriors: got a {type(posteriors).__name__}; pass a list of posteriors")
        if len(posteriors) == 0:
            raise InputError("posteriors: the list is empty; pass at least one posterior")
        for index, posterior in enumerate(posteriors):
            if not hasattr(posterior, "sample"):
                raise InputError(
                    f"posteriors: number {index} is a {type(posterior).__name__}, which cannot be sampled; "
                    "pass posteriors, such as collector.swag()"
                )
            # Ranks would choose components by seeds of their own, and wait for each other in different ones.
            if hasattr(posterior, "shards"):
                raise InputError(
                    f"posteriors: number {index} is divided over ranks; predict with each and merge the "
                    "predictives, or swag.save it on every rank and mix what swag.load reads"
                )
        self.posteriors: tuple[Posterior, ...] = tuple(posteriors)
        # Components without a layout fit any; the others are compared with the first that has one.
        first = next((p for p in self.posteriors if p.layout is not None), self.posteriors[0])
        for index, posterior in enumerate(self.posteriors):
            _check_same(first, posterior, index)
        self.layout: Layout | None = first.layout
        self.weights = _checked_weights(weights, len(self.posteriors))

    @property
    def is_uniform(self) -> bool:
        """Whether all the components weigh the same."""
        return bool((self.weights == self.weights[0]).all())

    @property
    def atoms(self) -> Tensor | None:
        """The points of equal mass (A, D) where the mixture is such; None otherwise."""
        parts = [getattr(posterior, "atoms", None) for posterior in self.posteriors]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or len({len(part) for part in known}) != 1 or not self.is_uniform:
            return None
        return torch.cat(known)

    @property
    def mean(self) -> Tensor:
        """Σ w_m μ_m (D,)."""
        return sum((w * p.mean for w, p in self._weighted()), torch.zeros_like(self.posteriors[0].mean))

    @property
    def variance(self) -> Tensor:
        """The marginal variances (D,) by the law of total variance: Σ w_m (v_m + (μ_m − μ)²)."""
        mean = self.mean
        parts = (w * (p.variance + (p.mean - mean).square()) for w, p in self._weighted())  # type: ignore[attr-defined]
        return sum(parts, torch.zeros_like(mean))

    def covariance_matrix(self) -> Tensor:
        """Σ w_m (C_m + (μ_m − μ)(μ_m − μ)ᵀ) (D, D), for small D."""
        mean = self.mean
        check_dense(mean.numel())
        total = mean.new_zeros(mean.numel(), mean.numel())
        for w, p in self._weighted():
            shift = p.mean - mean
            total += w * (p.covariance_matrix() + torch.outer(shift, shift))  # type: ignore[attr-defined]
        return total

    def components(self, n_samples: int, *, seed: int) -> Tensor:
        """Which component each of n samples comes from (n_samples,), for a seed as `sample` takes it."""
        if self.is_uniform:
            return balanced_uniform(n_samples, len(self.posteriors), seed)
        return balanced_weighted(n_samples, self.weights, seed)

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n_samples, D); the first m of n do not depend on n."""
        check_n_samples(n_samples)
        return self.sample_range(0, n_samples, generator=generator)

    def sample_range(self, start: int, stop: int, *, generator: torch.Generator | None = None) -> Tensor:
        """`sample(stop)[start:]` (stop − start, D), at the cost of those alone."""
        check_range(start, stop)
        seed, *own = split_seeds(take_seed(generator), 1 + len(self.posteriors))
        chosen = self.components(stop, seed=seed)
        first = self.posteriors[0].mean
        theta = torch.empty(stop - start, first.numel(), dtype=self._dtype, device=first.device)
        for m, posterior in enumerate(self.posteriors):
            before = int((chosen[:start] == m).sum())
            at = (chosen[start:] == m).nonzero().flatten()
            if len(at):
                source = torch.Generator().manual_seed(own[m])
                drawn = sample_range(posterior, before, before + len(at), generator=source)
                theta[at.to(theta.device)] = drawn.to(theta)
        return theta

    def centres(
        self, n_samples: int = 1, *, generator: torch.Generator | None = None
    ) -> tuple[list[Tensor], list[int]]:
        """The centres of the components that `sample` draws from (of nested ones, theirs), each sample's."""
        check_n_samples(n_samples)
        seed, *own = split_seeds(take_seed(generator), 1 + len(self.posteriors))
        chosen = self.components(n_samples, seed=seed)
        found: list[Tensor] = []
        centre_of = [0] * n_samples
        for m, posterior in enumerate(self.posteriors):
            at = (chosen == m).nonzero().flatten().tolist()
            if at:
                points, point_of = centres(
                    posterior, len(at), generator=torch.Generator().manual_seed(own[m])
                )
                for index, point in zip(at, point_of, strict=True):
                    centre_of[index] = len(found) + point
                found += points
        return found, centre_of

    def diagnose(self) -> Diagnosis:
        """The components' diagnoses, and the share of the variance that lies between them.

        Raises:
            InputError: a component cannot be diagnosed.
        """
        for posterior in self.posteriors:
            if not hasattr(posterior, "diagnose") or not hasattr(posterior, "variance"):
                raise InputError(f"diagnose: the component {posterior!r} cannot be diagnosed")
        return diagnose_mixture(
            [posterior.diagnose() for posterior in self.posteriors],  # type: ignore[attr-defined]
            self.weights.tolist(),
            [posterior.mean for posterior in self.posteriors],
            [float(p.variance.sum(dtype=torch.float64)) for p in self.posteriors],  # type: ignore[attr-defined]
        )

    def log_prob(self, theta: Tensor) -> Tensor:
        """log Σ w_m p_m(θ) in nats by log-sum-exp; θ (D,) or (S, D).

        Raises:
            InputError: a component has no density.
        """
        terms = []
        for weight, posterior in zip(self.weights.tolist(), self.posteriors, strict=True):
            if weight == 0:
                continue
            if not hasattr(posterior, "log_prob"):
                raise InputError(f"log_prob: the component {posterior!r} has no density; only Gaussians have")
            log_prob = posterior.log_prob(theta)
            terms.append(log_prob + math.log(weight))
        return torch.stack(terms).logsumexp(0)

    @property
    def _dtype(self) -> torch.dtype:
        """The widest of the components' dtypes."""
        return reduce(torch.promote_types, (posterior.mean.dtype for posterior in self.posteriors))

    def _weighted(self) -> list[tuple[float, Posterior]]:
        return list(zip(self.weights.tolist(), self.posteriors, strict=True))

    def __repr__(self) -> str:
        return f"Mixture({len(self.posteriors)} components, D={self.posteriors[0].mean.numel():,})"


def _check_same(first: Posterior, other: Posterior, index: int) -> None:
    if first.mean.shape != other.mean.shape:
        raise InputError(
            f"posteriors: number {index} has D={other.mean.numel()}, another D={first.mean.numel()}; "
            "a mixture's components share one architecture"
        )
    if first.layout is not None and other.layout is not None:
        difference = first.layout.first_difference(other.layout)
        if difference is not None:
            raise InputError(
                f"posteriors: number {index} belongs to another model than those before it ({difference}); "
                "a mixture's components share one architecture"
            )


def _checked_weights(weights: Sequence[float] | Tensor | None, n: int) -> Tensor:
    if weights is None:
        return torch.full((n,), 1.0 / n, dtype=torch.float64, device="cpu")
    checked = torch.as_tensor(weights, dtype=torch.float64, device="cpu").detach()
    if checked.shape != (n,):
        raise InputError(
            f"weights: got shape {tuple(checked.shape)} for {n} posteriors; pass one weight each"
        )
    if not (checked >= 0).all() or abs(float(checked.sum()) - 1) > _WEIGHT_TOLERANCE:
        raise InputError(
            f"weights: got {checked.tolist()} with sum {float(checked.sum()):.6g}; they must be ≥ 0 and "
            "sum to 1"
        )
    # Weights that sum to 1 up to rounding stay bit for bit: once saved and loaded, they choose the same.
    total = float(checked.sum())
    return checked.clone() if abs(total - 1) < 1e-12 else checked / total
