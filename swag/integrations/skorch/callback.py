"""The callback: snapshots while a skorch net trains, and the ensemble's predictions afterwards.

Longer than most files here: a callback is one class by its framework's rules.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from numbers import Integral
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from skorch import NeuralNet, NeuralNetBinaryClassifier
from skorch.callbacks import Callback

from swag.arguments import part_of
from swag.batchnorm import batchnorm_modules
from swag.collector import Collector
from swag.ensemble import Ensemble
from swag.errors import InputError, StateError
from swag.integrations.skorch.arguments import check_arguments
from swag.integrations.skorch.feeding import as_they_are, classifies, forward_of, loader, logits_of
from swag.posterior import LowRankGaussian
from swag.predictive import Categorical, GaussianPredictive, HomoscedasticGaussian, Likelihood
from swag.selection import Select

_log = logging.getLogger(__name__)


class NotCollected(StateError, AttributeError):
    """Nothing was collected yet; `hasattr(callback, "posterior_")` is then False, as scikit-learn expects."""


@final
class SWAGCallback(Callback):
    r"""Collects the weights of a skorch net along the last part of its training.

    Named in the net's callbacks, its arguments are parameters of the net: `callbacks__swag__rank`, also in a
    grid search. `fit` begins anew, `partial_fit` goes on. In the history, `event_swag` says in which epochs
    a snapshot was taken.

    Args:
        rank: deviations kept, 2 or more for SWAG.
        swa_start: when collecting begins: after so many epochs (an integer), or after a fraction of the net's
            `max_epochs` (a number in (0, 1)). Epochs are counted over `partial_fit` calls; give an integer
            where the net is trained by those.
        every: epochs between snapshots, taken at the end of an epoch.
        every_steps: instead, training batches between snapshots.
        swa_lr: the rate of every training batch while collecting, whatever a scheduler says; None leaves the
            rate alone.
        scale: of SWAG's covariance.
        n_samples: members of the ensemble that predicts.
        seed: of its draws.
        select: which parameters, as for `swag.Collector`.

    Attributes:
        collector_: the `swag.Collector`, once training began.
        posterior_: `collector_.swag(scale)`, once there are two snapshots.
        n_collected_: the snapshots taken.

    Raises:
        InputError: when training begins: an argument that cannot be used, or two of these in one net.

    >>> import torch
    >>> from torch import nn
    >>> from swag.integrations.skorch import callback_of
    >>> net = NeuralNet(nn.Linear, nn.MSELoss, module__in_features=2, module__out_features=1, max_epochs=8,
    ...                 callbacks=[("swag", SWAGCallback(swa_start=4))], train_split=None, verbose=0)
    >>> net = net.fit(torch.randn(32, 2), torch.randn(32, 1))
    >>> callback_of(net).posterior_
    LowRankGaussian(D=3, rank=4)
    """

    def __init__(
        self,
        rank: int = 20,
        swa_start: float = 0.75,
        every: int = 1,
        every_steps: int | None = None,
        swa_lr: float | None = None,
        scale: float = 0.5,
        n_samples: int = 30,
        seed: int = 0,
        select: Select = None,
    ) -> None:
        self.rank = rank
        self.swa_start = swa_start
        self.every = every
        self.every_steps = every_steps
        self.swa_lr = swa_lr
        self.scale = scale
        self.n_samples = n_samples
        self.seed = seed
        self.select = select

    # --- training ---------------------------------------------------------------------------------------

    def initialize(self) -> SWAGCallback:
        """Forgets what was collected; skorch calls it when a net is (re-)initialized."""
        self.collector_: Collector | None = None
        self.steps_ = 0
        self.is_new_ = False
        self.dataset_: Any = None  # for batch norm; not pickled
        return self

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Checks the arguments, and makes the collector unless training goes on."""
        check_arguments(self.rank, self.swa_start, self.every, self.every_steps, self.swa_lr)
        others = [name for name, callback in net.callbacks_ if isinstance(callback, SWAGCallback)]
        if len(others) > 1:
            raise InputError(
                f"callbacks: the net has {len(others)} SWAGCallbacks ({', '.join(others)}); keep one of them"
            )
        if self.collector_ is None:
            self.collector_ = Collector(net.module_, self.rank, select=self.select)
            self.is_new_ = True
        elif self.collector_.rank != self.rank:
            raise InputError(
                f"rank: is {self.rank}, but {self.collector_.rank} was collected with; set it back, or call "
                "net.fit, which begins anew"
            )

    def on_epoch_begin(self, net: NeuralNet, dataset_train: Any = None, **kwargs: Any) -> None:
        """Remembers the training data, where batch-norm statistics will have to come from them."""
        self.dataset_ = dataset_train if batchnorm_modules(net.module_) else None
        self.before_ = self.n_collected_
        missed = len(net.history) - 1 - self._start(net)
        if self.is_new_ and missed > 0:
            _log.warning(
                "the net's history has %d epochs after swa_start whose snapshots are not at hand; to go on "
                "with them, load the whole net, as Checkpoint(f_pickle=…) after this callback keeps it",
                missed,
            )
        self.is_new_ = False

    def on_batch_begin(self, net: NeuralNet, batch: Any = None, training: Any = None, **kwargs: Any) -> None:
        """Sets `swa_lr`."""
        if training and self.swa_lr is not None and self._is_collecting(net):
            for group in net.optimizer_.param_groups:
                group["lr"] = self.swa_lr

    def on_batch_end(self, net: NeuralNet, batch: Any = None, training: Any = None, **kwargs: Any) -> None:
        """With `every_steps`, takes a snapshot. (skorch calls it for validation batches, too.)"""
        if training and self.every_steps is not None and self._is_collecting(net):
            self.steps_ += 1
            if self.steps_ % self.every_steps == 0:
                self._collected().collect(net.module_)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Without, takes a snapshot."""
        if self.every_steps is None and self._is_collecting(net):
            since = len(net.history) - self._start(net)
            if since % self.every == 0:
                self._collected().collect(net.module_)
        net.history.record("event_swag", self.n_collected_ > self.before_)

    def _start(self, net: NeuralNet) -> int:
        """The epochs before collecting."""
        if isinstance(self.swa_start, Integral):
            return int(self.swa_start)
        return part_of(self.swa_start, net.max_epochs)

    def _is_collecting(self, net: NeuralNet) -> bool:
        return len(net.history) > self._start(net)

    # --- what was collected -----------------------------------------------------------------------------

    @property
    def n_collected_(self) -> int:
        """The snapshots taken."""
        collector = getattr(self, "collector_", None)
        return 0 if collector is None else collector.n_collected

    @property
    def posterior_(self) -> LowRankGaussian:
        """SWAG's posterior; for others see `collector_`."""
        if self.n_collected_ < 2:
            raise NotCollected(
                f"posterior_: needs two snapshots and there are {self.n_collected_}; train for more epochs, "
                "or begin earlier (swa_start)"
            )
        return self._collected().swag(self.scale)

    def _collected(self) -> Collector:
        collector = getattr(self, "collector_", None)
        if collector is None:
            raise NotCollected("collector_: nothing was collected yet; call net.fit first")
        return collector

    # --- prediction -------------------------------------------------------------------------------------

    def ensemble(
        self, net: NeuralNet, *, likelihood: Likelihood | None = None, bn_data: Any = None
    ) -> Ensemble:
        """The ensemble over the posterior, fed as the net feeds its module.

        Args:
            net: the net that was trained.
            likelihood: what outputs mean; by default `swag.Categorical()` for a classifier, whose outputs are
                read as its criterion says. A regressor needs `swag.HomoscedasticGaussian(variance)` or
                `swag.HeteroscedasticGaussian()`.
            bn_data: training inputs, needed where the module has batch norm and the net was loaded from a
                file; else those of the training are at hand.

        Raises:
            InputError: a net of another architecture, or without a likelihood.
            NotCollected: fewer than two snapshots.
        """
        posterior = self.posterior_
        if not classifies(net) and likelihood is None:
            raise InputError(
                "likelihood: a regressor's noise is not known; pass swag.HomoscedasticGaussian(variance) or "
                "swag.HeteroscedasticGaussian()"
            )
        forward = forward_of(net, logits_of(net) if likelihood is None else as_they_are)
        return Ensemble(
            net.module_,
            posterior,
            self.n_samples,
            bn_loader=self._bn_loader(net, bn_data),
            seed=self.seed,
            likelihood=likelihood or Categorical(),
            forward=forward,
        )

    def predictive(
        self, net: NeuralNet, X: Any, *, likelihood: Likelihood | None = None, bn_data: Any = None
    ) -> Any:
        """The predictive for X, in the net's batches: a `CategoricalPredictive` or `GaussianPredictive`."""
        return self.ensemble(net, likelihood=likelihood, bn_data=bn_data).predict(loader(net, X))

    def predict_proba(self, net: NeuralNet, X: Any, *, bn_data: Any = None) -> NDArray[np.float32]:
        """Mean probabilities of the members (N, C), as `net.predict_proba` gives the last weights'.

        Raises:
            InputError: the net is no classifier.
        """
        if not classifies(net):
            raise InputError("net: is no classifier; use predict and predict_std, or predictive")
        return self.predictive(net, X, bn_data=bn_data).probs.float().cpu().numpy()

    def predict(self, net: NeuralNet, X: Any, *, bn_data: Any = None) -> NDArray[Any]:
        """A classifier's most probable class (N,), as `net.predict` gives it; a regressor's mean (N, 1)."""
        if classifies(net):
            probs = self.predict_proba(net, X, bn_data=bn_data)
            if isinstance(net, NeuralNetBinaryClassifier):
                return (probs[:, 1] > net.threshold).astype(np.uint8)
            return probs.argmax(1)
        return self._moments(net, X, bn_data).mean.cpu().numpy()[:, None]

    def predict_std(self, net: NeuralNet, X: Any, *, bn_data: Any = None) -> NDArray[Any]:
        """A regressor's standard deviation between members (N, 1): epistemic, without observation noise."""
        if classifies(net):
            raise InputError(
                "net: is a classifier; use predictive(net, X), which has entropies and variances"
            )
        return self._moments(net, X, bn_data).epistemic.sqrt().cpu().numpy()[:, None]

    def _moments(self, net: NeuralNet, X: Any, bn_data: Any) -> GaussianPredictive:
        # The noise is not used; the outputs must be one mean a row.
        return self.predictive(net, X, likelihood=HomoscedasticGaussian(1.0), bn_data=bn_data)

    def _bn_loader(self, net: NeuralNet, bn_data: Any) -> Iterable[Any] | None:
        if bn_data is not None:
            return loader(net, bn_data)
        dataset = getattr(self, "dataset_", None)
        return None if dataset is None else net.get_iterator(dataset, training=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "dataset_": None}
