"""What a training run gives: the model, the collector, the history, and the way to predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, final

from torch import nn

from swag.batches import Forward
from swag.batchnorm import BatchNormPolicy
from swag.collector import Collector
from swag.ensemble import Ensemble
from swag.posterior import LowRankGaussian, PointMass, Posterior
from swag.predictive import Likelihood


@final
@dataclass(frozen=True)
class Trained:
    """A finished run of `train`.

    Attributes:
        model: the model, with the weights of the last step (not their average).
        collector: mean, squared deviations and deviations of the snapshots.
        history: one row an epoch: epoch, step, loss, validation_loss, rates, n_collected.
        train_loader: the training batches, for batch-norm statistics.
        forward: how they are fed to the model; None for the default.
    """

    model: nn.Module
    collector: Collector
    history: list[dict[str, Any]] = field(repr=False)
    train_loader: Iterable[Any] = field(repr=False)
    forward: Forward | None = field(repr=False, default=None)

    def swa(self) -> PointMass:
        """The average of the snapshots."""
        return self.collector.swa()

    def swag_diag(self, scale: float = 1.0) -> LowRankGaussian:
        """SWAG-diag, as `Collector.swag_diag`."""
        return self.collector.swag_diag(scale)

    def swag(self, scale: float = 0.5) -> LowRankGaussian:
        """SWAG, as `Collector.swag`."""
        return self.collector.swag(scale)

    def swa_model(
        self, *, bn_loader: Iterable[Any] | None = None, batchnorm: BatchNormPolicy | None = None
    ) -> nn.Module:
        """A copy of the model with the average as weights and batch-norm statistics of its own, in eval mode.

        Args:
            bn_loader: training batches; None for those it was trained on.
            batchnorm: as in `Ensemble`.
        """
        ensemble = self.ensemble(self.swa(), 1, bn_loader=bn_loader, batchnorm=batchnorm, seed=0)
        return ensemble.member(0)

    def ensemble(
        self,
        posterior: Posterior | None = None,
        n_samples: int = 30,
        *,
        seed: int | None = None,
        bn_loader: Iterable[Any] | None = None,
        batchnorm: BatchNormPolicy | None = None,
        likelihood: Likelihood | None = None,
        keep_members: bool | None = None,
    ) -> Ensemble:
        """The model average over a posterior.

        Args:
            posterior: None for `swag()`.
            n_samples: S.
            seed: of the draws; None takes one from torch's global generator.
            bn_loader: training batches for the batch-norm statistics; None for those it was trained on. Where
                these are augmented, pass some that are not.
            batchnorm: as in `Ensemble`.
            likelihood: what outputs mean; as in `Ensemble`.
            keep_members: as in `Ensemble`.
        """
        return Ensemble(
            self.model,
            self.swag() if posterior is None else posterior,
            n_samples,
            bn_loader=self.train_loader if bn_loader is None else bn_loader,
            batchnorm=batchnorm,
            seed=seed,
            likelihood=likelihood,
            forward=self.forward,
            keep_members=keep_members,
        )
