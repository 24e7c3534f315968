"""Posteriors over the flat weight vector θ (D,): what can be sampled and averaged."""

from swag.posterior.empirical import Empirical
from swag.posterior.low_rank_gaussian import LowRankGaussian
from swag.posterior.mixture import Mixture
from swag.posterior.point_mass import PointMass
from swag.posterior.protocol import Posterior

__all__ = ["Empirical", "LowRankGaussian", "Mixture", "PointMass", "Posterior"]
