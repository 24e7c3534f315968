"""What SWAP gives: one network, the workers it was made of, and the time that the parts took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn

from swag.batches import Forward
from swag.batchnorm import BatchNormPolicy
from swag.ensemble import Ensemble
from swag.posterior import Empirical, PointMass, Posterior
from swag.predictive import Likelihood


@final
@dataclass(frozen=True)
class SwapResult:
    """What `swap` found; the same on every process.

    Attributes:
        model: the model, with the workers' average and batch-norm statistics that belong to it.
        workers: the workers' own weights (W, D), in their order.
        history: one row an epoch: phase ("large" or "small"), worker (None for all together), epoch, step,
            loss, accuracy (of phase 1, a fraction counted while training), rates.
        seconds: wall time of the parts in this call: "large", "small" (a list, one a worker), "average".
        train_loader: the training rows in their own order, for batch-norm statistics.
        forward: how they are fed to the model; None for the default.
    """

    model: nn.Module
    workers: Empirical
    history: list[dict[str, Any]] = field(repr=False)
    seconds: dict[str, Any]
    train_loader: Iterable[Any] = field(repr=False)
    forward: Forward | None = field(repr=False, default=None)

    @property
    def elapsed(self) -> float:
        """Seconds with a machine for every worker: phase 1, the slowest worker of phase 2, the average.

        Simulated workers take turns: their phase 1 counts as long as all their turns together.
        """
        return float(self.seconds["large"] + max(self.seconds["small"]) + self.seconds["average"])

    def swa(self) -> PointMass:
        """The workers' average as a posterior."""
        return PointMass(mean_of(self.workers.samples), layout=self.workers.layout)

    def ensemble(
        self,
        posterior: Posterior | None = None,
        n_samples: int | None = None,
        *,
        seed: int | None = None,
        bn_loader: Iterable[Any] | None = None,
        batchnorm: BatchNormPolicy | None = None,
        likelihood: Likelihood | None = None,
        keep_members: bool | None = None,
    ) -> Ensemble:
        """The average of predictions: of the W workers, or of samples from another posterior.

        Args:
            posterior: None for `workers`.
            n_samples: S; None for W.
            seed: of the draws.
            bn_loader: as in `Ensemble`; None for the training rows in their own order.
            batchnorm: as in `Ensemble`.
            likelihood: as in `Ensemble`.
            keep_members: as in `Ensemble`.
        """
        return Ensemble(
            self.model,
            self.workers if posterior is None else posterior,
            len(self.workers.samples) if n_samples is None else n_samples,
            bn_loader=self.train_loader if bn_loader is None else bn_loader,
            batchnorm=batchnorm,
            seed=seed,
            likelihood=likelihood,
            forward=self.forward,
            keep_members=keep_members,
        )


def mean_of(points: Tensor) -> Tensor:
    """θ̄ (D,) of points (W, D), summed on θ − θ₁ in the order of the workers."""
    total = points[0].new_zeros(points.shape[1])
    for point in points[1:]:
        total += point - points[0]
    return points[0] + total / len(points)
