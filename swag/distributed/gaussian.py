"""The SWAG posterior of a model that is divided over ranks: each holds, and draws, its own part of θ."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from swag.distributed.saving import save_whole
from swag.distributed.shards import Shards
from swag.errors import InputError, StateError
from swag.parameters import Layout
from swag.posterior import LowRankGaussian
from swag.posterior.drawing import draw
from swag.posterior.protocol import check_n_samples, check_range, check_tensor

# Weights taken to float64 at a time.
_CHUNK = 1 << 18


@final
class ShardedGaussian:
    r"""N(mean, diag(cov_diag) + cov_factor cov_factorᵀ) over θ (D,), of which each rank holds its part.

    A sample is θ = mean + √cov_diag ⊙ z₁ + cov_factor z₂. z₂ (K,) is the same on every rank, which is what
    makes layers on different ranks move together; z₁ is a function of seed, sample and GLOBAL position. So
    any number of ranks, and a `LowRankGaussian` of the whole, draw the same samples, up to the rounding of
    a matrix product: a few units in the last place of |mean| + standard deviation.

    Args:
        local: this rank's part.
        shards: where it belongs.
    """

    def __init__(self, local: LowRankGaussian, shards: Shards) -> None:
        self.local = local
        self.shards = shards

    @property
    def layout(self) -> Layout:
        """This rank's shapes, by parameter name."""
        return self.shards.local

    @property
    def mean(self) -> Tensor:
        """This rank's part of the mean (D_local,)."""
        return self.local.mean

    @property
    def cov_diag(self) -> Tensor:
        """This rank's part of the diagonal (D_local,)."""
        return self.local.cov_diag

    @property
    def cov_factor(self) -> Tensor:
        """This rank's rows of F (D_local, K)."""
        return self.local.cov_factor

    @property
    def variance(self) -> Tensor:
        """This rank's marginal variances (D_local,)."""
        return self.local.variance

    @property
    def rank(self) -> int:
        """K, the columns of `cov_factor`."""
        return self.local.rank

    def with_scale(self, scale: float) -> ShardedGaussian:
        """The posterior with its covariance multiplied by scale instead of its own; draws move alike."""
        return ShardedGaussian(self.local.with_scale(scale), self.shards)

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws this rank's part of n samples (n_samples, D_local). Collective: 8 bytes, the seed.

        Args:
            n_samples: at least 1.
            generator: gives one seed; None takes it from torch's global generator. Every rank's generator
                moves on, and rank 0's seed is used by all: z₂ cannot come apart.
        """
        check_n_samples(n_samples)
        return self._draw(range(n_samples), generator)

    def sample_range(self, start: int, stop: int, *, generator: torch.Generator | None = None) -> Tensor:
        """`sample(stop)[start:]` (stop − start, D_local), at the cost of those alone."""
        check_range(start, stop)
        return self._draw(range(start, stop), generator)

    def _draw(self, indices: range, generator: torch.Generator | None) -> Tensor:
        seed, own = self.shards.ranks.seed(generator), self.local
        return draw(own.mean, own.cov_diag, own.rows, own.row_scale, indices, seed, None, self.shards.runs)

    def log_prob(self, theta: Tensor) -> Tensor:
        """log N(θ; mean, covariance) in nats, float64, the same on all ranks. Collective: K² + S·K numbers.

        Args:
            theta: this rank's part, (D_local,) or (S, D_local).

        Returns:
            A scalar or (S,).

        Raises:
            InputError: a variance in `cov_diag`, on any rank, is zero: the density does not exist.
        """
        check_tensor("theta", theta, "(D,)", "(S, D)")
        self.shards.local.check_theta(theta)
        points = theta.reshape(-1, theta.shape[-1])
        log_det, cholesky, quadratic, projected = self._sums(points, "log_prob")
        if self.rank:
            solved = torch.linalg.solve_triangular(cholesky, projected.T, upper=False)
            quadratic = quadratic - solved.square().sum(0)
        size = self.shards.layout.size
        return (-0.5 * (size * math.log(2 * math.pi) + log_det + quadratic)).reshape(theta.shape[:-1])

    def entropy(self) -> Tensor:
        """½·log det(2πe·covariance) in nats, a float64 scalar, the same on all ranks. Collective: K² numbers.

        Raises:
            InputError: a variance in `cov_diag`, on any rank, is zero.
        """
        log_det, *_ = self._sums(self.mean.new_empty(0, self.mean.numel()), "entropy")
        return 0.5 * (self.shards.layout.size * (1 + math.log(2 * math.pi)) + log_det)

    def _sums(self, points: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log det(cov), the Cholesky factor of I + Fᵀ diag⁻¹ F, and for each point rᵀdiag⁻¹r and Fᵀdiag⁻¹r.

        Each rank adds up over the weights that count for it; one collective adds the sums.
        """
        own, n, k = self.local, len(points), self.rank
        sums = torch.zeros(3 + n + n * k + k * k, dtype=torch.float64, device=self.mean.device)
        counted, zeros, log_det, quadratic, projected, capacitance = sums.split([1, 1, 1, n, n * k, k * k])
        for run in self.shards.counted:
            for start in range(run.start, run.stop, _CHUNK):
                at = slice(start, min(start + _CHUNK, run.stop))
                diag, rows = own.cov_diag[at].double(), own.rows[:, at].double() * own.row_scale
                residual = points[:, at].double() - own.mean[at].double()
                whitened = residual / diag
                counted += at.stop - at.start
                zeros += (diag == 0).sum()
                log_det += diag.log().sum()
                quadratic += (residual * whitened).sum(1)
                projected.view(n, k).add_(whitened @ rows.T)
                capacitance.view(k, k).add_((rows / diag) @ rows.T)
        self.shards.ranks.sum_(sums)
        size = self.shards.layout.size
        if int(counted) != size:
            raise StateError(
                f"{what}: the ranks count {int(counted):,} weights and the model has {size:,}; pass group= "
                "the processes of one copy of the model at construction"
            )
        if int(zeros):
            raise InputError(
                f"{what}: {int(zeros):,} of {size:,} variances are zero (those weights never moved, or scale "
                "is 0), so there is no density; leave such parameters out with select= (sampling works)"
            )
        eye = torch.eye(k, dtype=torch.float64, device=sums.device)
        cholesky = torch.linalg.cholesky(eye + capacitance.view(k, k))
        total = log_det.squeeze() + 2 * cholesky.diagonal().log().sum()
        return total, cholesky, quadratic, projected.view(n, k)

    __swag_save__ = save_whole

    def __repr__(self) -> str:
        size, here = self.shards.layout.size, self.mean.numel()
        return f"ShardedGaussian(D={size:,}, {here:,} of them here, rank={self.rank})"
