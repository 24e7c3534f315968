"""SWAG ensembles as BoTorch models, for Bayesian optimisation.

    model = SWAGModel(network, collector.swag(), seed=0)     any network and posterior of yours
    model = fit_swag(train_X, train_Y, bounds=bounds)        a small network, trained here
    qLogExpectedImprovement(model, best_f=train_Y.max())

A member of the ensemble is a function: its values at the q points of a candidate belong together, and the
same members are used at every call, so that an acquisition function is a fixed function of X with a gradient.
"""

from __future__ import annotations

from swag.integrations.requirements import require

require("botorch", "0.18", "botorch")

from swag.integrations.botorch.fit import fit_swag, mlp  # noqa: E402
from swag.integrations.botorch.model import SWAGModel  # noqa: E402
from swag.integrations.botorch.posterior import MemberSampler, SWAGPosterior  # noqa: E402

__all__ = ["MemberSampler", "SWAGModel", "SWAGPosterior", "fit_swag", "mlp"]
