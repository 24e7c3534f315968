"""Gaussians over z whose parameters can be optimised, for one problem or many."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.subspace.target import Target


@final
class GaussianFamily:
    """Gaussians N(μ, L Lᵀ) of n problems, L = std·diag(d)(I + M); without `full`, M = 0."""

    def __init__(self, start: Tensor, target: Target, first_std: float, *, full: bool) -> None:
        if not 0 < first_std < math.inf:
            raise InputError(f"first_std: got {first_std!r}; pass a positive number")
        n, k = start.shape
        self.std = target.std(n)
        self.mean = (start / self.std).requires_grad_()
        self.log_scale = torch.full_like(start, math.log(first_std)).requires_grad_()
        self.mixing = start.new_zeros(n, k, k).requires_grad_(full)
        self._full = full

    @property
    def parameters(self) -> list[Tensor]:
        """What is optimised."""
        return [self.mean, self.log_scale, *([self.mixing] if self._full else [])]

    def draw(self, n_draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """z (S, n, k) and log q(z) (S, n), whose gradient runs through z alone."""
        n, k = self.mean.shape
        half = torch.randn(-(-n_draws // 2), n, k, generator=generator, dtype=torch.float64, device="cpu").to(
            self.mean
        )
        noise = torch.cat([half, -half])[:n_draws]
        moved = self._mixed(noise, self.mixing)
        u = self.mean + self.log_scale.exp() * moved
        back = (u - self.mean.detach()) / self.log_scale.detach().exp()
        if self._full:
            unit = torch.eye(k, dtype=back.dtype, device=back.device) + self.mixing.detach().tril(-1)
            back = torch.linalg.solve_triangular(
                unit, back.permute(1, 2, 0), upper=False, unitriangular=True
            ).permute(2, 0, 1)
        scale = self.log_scale.detach().double() + self.std.double().log()
        log_q = (-0.5 * back.double().square() - scale - 0.5 * math.log(2 * math.pi)).sum(-1)
        return u * self.std, log_q

    def _mixed(self, noise: Tensor, mixing: Tensor) -> Tensor:
        if not self._full:
            return noise
        return noise + torch.einsum("nij,snj->sni", mixing.tril(-1), noise)

    def factor(self) -> Tensor:
        """L (n, k, k)."""
        unit = torch.eye(self.mean.shape[1], device="cpu").to(self.mean) + self.mixing.tril(-1)
        return (self.std * self.log_scale.exp())[:, :, None] * unit
