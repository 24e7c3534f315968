"""Gaussian variational inference: the Gaussian over z with the highest evidence lower bound.

Long for its documentation: two families, each for one problem and for many, over one loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from swag.arguments import whole
from swag.errors import InputError
from swag.noise import take_seed
from swag.subspace.climb import climb, reached
from swag.subspace.fits import GaussianFit, unknown
from swag.subspace.gaussian_family import GaussianFamily
from swag.subspace.method import run
from swag.subspace.space import Subspace
from swag.subspace.target import (
    Target,
    check_values,
    stack_target,
    start_of,
    subspace_of,
    target_of,
)


def mean_field_batch(
    log_likelihood: Callable[[Tensor], Tensor],
    prior_std: float | Tensor,
    *,
    z0: Tensor,
    temperature: float | Tensor = 1.0,
    n_steps: int = 1000,
    n_draws: int = 4,
    lr: float = 0.1,
    first_std: float = 0.1,
    n_elbo: int = 64,
    generator: torch.Generator | None = None,
) -> GaussianFit:
    """Mean-field Gaussian VI of n independent problems at once, such as the splits of a data set.

    Args:
        log_likelihood: z (n, k) → (n,), differentiable; row i is always problem i. Called once a draw.
        prior_std: a number, (k,), (n, 1) or (n, k).
        z0: the means to start at (n, k).
        temperature: T, a number or (n,).
        n_steps: of Adam.
        n_draws: a step; even, half of them mirroring the others.
        lr: Adam's first rate, in units of the prior's standard deviation.
        first_std: the standard deviations to start at, in the same units.
        n_elbo: draws for the final ELBO.
        generator: gives one seed; None takes it from torch's global generator.

    Returns:
        A fit with mean (n, k), factor (n, k, k) and elbo (n,).
    """
    n, target = stack_target(log_likelihood, prior_std, temperature, z0)
    family = GaussianFamily(start_of(z0, n, target), target, first_std, full=False)
    setting = _Setting(n_steps, n_draws, lr, n_elbo)
    return _fit(family, target, _each_draw_apart(target), setting, generator, "mean-field VI")


def full_covariance_batch(
    log_likelihood: Callable[[Tensor], Tensor],
    prior_std: float | Tensor,
    *,
    z0: Tensor,
    temperature: float | Tensor = 1.0,
    n_steps: int = 1000,
    n_draws: int = 4,
    lr: float = 0.1,
    first_std: float = 0.1,
    n_elbo: int = 64,
    generator: torch.Generator | None = None,
) -> GaussianFit:
    """Full-covariance Gaussian VI of n independent problems at once; as `mean_field_batch`."""
    n, target = stack_target(log_likelihood, prior_std, temperature, z0)
    family = GaussianFamily(start_of(z0, n, target), target, first_std, full=True)
    setting = _Setting(n_steps, n_draws, lr, n_elbo)
    return _fit(family, target, _each_draw_apart(target), setting, generator, "full-covariance VI")


@final
@dataclass(frozen=True)
class MeanFieldVI:
    r"""The Gaussian q(z) = N(μ, diag(d²)) that maximises E_q[log p(D|z)]/T − KL(q ‖ p).

    That is the published objective with its sign turned, −(mean NLL + T·KL/N)·N/T: T acts here as in the
    samplers. Adam on (μ, log d) in units of prior_std, gradients by the reparametrisation trick without the
    score term, whose noise vanishes where q is the posterior [Roeder, Wu & Duvenaud 2017], draws in mirrored
    pairs, a learning rate that falls by a thousand.

    Args:
        n_steps: of Adam.
        n_draws: z a step, evaluated together.
        lr: Adam's first rate, in units of prior_std.
        first_std: d at the start, in the same units.
        n_elbo: draws for the final ELBO.

    Source: Izmailov et al. 2019, arXiv:1907.07504, section 3.3.

    >>> def log_likelihood(z):
    ...     return -0.5 * (z - 2).square().sum()
    >>> generator = torch.Generator().manual_seed(0)
    >>> fit = MeanFieldVI(300).infer(
    ...     log_likelihood, prior_std=1.0, z0=torch.zeros(2), generator=generator
    ... )
    >>> [round(value, 2) for value in fit.mean.tolist()]
    [1.0, 1.0]
    """

    n_steps: int = 1000
    n_draws: int = 8
    lr: float = 0.1
    first_std: float = 0.1
    n_elbo: int = 256

    run = run

    def infer(
        self,
        log_likelihood: Any,
        *,
        prior_std: float | Tensor,
        temperature: float = 1.0,
        subspace: Subspace | None = None,
        z0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> GaussianFit:
        """Maximises the ELBO.

        Args:
            log_likelihood: a `LogLikelihood` (also a minibatched one), a function of z (k,) → scalar, or a
                `Batched` one; differentiable.
            prior_std: the prior's standard deviation, a number or (k,).
            temperature: T > 0: the likelihood is raised to 1/T.
            subspace: where z lives; by default the log-likelihood's own.
            z0: the mean to start at (k,); None is z = 0.
            generator: gives one seed; None takes it from torch's global generator.

        Raises:
            DensityError: NaN or +∞ (names z and step).
            InputError: other bad arguments, or a log-likelihood without a gradient.
        """
        return _infer(
            self, "mean-field VI", False, log_likelihood, prior_std, temperature, subspace, z0, generator
        )


@final
@dataclass(frozen=True)
class FullCovarianceVI:
    r"""The Gaussian q(z) = N(μ, L Lᵀ) that maximises E_q[log p(D|z)]/T − KL(q ‖ p); else as `MeanFieldVI`.

    L = prior_std·diag(d)(I + M), M strictly lower triangular: a Cholesky factor whose entries are in units
    of their row's diagonal.

    >>> def log_likelihood(z):
    ...     return -0.5 * z.sum().square()
    >>> generator = torch.Generator().manual_seed(0)
    >>> fit = FullCovarianceVI(1000).infer(
    ...     log_likelihood, prior_std=1.0, z0=torch.ones(2), generator=generator
    ... )
    >>> [round(value, 2) for value in fit.covariance.flatten().tolist()]  # [2, −1, −1, 2]/3
    [0.67, -0.33, -0.33, 0.67]
    """

    n_steps: int = 1000
    n_draws: int = 8
    lr: float = 0.1
    first_std: float = 0.1
    n_elbo: int = 256

    run = run

    def infer(
        self,
        log_likelihood: Any,
        *,
        prior_std: float | Tensor,
        temperature: float = 1.0,
        subspace: Subspace | None = None,
        z0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> GaussianFit:
        """Maximises the ELBO; arguments and errors as `MeanFieldVI.infer`."""
        return _infer(
            self, "full-covariance VI", True, log_likelihood, prior_std, temperature, subspace, z0, generator
        )


@final
@dataclass(frozen=True)
class _Setting:
    """How the ELBO is climbed; checked."""

    n_steps: int
    n_draws: int
    lr: float
    n_elbo: int
    is_random: bool = False

    def __post_init__(self) -> None:
        whole("n_steps", self.n_steps, 1)
        whole("n_draws", self.n_draws, 1)
        whole("n_elbo", self.n_elbo, 2)
        if not 0 < self.lr < math.inf:
            raise InputError(f"lr: got {self.lr!r}; pass a positive number")


def _infer(
    method: MeanFieldVI | FullCovarianceVI,
    name: str,
    full: bool,
    log_likelihood: Any,
    prior_std: Any,
    temperature: Any,
    subspace: Subspace | None,
    z0: Tensor | None,
    generator: torch.Generator | None,
) -> GaussianFit:
    space = subspace_of(log_likelihood, subspace)
    target = target_of(log_likelihood, prior_std, temperature, space, z0)
    family = GaussianFamily(start_of(z0, 1, target), target, method.first_std, full=full)
    is_random = bool(getattr(log_likelihood, "is_random", False))
    setting = _Setting(method.n_steps, method.n_draws, method.lr, method.n_elbo, is_random)

    def together(z: Tensor) -> Tensor:
        return target.log_likelihood(z.flatten(0, 1)).view(z.shape[:2])

    note = getattr(log_likelihood, "approximation", "")
    fit = _fit(family, target, together, setting, generator, name)
    return GaussianFit(
        fit.mean[0],
        fit.factor[0],
        fit.elbo[0],
        fit.elbo_error[0],
        fit.log_evidence[0],
        fit.history[:, 0],
        name,
        space,
        note,
    )


def _each_draw_apart(target: Target) -> Callable[[Tensor], Tensor]:
    """log p(D|z)/T of draws (S, n, k) of n problems, whose rows must stay where they are."""
    return lambda z: torch.stack([target.log_likelihood(draw) for draw in z])


def _fit(
    family: GaussianFamily,
    target: Target,
    log_likelihood: Callable[[Tensor], Tensor],
    setting: _Setting,
    generator: torch.Generator | None,
    name: str,
) -> GaussianFit:
    own = torch.Generator().manual_seed(take_seed(generator))

    def bound(n_draws: int, step: int) -> Tensor:
        z, log_q = family.draw(n_draws, own)
        value = log_likelihood(z)
        check_values(value.flatten(), z.flatten(0, 1), step, lambda _: None)
        return value + target.log_prior(z) - log_q

    history = climb(
        family.parameters, lambda step: bound(setting.n_draws, step), setting.n_steps, setting.lr, name
    )
    elbo, error = reached(
        lambda n_draws: bound(n_draws, setting.n_steps),
        setting.n_draws,
        setting.n_elbo,
        is_random=setting.is_random,
    )
    with torch.no_grad():
        mean, factor = (family.mean * family.std).clone(), family.factor()
    return GaussianFit(mean, factor, elbo, error, unknown(elbo), history, name)
