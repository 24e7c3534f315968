"""Uncertainty from the weights of neural networks: SWA, SWAG and MultiSWAG in PyTorch.

    weights ──► Collector ──► Posterior ──► Ensemble ──► Predictive ──► Report

Collect once, read out many ways, average anything that samples, score everything the same way.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swag import calibrators, distributed, geometry, lowprecision, metrics, schedules, subspace, training
    from swag.batchnorm import ControlVariateBatchNorm, ExactBatchNorm, KeepBatchNorm, refresh_batchnorm_
    from swag.checkpoints import fit_checkpoints
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
        Pointwise,
        PointwisePredictive,
        Predictive,
    )
    from swag.report import Report
    from swag.scale_rank import tune
    from swag.strategy import Compiled, Loop, Vmapped
    from swag.subspace import Subspace
    from swag.training import SWAOptimizer

__version__ = "0.1.0"

__all__ = [
    "Categorical",
    "CategoricalPredictive",
    "Collector",
    "Compiled",
    "ControlVariateBatchNorm",
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
    "Loop",
    "LowRankGaussian",
    "Mixture",
    "PointMass",
    "Pointwise",
    "PointwisePredictive",
    "Posterior",
    "Predictive",
    "Report",
    "SWAOptimizer",
    "StateError",
    "Subspace",
    "SwagError",
    "Vmapped",
    "calibrators",
    "distributed",
    "fit_checkpoints",
    "geometry",
    "load",
    "lowprecision",
    "metrics",
    "refresh_batchnorm_",
    "save",
    "schedules",
    "subspace",
    "training",
    "tune",
]

# Where each public name lives. It is loaded when first used: those who only collect need no plotting, and
# `swag --help` needs no torch.
_HOMES = {
    "swag.batchnorm": ("ControlVariateBatchNorm", "ExactBatchNorm", "KeepBatchNorm", "refresh_batchnorm_"),
    "swag.checkpoints": ("fit_checkpoints",),
    "swag.collector": ("Collector",),
    "swag.ensemble": ("Ensemble",),
    "swag.errors": ("FileError", "InputError", "StateError", "SwagError"),
    "swag.files": ("load", "save"),
    "swag.parameters": ("Layout",),
    "swag.posterior": ("Empirical", "LowRankGaussian", "Mixture", "PointMass", "Posterior"),
    "swag.predictive": (
        "Categorical",
        "CategoricalPredictive",
        "GaussianPredictive",
        "HeteroscedasticGaussian",
        "HomoscedasticGaussian",
        "Pointwise",
        "PointwisePredictive",
        "Predictive",
    ),
    "swag.report": ("Report",),
    "swag.scale_rank": ("tune",),
    "swag.strategy": ("Compiled", "Loop", "Vmapped"),
    "swag.subspace": ("Subspace",),
    "swag.training": ("SWAOptimizer",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = (
    "calibrators",
    "distributed",
    "geometry",
    "lowprecision",
    "metrics",
    "schedules",
    "subspace",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"swag.{name}")
    if name in _HOME:
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value
    raise AttributeError(f"module 'swag' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
