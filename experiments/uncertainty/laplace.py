"""Laplace's approximation of the last layer: full, Kronecker-factored and diagonal GGN.

Written out here, in the few lines that a linear layer takes: with features φ (a 1 appended for the bias) and
probabilities p the Hessian of Σ_n −log p(y_n) is exactly its generalised Gauss–Newton matrix

    H = Σ_n (diag p_n − p_n p_nᵀ) ⊗ φ_n φ_nᵀ          (C·F, C·F), order: class by class
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Curvature(Protocol):
    """H in a form that can be inverted for every prior precision τ."""

    def sample(self, precision: float, noise: Tensor) -> Tensor:
        """Deviations (S, C, F) with covariance (H + τI)⁻¹, from standard normal noise (S, C, F)."""


@dataclass(frozen=True)
class Full:
    """H = V diag(λ) Vᵀ."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, features: Tensor, probs: Tensor) -> Full:
        n_classes, width = probs.shape[1], features.shape[1]
        blocks = probs.new_empty(n_classes, width, n_classes, width)
        for i in range(n_classes):
            for j in range(i + 1):
                weight = probs[:, i] * (float(i == j) - probs[:, j])
                block = (features * weight[:, None]).T @ features
                blocks[i, :, j], blocks[j, :, i] = block, block.T
        values, vectors = torch.linalg.eigh(blocks.reshape(n_classes * width, -1))
        return cls(values.clamp(min=0), vectors)

    def sample(self, precision: float, noise: Tensor) -> Tensor:
        scaled = noise.flatten(1) / (self.values + precision).sqrt()
        return (scaled @ self.vectors.T).view(noise.shape)


@dataclass(frozen=True)
class Kronecker:
    """H ≈ N·(mean of diag p − p pᵀ) ⊗ (mean of φ φᵀ), τ added to the products of the eigenvalues."""

    outer: tuple[Tensor, Tensor]
    inner: tuple[Tensor, Tensor]
    n: int

    @classmethod
    def of(cls, features: Tensor, probs: Tensor) -> Kronecker:
        n = len(probs)
        outer = torch.diag(probs.mean(0)) - probs.T @ probs / n
        inner = features.T @ features / n
        return cls(tuple(torch.linalg.eigh(outer)), tuple(torch.linalg.eigh(inner)), n)

    def sample(self, precision: float, noise: Tensor) -> Tensor:
        products = self.n * self.outer[0].clamp(min=0)[:, None] * self.inner[0].clamp(min=0)
        scaled = noise / (products + precision).sqrt()
        return torch.einsum("ci,sij,fj->scf", self.outer[1], scaled, self.inner[1])


@dataclass(frozen=True)
class Diagonal:
    """The diagonal of H alone."""

    values: Tensor

    @classmethod
    def of(cls, features: Tensor, probs: Tensor) -> Diagonal:
        return cls((probs * (1 - probs)).T @ features.square())

    def sample(self, precision: float, noise: Tensor) -> Tensor:
        return noise / (self.values + precision).sqrt()


CURVATURES: dict[str, type[Full] | type[Kronecker] | type[Diagonal]] = {
    "full": Full,
    "KFAC": Kronecker,
    "diagonal": Diagonal,
}


def with_one(features: Tensor) -> Tensor:
    """Features (N, F) with a 1 for the bias (N, F + 1), in float64."""
    return torch.cat([features, features.new_ones(len(features), 1)], 1).double()


def sampled_logits(
    weight: Tensor, curvature: Curvature, precision: float, features: Tensor, n_samples: int, seed: int
) -> Tensor:
    """Logits (S, N, C) of features (N, F) under samples of the last layer (C, F), the same for all rows."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_samples, *weight.shape, dtype=weight.dtype, generator=generator).to(weight.device)
    return torch.einsum("nf,scf->snc", features, weight + curvature.sample(precision, noise))
