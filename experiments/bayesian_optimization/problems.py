"""Standard test functions, to be maximised (the negative of what is usually minimised), and how long for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from botorch.test_functions import Ackley, Branin, Hartmann
from botorch.test_functions.base import BaseTestProblem
from torch import Tensor
from torch.quasirandom import SobolEngine


@final
@dataclass(frozen=True)
class Problem:
    """A function, the points it starts with, and the batches of q points that follow."""

    function: BaseTestProblem
    n_start: int
    n_batches: int
    q: int = 2

    @property
    def bounds(self) -> Tensor:
        """(2, d), float64."""
        return self.function.bounds.double()

    def sobol(self, seed: int) -> Tensor:
        """All the points of a random search (n, d): scrambled Sobol. Every method starts with the first."""
        low, high = self.bounds
        n = self.n_start + self.q * self.n_batches
        return low + (high - low) * SobolEngine(len(low), scramble=True, seed=seed).draw(n).double()

    def values(self, points: Tensor) -> Tensor:
        """The function without noise (n, 1)."""
        return self.function(points).unsqueeze(-1)

    def regret(self, values: Tensor) -> float:
        """How far the best of the values is below the optimum."""
        return float(self.function.optimal_value - values.max())


# Ackley's bounds are lopsided: else its optimum is the cube's centre, which a surrogate may propose unasked.
PROBLEMS = {
    "branin2": Problem(Branin(negate=True), n_start=6, n_batches=10),
    "ackley4": Problem(Ackley(4, bounds=[(-10.0, 15.0)] * 4, negate=True), n_start=10, n_batches=20),
    "hartmann6": Problem(Hartmann(6, negate=True), n_start=10, n_batches=20),
}


def quick(problem: Problem) -> Problem:
    """The same with two batches."""
    return replace(problem, n_batches=2)
