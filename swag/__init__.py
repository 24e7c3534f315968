"""Uncertainty from the weights of neural networks: SWA, SWAG and MultiSWAG in PyTorch.

    weights ──► Collector ──► Posterior ──► Ensemble ──► Predictive ──► Report

Collect once, read out many ways, average anything that samples, score everything the same way.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from swag.batchnorm import ExactBatchNorm, KeepBatchNorm, refresh_batchnorm_
from swag.collector import Collector
from swag.ensemble import Ensemble
from swag.errors import FileError, InputError, StateError, SwagError
from swag.files import load, save
from swag.parameters import Layout
from swag.posterior import Empirical, LowRankGaussian, Mixture, PointMass, Posterior
from swag.predictive import (
    Categorical,
    CategoricalPredictive,
    GaussianPredictive,
    HeteroscedasticGaussian,
    HomoscedasticGaussian,
    Predictive,
)

if TYPE_CHECKING:
    from swag import calibrators, metrics
    from swag.report import Report

__version__ = "0.1.0"

__all__ = [
    "Categorical",
    "CategoricalPredictive",
    "Collector",
    "Empirical",
    "Ensemble",
    "ExactBatchNorm",
    "FileError",
    "GaussianPredictive",
    "HeteroscedasticGaussian",
    "HomoscedasticGaussian",
    "InputError",
    "KeepBatchNorm",
    "Layout",
    "LowRankGaussian",
    "Mixture",
    "PointMass",
    "Posterior",
    "Predictive",
    "Report",
    "StateError",
    "SwagError",
    "calibrators",
    "load",
    "metrics",
    "refresh_batchnorm_",
    "save",
]


def __getattr__(name: str) -> Any:
    # Scoring is loaded when first used, which keeps `import swag` quick for those who only collect.
    if name in ("calibrators", "metrics"):
        return import_module(f"swag.{name}")
    if name == "Report":
        return import_module("swag.report").Report
    raise AttributeError(f"module 'swag' has no attribute {name!r}")
