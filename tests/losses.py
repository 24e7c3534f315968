"""Losses a row, from members whose number is known."""

from __future__ import annotations

from torch import Tensor

from swag.predictive import Pointwise, PointwisePredictive


def average_of_losses(losses: Tensor) -> PointwisePredictive:
    """What members with these losses (S, N) say together."""
    accumulator = Pointwise().accumulator()
    for row in losses:
        accumulator.update(row)
    return accumulator.compute()
