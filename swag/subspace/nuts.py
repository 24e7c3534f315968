"""The no-U-turn sampler, by pyro (the extra `[subspace]`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from swag.arguments import whole
from swag.errors import InputError
from swag.noise import split_seeds, take_seed
from swag.progress import track
from swag.subspace.chains import Chains
from swag.subspace.method import run
from swag.subspace.recorder import refuse_stuck
from swag.subspace.space import Subspace
from swag.subspace.target import (
    Target,
    check_values,
    refuse_random,
    start_of,
    subspace_of,
    target_of,
)


@final
@dataclass(frozen=True)
class NUTS:
    r"""Hamiltonian Monte Carlo on p(z) p(D|z)^{1/T} that chooses its own path lengths, by pyro.

    Works in units of prior_std, with a dense mass matrix; step size and mass are adapted in the warm-up.
    Chains run one after the other. Needs a differentiable log-likelihood.

    Args:
        n_samples: draws kept of each chain.
        n_chains: chains.
        burn_in: warm-up transitions, in each chain.
        thin: transitions a draw.
        target_accept: the acceptance probability that the step size aims at.
        max_tree_depth: a transition takes at most 2^depth gradients.

    Source: Hoffman & Gelman 2014, arXiv:1111.4246; pyro-ppl.
    """

    n_samples: int = 500
    n_chains: int = 2
    burn_in: int = 200
    thin: int = 1
    target_accept: float = 0.8
    max_tree_depth: int = 8

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
    ) -> Chains:
        """Draws the chains; arguments and errors as `EllipticalSlice.infer`.

        Raises:
            DensityError: also where no proposal is accepted after the warm-up.
            InputError: also where pyro is not installed.
        """
        whole("n_samples", self.n_samples, 1)
        whole("burn_in", self.burn_in, 1)
        whole("thin", self.thin, 1)
        n_chains = whole("n_chains", self.n_chains, 1)
        if not 0 < self.target_accept < 1:
            raise InputError(f"target_accept: got {self.target_accept!r}; pass a probability such as 0.8")
        _require_pyro()
        refuse_random(log_likelihood)
        space = subspace_of(log_likelihood, subspace)
        target = target_of(log_likelihood, prior_std, temperature, space, z0)
        starts = start_of(z0, n_chains, target)
        with torch.no_grad():  # decides how the log-likelihood is run, outside of pyro's differentiation
            check_values(target.log_likelihood(starts), starts, 0, lambda _: None)
        chains = [
            self._chain(target, start, seed)
            for start, seed in zip(starts, split_seeds(take_seed(generator), n_chains), strict=True)
        ]
        z = torch.stack([chain[0] for chain in chains])
        with torch.no_grad():
            heights = target.log_likelihood(z.flatten(0, 1)).view(z.shape[:2])
        return Chains(
            z=z,
            log_likelihood=heights,
            acceptance=torch.tensor([chain[1] for chain in chains], dtype=torch.float64, device="cpu"),
            n_evaluations=sum(chain[2] for chain in chains),
            sampler="NUTS",
            subspace=space,
            approximation=getattr(log_likelihood, "approximation", ""),
            sample_stats={"diverging": torch.stack([chain[3] for chain in chains])},
        )

    def _chain(self, target: Target, start: Tensor, seed: int) -> tuple[Tensor, float, int, Tensor]:
        """Draws (S, k), the mean acceptance, gradients taken, and which draws diverged (S,)."""
        from pyro.infer.mcmc import MCMC
        from pyro.infer.mcmc import NUTS as PyroNUTS

        unit = target.std(1)[0]
        n_calls, n_steps = 0, 0
        kept: list[Tensor] = []
        n_kept = self.n_samples * self.thin
        bar = iter(track(range(self.burn_in + n_kept), "NUTS"))

        def potential(parameters: dict[str, Tensor]) -> Tensor:
            nonlocal n_calls
            n_calls += 1
            z = (parameters["u"] * unit)[None]
            value = target.log_likelihood(z)
            check_values(value, z, n_steps, lambda _: chain())
            return -(value + target.log_prior(z))[0].to(z.dtype)

        def chain() -> Tensor:
            rows = kept[self.thin - 1 :: self.thin]
            return torch.stack(rows) if rows else unit.new_empty(0, len(unit))

        def count(_: Any, parameters: dict[str, Tensor], *__: Any) -> None:
            nonlocal n_steps
            n_steps += 1
            if n_steps > self.burn_in:
                kept.append(parameters["u"].detach() * unit)
            next(bar, None)

        kernel = PyroNUTS(
            potential_fn=potential,
            target_accept_prob=self.target_accept,
            full_mass=True,
            max_tree_depth=self.max_tree_depth,
        )
        mcmc = MCMC(
            kernel,
            num_samples=n_kept,
            warmup_steps=self.burn_in,
            initial_params={"u": start / unit},
            disable_progbar=True,
            hook_fn=count,
        )
        # pyro draws from torch's global generator and takes no other; the fork gives it back as it was.
        with torch.random.fork_rng(devices=[start.device] if start.is_cuda else []):
            # On the generators in use alone: torch.manual_seed would seed every device's.
            torch.default_generator.manual_seed(seed)
            if start.is_cuda:
                with torch.cuda.device(start.device):
                    torch.cuda.manual_seed(seed)
            mcmc.run()
        every = torch.stack(kept)
        if len(every) > 1 and bool((every == every[0]).all()):
            refuse_stuck("NUTS sampler", every[0], n_steps, chain())
        draws = mcmc.get_samples()["u"][self.thin - 1 :: self.thin].detach() * unit
        diagnostics = mcmc.diagnostics()
        diverged = torch.zeros(n_kept, dtype=torch.bool, device="cpu")
        diverged[diagnostics["divergences"].get("chain 0", [])] = True
        acceptance = float(diagnostics["acceptance rate"].get("chain 0", float("nan")))
        return draws, acceptance, n_calls, diverged[self.thin - 1 :: self.thin]


def _require_pyro() -> None:
    try:
        import pyro  # noqa: F401
    except ImportError as error:
        raise InputError(
            "NUTS: needs pyro, which is not installed; pip install 'swag-torch[subspace]' (or pip install "
            "pyro-ppl), or use EllipticalSlice, which needs nothing"
        ) from error
