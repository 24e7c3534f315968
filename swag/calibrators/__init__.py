"""Calibrators: fitted on validation rows, applied to others; each takes probabilities or a predictive."""

from swag.calibrators.temperature import TemperatureScaling

__all__ = ["TemperatureScaling"]
