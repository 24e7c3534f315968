"""Variational inference with a normalising flow, for posteriors that no Gaussian fits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from swag.arguments import whole
from swag.errors import InputError
from swag.noise import take_seed
from swag.subspace.climb import climb, reached
from swag.subspace.fits import FlowFit
from swag.subspace.method import run
from swag.subspace.realnvp import RealNVP
from swag.subspace.space import Subspace
from swag.subspace.target import check_values, start_of, subspace_of, target_of


@final
@dataclass(frozen=True)
class FlowVI:
    r"""The RealNVP flow q(z) that maximises E_q[log p(D|z)]/T − KL(q ‖ p), by Adam.

    Args:
        n_samples: draws of the flow that the posterior holds.
        n_steps: of Adam.
        n_draws: z a step, evaluated together.
        lr: Adam's first rate for the affine map, a fifth of it for the couplings; both fall by a thousand.
        n_couplings: coupling layers.
        hidden: their width.
        first_std: the standard deviation to start at, in units of prior_std.
        n_elbo: draws for the final ELBO.

    Source: Dinh et al. 2017, arXiv:1605.08803; Izmailov et al. 2019, arXiv:1907.07504.

    >>> start, g = torch.zeros(2), torch.Generator().manual_seed(0)
    >>> method = FlowVI(200, n_steps=100)
    >>> fit = method.infer(lambda z: -0.5 * (z - 2).square().sum(), prior_std=1.0, z0=start, generator=g)
    >>> bool((fit.mean - 1).abs().max() < 0.3)
    True
    """

    n_samples: int = 1000
    n_steps: int = 1000
    n_draws: int = 32
    lr: float = 0.1
    n_couplings: int = 4
    hidden: int = 32
    first_std: float = 0.1
    n_elbo: int = 1024

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
    ) -> FlowFit:
        """Maximises the ELBO; arguments and errors as `MeanFieldVI.infer`."""
        for name in ("n_samples", "n_steps", "n_draws", "n_couplings", "hidden"):
            whole(name, getattr(self, name), 1)
        whole("n_elbo", self.n_elbo, 2)
        for name, value in (("lr", self.lr), ("first_std", self.first_std)):
            if not 0 < value < math.inf:
                raise InputError(f"{name}: got {value!r}; pass a positive number")
        space = subspace_of(log_likelihood, subspace)
        target = target_of(log_likelihood, prior_std, temperature, space, z0)
        own = torch.Generator().manual_seed(take_seed(generator))
        flow = RealNVP(
            start_of(z0, 1, target)[0],
            target.std(1)[0],
            first_std=self.first_std,
            n_couplings=self.n_couplings,
            hidden=self.hidden,
            generator=own,
        )

        def bound(n_draws: int, step: int) -> Tensor:
            z, log_q = flow.mirrored(n_draws, own)
            value = target.log_likelihood(z)
            check_values(value, z, step, lambda _: None)
            return (value + target.log_prior(z) - log_q.double())[:, None]

        history = climb(
            flow.affine,
            lambda step: bound(self.n_draws, step),
            self.n_steps,
            self.lr,
            "flow VI",
            slower=flow.couplings,
        )
        is_random = bool(getattr(log_likelihood, "is_random", False))
        elbo, error = reached(
            lambda n_draws: bound(n_draws, self.n_steps),
            self.n_draws if is_random else self.n_elbo,
            self.n_elbo,
            is_random=is_random,
        )
        with torch.no_grad():
            z = flow.draw(self.n_samples, own)[0]
        for parameter in flow.affine + flow.couplings:
            parameter.requires_grad_(False)
        note = getattr(log_likelihood, "approximation", "")
        return FlowFit(flow, elbo[0], error[0], history[:, 0], z, space, note)
