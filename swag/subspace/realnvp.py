"""A RealNVP flow: coupling layers, then a full affine map [Dinh, Sohl-Dickstein & Bengio 2017]."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor


@final
class RealNVP:
    r"""z = std ⊙ A(c_L(… c_1(ε))), ε ~ N(0, I), with A(x) = μ + d ⊙ (x + M x), M strictly lower triangular.

    A coupling c changes the half of x that its mask leaves open: x_b ← x_b ⊙ exp(s(x_a)) + t(x_a), s and t
    from one hidden tanh layer whose last weights start at zero, so that the flow starts as the Gaussian A.

    Args:
        start: μ·std, where the flow starts (k,).
        std: the prior's (k,), the unit of z.
        first_std: d at the start.
        n_couplings: L; with k = 1 there is nothing to couple, and the flow is its affine map.
        hidden: the hidden layer's width.
        generator: for the first weights.
    """

    def __init__(
        self,
        start: Tensor,
        std: Tensor,
        *,
        first_std: float,
        n_couplings: int,
        hidden: int,
        generator: torch.Generator,
    ) -> None:
        k = start.numel()
        self._std = std
        self._mean = (start / std).clone().requires_grad_()
        self._log_scale = torch.full_like(start, math.log(first_std)).requires_grad_()
        self._mixing = start.new_zeros(k, k).requires_grad_()
        self._couplings: list[tuple[Tensor, ...]] = []
        for index in range(n_couplings if k > 1 else 0):
            mask = (torch.arange(k, device=start.device) % 2 == index % 2).to(start)
            first = torch.randn(
                k, hidden, generator=generator, dtype=torch.float64, device="cpu"
            ) / math.sqrt(k)
            parts = [first.to(start), start.new_zeros(hidden)]
            parts += [start.new_zeros(hidden, 2 * k), start.new_zeros(2 * k)]
            self._couplings.append((mask, *(part.requires_grad_() for part in parts)))

    @property
    def affine(self) -> list[Tensor]:
        """The parameters of A."""
        return [self._mean, self._log_scale, self._mixing]

    @property
    def couplings(self) -> list[Tensor]:
        """The parameters of the coupling layers."""
        return [part for _, *parts in self._couplings for part in parts]

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Independent z (n, k) and log q(z) (n,)."""
        return self._moved(self._noise(n, generator))

    def mirrored(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same, for averages: the second half of the base draws mirrors the first."""
        half = self._noise(-(-n // 2), generator)
        return self._moved(torch.cat([half, -half])[:n])

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self._std.numel(), generator=generator, dtype=torch.float64, device="cpu").to(
            self._std
        )

    def _moved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k = self._std.numel()
        log_q = -0.5 * x.square().sum(1) - 0.5 * k * math.log(2 * math.pi)
        for mask, w1, b1, w2, b2 in self._couplings:
            raw, shift = ((x * mask @ w1 + b1).tanh() @ w2 + b2).chunk(2, dim=1)
            # Bounded: a coupling stretches by e² at most, and overflow cannot come from the flow.
            stretch = 2 * torch.tanh(raw / 2) * (1 - mask)
            x = x * stretch.exp() + shift * (1 - mask)
            log_q = log_q - stretch.sum(1)
        x = x + x @ self._mixing.tril(-1).T
        z = self._std * (self._mean + self._log_scale.exp() * x)
        return z, log_q - self._log_scale.sum() - self._std.log().sum()
