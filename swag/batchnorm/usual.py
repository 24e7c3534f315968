"""The policy where the caller names none: exact, or the control variate where data are many."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch.nn.modules.batchnorm import _BatchNorm

from swag.batches import Forward, is_iterator, n_rows
from swag.batchnorm.control_variate import ControlVariateBatchNorm, RunsTwice
from swag.batchnorm.exact import ExactBatchNorm
from swag.batchnorm.policy import Buffers, Members

_log = logging.getLogger(__name__)

# From this many training rows on a sample's subset is less than a fifteenth of the data.
LARGE = 8_192
# Fresh subsets of this size kept the error below 15 % of the Monte-Carlo error in every run of
# experiments/batchnorm; fixed ones need twice as many, and the luck of the draw does not average out.
ROWS = 256


@final
@dataclass(frozen=True)
class UsualBatchNorm:
    """`ControlVariateBatchNorm()` from 8,192 training rows on, `ExactBatchNorm()` below.

    Exact also where the number of rows is not known beforehand, where a posterior's members hardly share
    centres (points are their own), where the loader can be read once only, and where a layer runs more
    than once in a forward pass.
    """

    frozen: tuple[str, ...] = ()
    needs_loader: bool = True

    def statistics(
        self,
        members: Members,
        layers: Mapping[str, _BatchNorm],
        loader: Iterable[Any],
        forward: Forward | None,
    ) -> list[Buffers]:
        """The statistics of every member."""
        rows = n_rows(loader)
        shared = 2 * members.n_centres <= len(members)
        if rows is not None and rows >= LARGE and shared and not is_iterator(loader):
            try:
                found = ControlVariateBatchNorm(ROWS).statistics(members, layers, loader, forward)
            except RunsTwice as error:
                _log.info("%s; the statistics are taken exactly", error)
            else:
                _log.info(
                    "batch-norm statistics come from %d of %d training rows a sample, corrected; pass "
                    "batchnorm=swag.ExactBatchNorm() for all of them",
                    ROWS,
                    rows,
                )
                return found
        return ExactBatchNorm().statistics(members, layers, loader, forward)
