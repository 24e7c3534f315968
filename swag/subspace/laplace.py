"""Laplace's approximation in the subspace: the mode, and the curvature there."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.func import grad, jacfwd

from swag.arguments import whole
from swag.subspace.fits import GaussianFit, unknown
from swag.subspace.method import run
from swag.subspace.space import Subspace
from swag.subspace.target import (
    Target,
    check_values,
    refuse_random,
    start_of,
    subspace_of,
    target_of,
)

_log = logging.getLogger(__name__)

# Nats below the mode where Laplace's centre may end; a tenth of a standard deviation is 0.005.
_CLOSE = 0.005


@final
@dataclass(frozen=True)
class Laplace:
    r"""N(z*, H⁻¹) with z* the mode of p(z) p(D|z)^{1/T} and H = −∇² log p(z*) p(D|z*)^{1/T} (k, k).

    The mode is found by L-BFGS from z0; the Hessian by forward-mode differentiation, twice (k² forward passes
    at once, no graph kept), or forward over reverse where an operation lacks it. A direction in which the
    curvature at z* is below the prior's, because the log-likelihood is not concave there, gets the prior's.

    Args:
        n_steps: of L-BFGS at most.

    Source: MacKay 1992; Izmailov et al. 2019, arXiv:1907.07504.

    >>> fit = Laplace().infer(lambda z: -1.5 * (z - 1).square().sum(), prior_std=1.0, z0=torch.zeros(2))
    >>> [round(value, 4) for value in (*fit.mean.tolist(), *fit.covariance.diagonal().tolist())]
    [0.75, 0.75, 0.25, 0.25]
    """

    n_steps: int = 200

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
        """Finds the mode and its curvature; arguments and errors as `MeanFieldVI.infer`.

        `generator` is not used: nothing here is random. A batch-norm model's statistics are held at the mode
        while the Hessian is taken.
        """
        whole("n_steps", self.n_steps, 1)
        refuse_random(log_likelihood)
        space = subspace_of(log_likelihood, subspace)
        target = target_of(log_likelihood, prior_std, temperature, space, z0)
        mode = _mode(target, start_of(z0, 1, target)[0], self.n_steps)
        held = log_likelihood
        if hasattr(log_likelihood, "held_at"):
            held = log_likelihood.held_at(mode)
        at_mode = target_of(held, prior_std, temperature, space, mode)
        with torch.no_grad():
            height = at_mode(mode[None])[0]
        unit = target.std(1)[0]
        precision = -_hessian(lambda u: at_mode((u * unit)[None])[0], mode / unit)
        # In units of prior_std the prior's curvature is 1.
        curvatures, directions = torch.linalg.eigh(precision.double())
        low = int((curvatures < 1).sum())
        if bool((curvatures < 1 - 1e-6 * curvatures.abs().max()).any()):
            _log.warning(
                "at the mode the log-likelihood curves upwards in %d of %d directions; they get the prior's "
                "curvature",
                low,
                len(curvatures),
            )
        curvatures = curvatures.clamp(min=1)
        gain = _gain_of_a_step(at_mode, mode, unit, curvatures, directions)
        if not gain < _CLOSE:
            _log.warning(
                "the search ended before the mode: one more Newton step would gain %.2g nats; %s",
                gain,
                "raise n_steps, or pass a z0 nearer to it"
                if held is log_likelihood
                else "raise n_steps; or else its slopes mislead it, which take batch-norm statistics as "
                "constants: sample instead, or pass the log-likelihood batchnorm=swag.KeepBatchNorm()",
            )
        factor = unit.double()[:, None] * directions / curvatures.sqrt()
        k = len(mode)
        evidence = (
            height
            + 0.5 * k * math.log(2 * math.pi)
            - 0.5 * curvatures.log().sum()
            + unit.double().log().sum()
        )
        return GaussianFit(
            mode,
            factor.to(mode),
            unknown(evidence),
            unknown(evidence),
            evidence,
            evidence.new_empty(0),
            "Laplace",
            space,
            getattr(log_likelihood, "approximation", ""),
        )


def _mode(target: Target, start: Tensor, n_steps: int) -> Tensor:
    """argmax of the target's log-density, by L-BFGS in units of the prior's standard deviation."""
    unit = target.std(1)[0]
    u = (start / unit).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [u],
        max_iter=n_steps,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        optimizer.zero_grad()
        with torch.enable_grad():
            z = (u * unit)[None]
            value = target.log_likelihood(z)
            check_values(value, z, calls, lambda _: None)
            loss = -(value + target.log_prior(z))[0]
            (u.grad,) = torch.autograd.grad(loss, [u])
        calls += 1
        return loss.detach()

    optimizer.step(closure)
    return (u.detach() * unit).clone()


def _gain_of_a_step(target: Target, z: Tensor, unit: Tensor, curvatures: Tensor, directions: Tensor) -> float:
    """What a Newton step from z would add to the log-density, in nats: nothing at a mode."""
    u = (z / unit).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(target((u * unit)[None])[0], [u])
    return 0.5 * float(((directions.T @ slope.double()).square() / curvatures).sum())


def _hessian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """∇² of a scalar function at z (k,): (k, k), symmetric."""
    try:
        hessian = jacfwd(jacfwd(function))(z)
    except (NotImplementedError, RuntimeError) as error:
        _log.info("forward mode cannot be taken twice here (%s); forward over reverse is", error)
        hessian = jacfwd(grad(function))(z)
    return (hessian + hessian.T) / 2
