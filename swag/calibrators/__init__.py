"""Calibrators: fitted on validation rows, applied to others.

The first five turn probabilities (N, C), or a predictive that holds them, into calibrated ones; the conformal
ones give sets of classes, or intervals, that cover with a stated probability.
"""

from swag.calibrators.affine import DirichletScaling, VectorScaling
from swag.calibrators.binned import HistogramBinning, IsotonicCalibration
from swag.calibrators.conformal_intervals import ConformalizedQuantileRegression, NormalizedResidualConformal
from swag.calibrators.conformal_sets import ConformalAPS, ConformalLAC, ConformalRAPS
from swag.calibrators.temperature import TemperatureScaling

__all__ = [
    "ConformalAPS",
    "ConformalLAC",
    "ConformalRAPS",
    "ConformalizedQuantileRegression",
    "DirichletScaling",
    "HistogramBinning",
    "IsotonicCalibration",
    "NormalizedResidualConformal",
    "TemperatureScaling",
    "VectorScaling",
]
