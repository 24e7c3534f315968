"""What was trained on P problems, and what is read out of it: draws of SWAG, subspaces, densities in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import final

import torch
from torch import Tensor

import swag
from experiments.uci.fitting import Members, Problems, fit_bends
from experiments.uci.network import Stack
from experiments.uci.recipes import Recipe
from experiments.uci.training import Trajectories
from swag import subspace as inference
from swag.noise import key_for
from swag.parameters import Layout

Gaussian = Callable[[Trajectories, int, float, Layout], swag.LowRankGaussian]

# Streams of random numbers.
_DRAWS, _FRAMES, _CHAINS = 3, 4, 5


@final
class Fits:
    """Everything trained on P problems, and the subspaces read out of it, each made once when asked for.

    Args:
        stack: the arithmetic.
        problems: what was fitted.
        recipe: samples, chains, k.
        members: by family; families differ in the rate and weight decay chosen for them.
        settings: rate (P,) and weight decay (P,) of the family "SWA", which the curves share.
    """

    def __init__(
        self,
        stack: Stack,
        problems: Problems,
        recipe: Recipe,
        members: dict[str, Members],
        settings: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.stack, self.problems, self.recipe, self.members = stack, problems, recipe, members
        self._settings = settings

    @cached_property
    def pca(self) -> list[inference.Subspace]:
        """The first members' trajectories, by PCA."""
        members, layout = self.members["SWA"], self.stack.layout
        found = members.trajectories
        indices = [members.at(problem) for problem in range(len(self.problems))]
        k = min(self.recipe.k, len(found.deviations))
        return [
            inference.Subspace.from_deviations(found.mean[b], found.deviations[:, b], k, layout=layout)
            for b in indices
        ]

    @cached_property
    def random(self) -> list[inference.Subspace]:
        """Random directions as long as PCA's on average, around the same point."""
        return [
            space.random_twin(generator=self._generator(_FRAMES, problem))
            for problem, space in enumerate(self.pca)
        ]

    @cached_property
    def curves(self) -> list[inference.Subspace]:
        """The planes of curves between the SWA solutions of the first two members."""
        members = self.members["SWA"]
        means = members.by_problem(members.trajectories.mean)
        if means.shape[1] < 2 or self._settings is None:
            raise swag.InputError("Curve+ESS: needs two members or more, the ends of the curve")
        ends = means[:, 0], means[:, 1]
        bends = fit_bends(
            self.stack,
            self.problems,
            ends,
            rate=self._settings[0],
            weight_decay=self._settings[1],
            plan=self.recipe.plan,
            seed=self.recipe.seed,
        )
        return [
            inference.Subspace.from_curve(torch.stack(points), layout=self.stack.layout)
            for points in zip(ends[0], bends, ends[1], strict=True)
        ]

    def deviates(self, posterior: Gaussian, n_members: int, n_samples: int) -> Tensor:
        """Draws of the first members' SWAG (or SWAG-diag) at scale 1, less its mean (P, M, S, D)."""
        members = self.members["SWAG"]
        found = members.trajectories
        drawn = []
        for problem in range(len(self.problems)):
            for member in range(n_members):
                b = members.at(problem, member)
                generator = self._generator(_DRAWS, problem, member)
                theta = posterior(found, b, 1.0, self.stack.layout).sample(n_samples, generator=generator)
                drawn.append(theta - found.mean[b])
        return torch.stack(drawn).view(-1, n_members, n_samples, self.stack.size)

    def chains(self, spaces: list[inference.Subspace], temperatures: Tensor) -> Chain:
        """P·V posteriors over coordinates, one for every problem and temperature (P, V)."""
        return Chain(self, spaces, temperatures, self._generator(_CHAINS, len(self.problems)))

    def _generator(self, stream: int, problem: int, extra: int = 0) -> torch.Generator:
        key = self.problems.keys[problem] if problem < len(self.problems) else (0, 0)
        return torch.Generator().manual_seed(key_for(self.recipe.seed, stream, *key, extra) >> 1)


@final
class Chain:
    """The densities p(z) p(D|z)^{1/T} of n = P·V pairs of problem and temperature, evaluated together."""

    def __init__(
        self, fits: Fits, spaces: list[inference.Subspace], temperatures: Tensor, generator: torch.Generator
    ) -> None:
        self.generator, self._fits = generator, fits
        self.shape = temperatures.shape
        self.temperatures = temperatures.reshape(-1)
        copies = temperatures.shape[1]
        self._offset = torch.stack([space.offset for space in spaces]).repeat_interleave(copies, 0)
        self._basis = torch.stack([space.basis for space in spaces]).repeat_interleave(copies, 0)
        rows = fits.problems.rows
        self._x, self._y = rows.x.repeat_interleave(copies, 0), rows.y.repeat_interleave(copies, 0)
        self.start = torch.zeros(len(self._offset), self._basis.shape[2])

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Σ over the training rows of log p(y | x, ŵ + P z) (n,), z (n, k)."""
        theta = torch.baddbmm(self._offset.unsqueeze(2), self._basis, z.unsqueeze(2)).squeeze(2)
        return self._fits.stack.log_likelihood(theta, self._x, self._y)

    def lift(self, z: Tensor) -> Tensor:
        """Networks (P, V, S, D) at z (n, S, k)."""
        theta = torch.baddbmm(self._offset.unsqueeze(1), z.to(self._basis), self._basis.mT)
        return theta.view(*self.shape, *theta.shape[1:])
