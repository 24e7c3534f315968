"""The SWAG posterior: a Gaussian whose covariance is a diagonal plus a low-rank part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from swag.diagnostics import Diagnosis, diagnose_gaussian
from swag.errors import InputError
from swag.noise import take_seed
from swag.parameters import Layout
from swag.posterior.drawing import Fused, draw
from swag.posterior.protocol import (
    check_dense,
    check_finite,
    check_layout,
    check_n_samples,
    check_range,
    check_scale,
    check_tensor,
    check_vector,
    place,
)

# θ is read in pieces of this many weights when densities are computed in float64.
_CHUNK = 1 << 18


@final
class LowRankGaussian:
    r"""N(mean, diag(cov_diag) + cov_factor cov_factorᵀ) over θ (D,).

    A sample is θ = mean + √cov_diag ⊙ z₁ + cov_factor z₂ with z₁ ~ N(0, I_D) and ONE z₂ ~ N(0, I_K) for
    the whole vector, which is what makes layers move together [Maddox et al. 2019, eq. 1]. `scale` and
    1/√(K−1) are already inside `cov_diag` and `cov_factor`.

    Args:
        mean: (D,).
        cov_diag: (D,), ≥ 0.
        cov_factor: (D, K); K may be 0.
        layout: the parameters θ belongs to.

    Raises:
        InputError: shapes that do not fit, values that are not finite, a negative `cov_diag`.

    >>> posterior = LowRankGaussian(torch.zeros(2), torch.ones(2), torch.tensor([[1.0], [1.0]]))
    >>> posterior.covariance_matrix().tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """

    def __init__(
        self, mean: Tensor, cov_diag: Tensor, cov_factor: Tensor, *, layout: Layout | None = None
    ) -> None:
        check_vector("mean", mean)
        size = mean.numel()
        check_vector("cov_diag", cov_diag, size)
        check_tensor("cov_factor", cov_factor, "(D, K)")
        if cov_factor.shape[0] != size:
            raise InputError(f"cov_factor: got shape {tuple(cov_factor.shape)}, expected (D={size}, K)")
        check_layout(layout, size)
        for name, value in (("mean", mean), ("cov_diag", cov_diag), ("cov_factor", cov_factor)):
            check_finite(name, value, layout)
        if (cov_diag < 0).any():
            where = place(layout, int((cov_diag < 0).nonzero()[0, 0]))
            raise InputError(f"cov_diag: negative at {where}; a variance is ≥ 0")
        self.mean = mean
        self.cov_diag = cov_diag
        self.layout = layout
        # cov_factor = row_scale · rowsᵀ: rows (K, D) as collected, so that bfloat16 rows stay as they are.
        self.rows: Tensor = cov_factor.T
        self.row_scale: float = 1.0
        # What is known of where it comes from: what the collected covariance was multiplied by, and how many
        # snapshots there were (None where nobody said).
        self.scale: float = 1.0
        self.n_collected: int | None = None
        self._fused: Fused | None = None

    @classmethod
    def from_moments(
        cls,
        mean: Tensor,
        variance: Tensor,
        deviations: Tensor,
        *,
        scale: float,
        layout: Layout | None = None,
        n_collected: int | None = None,
    ) -> LowRankGaussian:
        """N(mean, scale·(diag(variance) + D̂D̂ᵀ/(k−1))) with D̂ᵀ = deviations (k, D), k = 0 or at least 2."""
        check_scale(scale)
        k = deviations.shape[0]
        if k == 1:
            raise InputError(
                "deviations: one row has no covariance (it would divide by k−1 = 0); pass two or more"
            )
        row_scale = math.sqrt(scale / (k - 1)) if k else 1.0
        posterior = cls.from_rows(mean, scale * variance, deviations, row_scale=row_scale, layout=layout)
        posterior.scale, posterior.n_collected = scale, n_collected
        return posterior

    @classmethod
    def from_rows(
        cls, mean: Tensor, cov_diag: Tensor, rows: Tensor, *, row_scale: float, layout: Layout | None = None
    ) -> LowRankGaussian:
        """The Gaussian with cov_factor = row_scale·rowsᵀ, rows (K, D) kept as they are (also bfloat16)."""
        if not 0 <= row_scale < float("inf"):
            raise InputError(f"row_scale: got {row_scale!r}; pass a finite number ≥ 0")
        posterior = cls(mean, cov_diag, rows.T, layout=layout)
        posterior.row_scale = row_scale
        return posterior

    def with_scale(self, scale: float) -> LowRankGaussian:
        """The posterior with its covariance multiplied by scale instead of `self.scale`; draws move alike.

        Raises:
            InputError: `self.scale` is 0: nothing is left that could be multiplied.
        """
        check_scale(scale)
        if self.scale == 0:
            raise InputError("scale: this posterior was read out with scale 0, which leaves no covariance")
        factor = scale / self.scale
        return self._like(factor * self.cov_diag, self.rows, math.sqrt(factor) * self.row_scale, scale)

    def truncated(self, rank: int) -> LowRankGaussian:
        r"""What a collector of smaller rank would have given: the last k rows, divided by k − 1.

        Args:
            rank: k, at most K; 0 leaves the diagonal, 1 is no covariance.
        """
        if isinstance(rank, bool) or not isinstance(rank, int) or rank not in {0, *range(2, self.rank + 1)}:
            raise InputError(f"rank: got {rank!r}; pass 0, or 2 to {self.rank}, the rows there are")
        if rank in (0, self.rank):
            return self._like(self.cov_diag, self.rows[self.rank - rank :], self.row_scale, self.scale)
        row_scale = self.row_scale * math.sqrt((self.rank - 1) / (rank - 1))
        return self._like(self.cov_diag, self.rows[self.rank - rank :], row_scale, self.scale)

    def _like(self, cov_diag: Tensor, rows: Tensor, row_scale: float, scale: float) -> LowRankGaussian:
        posterior = type(self).from_rows(self.mean, cov_diag, rows, row_scale=row_scale, layout=self.layout)
        posterior.scale, posterior.n_collected, posterior._fused = scale, self.n_collected, self._fused
        return posterior

    def compiled(self) -> LowRankGaussian:
        """The same posterior, whose draws go through a kernel fused by `torch.compile`.

        Two to three times as fast from some 100,000 weights on, after seconds for compiling at the first
        draw; samples differ from the others by rounding. Where compiling fails draws are the plain ones.
        """
        posterior = self._like(self.cov_diag, self.rows, self.row_scale, self.scale)
        posterior._fused = Fused()
        return posterior

    @property
    def rank(self) -> int:
        """K, the columns of `cov_factor`."""
        return self.rows.shape[0]

    @property
    def cov_factor(self) -> Tensor:
        """F (D, K) with F Fᵀ the low-rank part of the covariance; in the mean's dtype."""
        return self.rows.T.to(self.mean.dtype) * self.row_scale

    @property
    def variance(self) -> Tensor:
        """The marginal variances (D,): cov_diag + Σ_k cov_factor²."""
        total = self.cov_diag.clone()
        for row in self.rows:
            total += (row.to(total.dtype) * self.row_scale).square_()
        return total

    def covariance_matrix(self) -> Tensor:
        """The dense covariance (D, D), for small D."""
        check_dense(self.mean.numel())
        factor = self.cov_factor
        return torch.diag(self.cov_diag) + factor @ factor.T

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n_samples, D), in the mean's dtype and on its device.

        Args:
            n_samples: at least 1.
            generator: gives one seed; None takes it from torch's global generator.
        """
        check_n_samples(n_samples)
        return self._draw(range(n_samples), take_seed(generator))

    def sample_range(self, start: int, stop: int, *, generator: torch.Generator | None = None) -> Tensor:
        """`sample(stop)[start:]` (stop − start, D), at the cost of those alone."""
        check_range(start, stop)
        return self._draw(range(start, stop), take_seed(generator))

    def _draw(self, indices: range, seed: int) -> Tensor:
        return draw(self.mean, self.cov_diag, self.rows, self.row_scale, indices, seed, self._fused)

    def diagnose(self) -> Diagnosis:
        """Autocorrelation of the snapshots, effective rank, shares of variance, spread by layer, warnings."""
        return diagnose_gaussian(
            self.mean, self.cov_diag, self.rows, self.row_scale, self.layout, self.n_collected
        )

    def log_prob(self, theta: Tensor) -> Tensor:
        """log N(θ; mean, covariance) in nats, float64, by the Woodbury identity in O(D K²).

        Args:
            theta: (D,) or (S, D).

        Returns:
            A scalar or (S,).

        Raises:
            InputError: a variance in `cov_diag` is zero (the parameter is named): the density does not exist.
        """
        check_tensor("theta", theta, "(D,)", "(S, D)")
        if theta.shape[-1] != self.mean.numel():
            raise InputError(
                f"theta: got shape {tuple(theta.shape)}, expected (D={self.mean.numel()},) or (S, D)"
            )
        log_det, cholesky = self._log_det_and_capacitance("log_prob")
        rows_theta = theta.reshape(-1, theta.shape[-1])
        quadratic = torch.zeros(len(rows_theta), dtype=torch.float64, device=theta.device)
        projected = torch.zeros(len(rows_theta), self.rank, dtype=torch.float64, device=theta.device)
        for piece, diag, rows in self._pieces():
            residual = rows_theta[:, piece].double() - self.mean[piece].double()
            whitened = residual / diag
            quadratic += (residual * whitened).sum(1)
            projected += whitened @ rows.T
        if self.rank:
            solved = torch.linalg.solve_triangular(cholesky, projected.T, upper=False)
            quadratic -= solved.square().sum(0)
        log_prob = -0.5 * (self.mean.numel() * math.log(2 * math.pi) + log_det + quadratic)
        return log_prob.reshape(theta.shape[:-1])

    def entropy(self) -> Tensor:
        """½·log det(2πe·covariance) in nats, a float64 scalar, by the matrix-determinant lemma.

        Raises:
            InputError: a variance in `cov_diag` is zero (the parameter is named).
        """
        log_det, _ = self._log_det_and_capacitance("entropy")
        return 0.5 * (self.mean.numel() * (1 + math.log(2 * math.pi)) + log_det)

    def _log_det_and_capacitance(self, what: str) -> tuple[Tensor, Tensor]:
        """log det(covariance), and the Cholesky factor of I_K + Fᵀ diag(cov_diag)⁻¹ F."""
        zero = self.cov_diag == 0
        if zero.any():
            raise InputError(
                f"{what}: the variance of {place(self.layout, int(zero.nonzero()[0, 0]))} is zero "
                f"({int(zero.sum()):,} of {zero.numel():,} weights never moved, or scale is 0), so there is "
                "no density; leave such parameters out with select= (sampling works all the same)"
            )
        device = self.mean.device
        log_det = torch.zeros((), dtype=torch.float64, device=device)
        capacitance = torch.eye(self.rank, dtype=torch.float64, device=device)
        for _, diag, rows in self._pieces():
            log_det += diag.log().sum()
            capacitance += (rows / diag) @ rows.T
        cholesky = torch.linalg.cholesky(capacitance)
        return log_det + 2 * cholesky.diagonal().log().sum(), cholesky

    def _pieces(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """θ's pieces with cov_diag and the columns of cov_factorᵀ there, in float64."""
        for start in range(0, self.mean.numel(), _CHUNK):
            at = slice(start, start + _CHUNK)
            yield at, self.cov_diag[at].double(), self.rows[:, at].double() * self.row_scale

    def __repr__(self) -> str:
        return f"LowRankGaussian(D={self.mean.numel():,}, rank={self.rank})"
