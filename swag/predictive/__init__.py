"""Predictive distributions: what an ensemble says about inputs, and how it is accumulated."""

from swag.predictive.categorical import CategoricalAccumulator, CategoricalPredictive
from swag.predictive.gaussian import GaussianAccumulator, GaussianPredictive
from swag.predictive.likelihood import Categorical, HeteroscedasticGaussian, HomoscedasticGaussian, Likelihood
from swag.predictive.pointwise import Pointwise, PointwiseAccumulator, PointwisePredictive
from swag.predictive.protocol import Accumulator, Predictive

__all__ = [
    "Accumulator",
    "Categorical",
    "CategoricalAccumulator",
    "CategoricalPredictive",
    "GaussianAccumulator",
    "GaussianPredictive",
    "HeteroscedasticGaussian",
    "HomoscedasticGaussian",
    "Likelihood",
    "Pointwise",
    "PointwiseAccumulator",
    "PointwisePredictive",
    "Predictive",
]
