"""Surrogates, and the loop around them: all have the same acquisition function and the same effort in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from botorch.acquisition import qLogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.model import Model
from botorch.models.transforms import Normalize, Standardize
from botorch.optim import optimize_acqf
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from experiments.bayesian_optimization.problems import Problem
from swag.integrations.botorch import fit_swag

Fit = Callable[[Tensor, Tensor, Tensor, int], Model]
MEMBERS = 4
ACQUISITION: dict[str, Any] = {
    "num_restarts": 4,
    "raw_samples": 128,
    "options": {"maxiter": 50, "batch_limit": 4},
}


def gp(X: Tensor, Y: Tensor, bounds: Tensor, seed: int) -> Model:
    """botorch's SingleTaskGP as it comes, with its default kernel and priors, by marginal likelihood."""
    inputs, outcomes = Normalize(X.shape[1], bounds=bounds), Standardize(m=1)
    model = SingleTaskGP(X, Y, input_transform=inputs, outcome_transform=outcomes)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def swag(X: Tensor, Y: Tensor, bounds: Tensor, seed: int) -> Model:
    """`fit_swag` as it comes: one network."""
    return fit_swag(X, Y, bounds=bounds, seed=seed)


def multiswag(X: Tensor, Y: Tensor, bounds: Tensor, seed: int) -> Model:
    """The same with several networks."""
    return fit_swag(X, Y, bounds=bounds, members=MEMBERS, seed=seed)


# None: no surrogate, the next points of the Sobol sequence.
METHODS: dict[str, Fit | None] = {"Sobol": None, "GP": gp, "SWAG": swag, "MultiSWAG": multiswag}


def search(problem: Problem, method: str, seed: int) -> dict[str, Any]:
    """One run: the regret after the first points and after each batch, and CPU seconds a batch."""
    fit, everything = METHODS[method], problem.sobol(seed)
    X = everything[: problem.n_start]
    Y = problem.values(X)
    regret, fitting, proposing = [problem.regret(Y)], 0.0, 0.0
    for index in range(problem.n_batches):
        candidates = everything[len(X) : len(X) + problem.q]
        if fit is not None:
            key = 10_000 * seed + index
            torch.manual_seed(key)  # where botorch starts its searches
            begun = time.process_time()
            model = fit(X, Y, problem.bounds, key)
            fitted = time.process_time()
            acquisition = qLogExpectedImprovement(model, best_f=Y.max())
            candidates, _ = optimize_acqf(acquisition, problem.bounds, q=problem.q, **ACQUISITION)
            fitting += fitted - begun
            proposing += time.process_time() - fitted
        X = torch.cat([X, candidates])
        Y = torch.cat([Y, problem.values(candidates)])
        regret.append(problem.regret(Y))
    seconds = {"fit": fitting / problem.n_batches, "acquisition": proposing / problem.n_batches}
    return {"method": method, "regret": regret, "seconds": seconds}
