"""Learning rates under which weights are worth averaging, as torch schedulers.

`swag.schedules.rates` has the formulas as plain functions of the epoch. `SWALR` is torch's own.
"""

from torch.optim.swa_utils import SWALR

from swag.schedules import rates
from swag.schedules.make import (
    constant,
    cosine,
    cyclical,
    cyclical_cosine,
    fast_swa,
    fge_triangle,
    swa_paper,
)
from swag.schedules.schedule import Schedule

__all__ = [
    "SWALR",
    "Schedule",
    "constant",
    "cosine",
    "cyclical",
    "cyclical_cosine",
    "fast_swa",
    "fge_triangle",
    "rates",
    "swa_paper",
]
