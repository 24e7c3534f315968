"""All that a results file depends on besides the table: one recipe a set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from experiments.uci.training import Plan
from swag.errors import InputError


@final
@dataclass(frozen=True)
class Recipe:
    """The network, its training, and what is tried on validation rows.

    Attributes:
        plan: epochs, batch and snapshots.
        hidden: units.
        rates, weight_decays: all pairs are tried.
        validation: the share of the training rows that a fold holds out.
        folds: folds tried, without common rows.
        members: networks of MultiSWAG and of the deep ensemble.
        scales: tried for SWAG's covariance.
        temperatures: tried for the likelihood in a subspace.
        k: dimensions of a subspace.
        prior_std: of its coordinates.
        n_samples: networks averaged by SWAG-diag, SWAG, MultiSWAG and the subspace methods.
        burn_in, thin: of a chain.
        vi_steps: of Adam.
        seed: of everything random.
    """

    plan: Plan
    hidden: int = 50
    rates: tuple[float, ...] = (0.001, 0.003, 0.01)
    weight_decays: tuple[float, ...] = (0.0001, 0.001, 0.003, 0.01, 0.03)
    validation: float = 0.2
    folds: int = 3
    members: int = 5
    scales: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    temperatures: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0, 256.0)
    k: int = 5
    prior_std: float = 1.0
    n_samples: int = 100
    burn_in: int = 50
    thin: int = 1
    vi_steps: int = 200
    seed: int = 0

    @property
    def candidates(self) -> list[tuple[float, float]]:
        """Pairs of rate and weight decay."""
        return [(rate, decay) for rate in self.rates for decay in self.weight_decays]

    def held_rows(self, n_train: int) -> int:
        """The rows a fold holds out of `n_train`.

        Raises:
            InputError: too few rows would be left to train on, or held out.
        """
        held = int(self.validation * n_train)
        if not 0 < self.validation < 1 or held < 1 or n_train - held < 2:
            raise InputError(
                f"--validation: got {self.validation:g}, which holds out {held} of {n_train} training rows; "
                "pass a share between 0 and 1 that leaves rows on both sides (0.2 is usual)"
            )
        return held

    def usable_folds(self, n_train: int) -> int:
        """`folds`, or as many as fit without common rows."""
        return min(self.folds, n_train // self.held_rows(n_train))


def plan(
    epochs: int, batch: int, *, every: int = 1, rank: int = 20, late_rate: float = 1.0, clip: float = 10.0
) -> Plan:
    """Snapshots in the second half, `every` so many epochs."""
    return Plan(
        epochs,
        batch,
        collect_from=epochs // 2,
        collect_every=every,
        rank=rank,
        curve_epochs=max(1, epochs // 5),
        clip=clip,
        late_rate=late_rate,
    )


# Epochs and batches of boston, energy and yacht are the published ones. Clipping, the late rate and the lists
# of rates and weight decays were settled on validation rows of the first splits.
RECIPES: dict[str, Recipe] = {
    "boston": Recipe(plan(300, 30), rates=(0.003, 0.01, 0.03), weight_decays=(0.001, 0.003, 0.01, 0.03)),
    "energy": Recipe(
        plan(1000, 100, every=5, late_rate=0.1, clip=1.0),
        rates=(0.03, 0.1),
        weight_decays=(0.0001, 0.001, 0.01),
    ),
    "yacht": Recipe(
        plan(1000, 30, every=5, late_rate=0.1),
        rates=(0.003, 0.01, 0.03),
        weight_decays=(0.00001, 0.001, 0.003, 0.01),
    ),
    "wine": Recipe(plan(100, 50), rates=(0.003, 0.01, 0.03), weight_decays=(0.001, 0.01, 0.03)),
    "power": Recipe(
        plan(80, 100, late_rate=0.3), rates=(0.01, 0.03), weight_decays=(0.00001, 0.001), folds=1
    ),
    "kin8nm": Recipe(
        plan(120, 100, late_rate=0.3), rates=(0.01, 0.03), weight_decays=(0.00001, 0.001), folds=1
    ),
    "elevators": Recipe(
        plan(60, 100, late_rate=0.3), rates=(0.01, 0.03), weight_decays=(0.00001, 0.001), folds=1
    ),
    "protein": Recipe(
        plan(40, 200, late_rate=0.3), hidden=100, rates=(0.01, 0.03), weight_decays=(0.00001, 0.001), folds=1
    ),
}
# For a set of the user's own.
OWN = Recipe(plan(200, 50))


def recipe_for(name: str) -> Recipe:
    """The recipe of a known set, or the one for any other."""
    return RECIPES.get(name, OWN)


def quick(recipe: Recipe) -> Recipe:
    """The same with little of everything, for a look in seconds."""
    return replace(
        recipe,
        plan=plan(30, 50, rank=10),
        rates=(0.003, 0.01),
        weight_decays=(0.003,),
        folds=1,
        scales=(0.5, 1.0),
        temperatures=(1.0, 16.0),
        n_samples=20,
        burn_in=10,
        vi_steps=50,
    )
