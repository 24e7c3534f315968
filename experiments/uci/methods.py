"""The ten methods: how each turns trained members into networks whose predictions are averaged.

A method has at most one number to be tuned, its knob: the scale of SWAG's covariance, or the temperature of
the likelihood in a subspace. `draw` takes a knob's values (P, V), V of them for each of P problems, and gives
networks (P, V, S, D): so tuning and the final readout are the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from experiments.uci.fits import Fits
from experiments.uci.recipes import Recipe
from experiments.uci.training import Trajectories
from swag import subspace as inference

Draw = Callable[[Fits, Tensor], Tensor]


@final
@dataclass(frozen=True)
class Method:
    """How a method reads the fits out.

    Attributes:
        family: whose members it takes.
        knob: "scale", "temperature", or "" where there is nothing to tune.
        draw: knob values (P, V) to networks (P, V, S, D).
    """

    family: str
    knob: str
    draw: Draw

    def values(self, recipe: Recipe) -> tuple[float, ...]:
        """What is tried for the knob."""
        return {"scale": recipe.scales, "temperature": recipe.temperatures, "": (1.0,)}[self.knob]


def _last(fits: Fits, values: Tensor) -> Tensor:
    sgd = fits.members["SGD"]
    return _same(sgd.by_problem(sgd.trajectories.last)[:, :1], values)


def _lasts(fits: Fits, values: Tensor) -> Tensor:
    sgd = fits.members["SGD"]
    return _same(sgd.by_problem(sgd.trajectories.last), values)


def _average(fits: Fits, values: Tensor) -> Tensor:
    members = fits.members["SWA"]
    return _same(members.by_problem(members.trajectories.mean)[:, :1], values)


def _same(theta: Tensor, values: Tensor) -> Tensor:
    """(P, M, D) for every value: there is no knob."""
    return theta.unsqueeze(1).expand(-1, values.shape[1], -1, -1)


def _swag_diag(fits: Fits, values: Tensor) -> Tensor:
    return _scaled(fits, fits.deviates(Trajectories.swag_diag, 1, fits.recipe.n_samples), values)


def _swag(fits: Fits, values: Tensor) -> Tensor:
    return _scaled(fits, fits.deviates(Trajectories.swag, 1, fits.recipe.n_samples), values)


def _multi_swag(fits: Fits, values: Tensor) -> Tensor:
    # Equal numbers from every component, as in the first draws of a uniform swag.Mixture.
    n_members = fits.members["SWAG"].per_problem
    each = -(-fits.recipe.n_samples // n_members)
    return _scaled(fits, fits.deviates(Trajectories.swag, n_members, each), values)


def _scaled(fits: Fits, deviates: Tensor, values: Tensor) -> Tensor:
    """mean + √scale·deviate for members' deviates (P, M, S, D) and scales (P, V): (P, V, M·S, D)."""
    members = fits.members["SWAG"]
    means = members.by_problem(members.trajectories.mean)[:, : deviates.shape[1]]
    theta = means[:, None, :, None] + values.sqrt()[:, :, None, None, None] * deviates[:, None]
    return theta.flatten(2, 3)


def _ess(spaces: Callable[[Fits], list[inference.Subspace]]) -> Draw:
    def draw(fits: Fits, values: Tensor) -> Tensor:
        chain, recipe = fits.chains(spaces(fits), values), fits.recipe
        drawn = inference.elliptical_slice_batch(
            chain.log_likelihood,
            recipe.prior_std,
            recipe.n_samples,
            z0=chain.start,
            temperature=chain.temperatures,
            burn_in=recipe.burn_in,
            thin=recipe.thin,
            generator=chain.generator,
        )
        return chain.lift(drawn.z)

    return draw


def _vi(fits: Fits, values: Tensor) -> Tensor:
    chain, recipe = fits.chains(fits.pca, values), fits.recipe
    fit = inference.mean_field_batch(
        chain.log_likelihood,
        recipe.prior_std,
        z0=chain.start,
        temperature=chain.temperatures,
        n_steps=recipe.vi_steps,
        n_draws=2,
        generator=chain.generator,
    )
    return chain.lift(fit.sample(recipe.n_samples, generator=chain.generator))


METHODS: dict[str, Method] = {
    "SGD": Method("SGD", "", _last),
    "SWA": Method("SWA", "", _average),
    "SWAG-diag": Method("SWAG", "scale", _swag_diag),
    "SWAG": Method("SWAG", "scale", _swag),
    "MultiSWAG": Method("SWAG", "scale", _multi_swag),
    "DeepEnsemble": Method("SGD", "", _lasts),
    "PCA+ESS": Method("SWA", "temperature", _ess(lambda fits: fits.pca)),
    "PCA+VI": Method("SWA", "temperature", _vi),
    "Random+ESS": Method("SWA", "temperature", _ess(lambda fits: fits.random)),
    "Curve+ESS": Method("SWA", "temperature", _ess(lambda fits: fits.curves)),
}
