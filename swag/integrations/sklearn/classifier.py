"""Classifiers whose probabilities are averaged over the posterior of their weights.

Longer than most files here: scikit-learn reads parameters from the signature of every class, which so has to
be written out, and explained, in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, final

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets

from swag.errors import InputError
from swag.integrations.sklearn.estimator import SWAGEstimator
from swag.integrations.sklearn.objectives import CrossEntropy, Objective
from swag.integrations.sklearn.rows import Standard
from swag.posterior.protocol import check_n_samples
from swag.predictive import CategoricalPredictive


class _Classifying(ClassifierMixin, SWAGEstimator):
    """Everything but the parameters."""

    def _objective(self) -> Objective:
        return CrossEntropy()

    def _target_standard(self, y: np.ndarray, weights: np.ndarray | None) -> Standard | None:
        return None

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains from fresh weights.

        Args:
            X: (N, F) finite numbers.
            y: (N,) labels of any kind, two classes or more.
            sample_weight: (N,) ≥ 0: a row of weight 2 counts as two rows; None for 1.
        """
        settings = self._checked_settings()
        with self._or_as_before():
            X, y, sample_weight = self._checked_table(X, y, sample_weight, reset=True)
            check_classification_targets(y)
            self.classes_, codes = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                only = self.classes_.tolist()[0]
                raise InputError(
                    f"y: has one class, {only!r}; a classifier needs rows of two classes or more"
                )
            self._fit(settings, X, codes.astype(np.int64), sample_weight, len(self.classes_))
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One epoch over these rows, going on from `fit` or from earlier calls.

        A call counts as one of the E epochs: the learning rate moves, and once ⌊swa_start·E⌋ are over each
        call ends with a snapshot. E calls with all rows are `fit`. Before the first snapshot predictions are
        those of the weights as they are. The first call's rows set the standardisation.

        Args:
            X: (N, F).
            y: (N,).
            classes: all classes; needed at the first call.
            sample_weight: (N,) ≥ 0, relative to the mean of this call.
        """
        settings = self._checked_settings()
        first = not hasattr(self, "classes_")
        with self._or_as_before():
            X, y, sample_weight = self._checked_table(X, y, sample_weight, reset=first)
            check_classification_targets(y)
            if first and classes is not None and len(np.unique(classes)) < 2:
                raise InputError(f"classes: got {classes!r}; pass all the classes, two or more")
            _check_partial_fit_first_call(self, classes)
            unknown = np.setdiff1d(y, self.classes_).tolist()
            if unknown:
                raise InputError(
                    f"y: has the class {unknown[0]!r}, which is not among the {len(self.classes_)} named at "
                    "the first call; call fit, or name all classes at the first call of partial_fit"
                )
            codes = np.searchsorted(self.classes_, y).astype(np.int64)
            self._partial_fit(settings, X, codes, sample_weight, len(self.classes_))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of every row (N,)."""
        probs = self.predict_proba(X)
        return self.classes_[np.argmax(probs, axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """p̄ (N, C), columns as in `classes_`."""
        return self._predictive(X).probs.numpy()

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log p̄ (N, C) in nats, finite where p̄ underflows."""
        return self._predictive(X).log_probs.numpy()

    def predictive(self, X: Any) -> CategoricalPredictive:
        """All that the members say: `probs`, `entropy`, `mutual_information`, `variance`, …."""
        return self._predictive(X)

    @torch.no_grad()
    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Labels drawn from the predictive (N, n_samples).

        A column has one member for all of its rows, so that columns are plausible tables and not only
        plausible rows.

        Args:
            X: (N, F).
            n_samples: columns.
            random_state: seed, RandomState or None.
        """
        check_n_samples(n_samples)
        batches = self._batches(X)
        random = check_random_state(random_state)
        chosen = random.randint(self.ensemble_.n_samples, size=n_samples)
        points = random.random_sample((n_samples, sum(map(len, batches)), 1))
        codes = np.empty(points.shape[:2], dtype=np.int64)
        for index in np.unique(chosen):
            member = self.ensemble_.member(int(index))
            where = next(member.parameters()).device
            probs = torch.cat([member(batch.to(where)).softmax(1) for batch in batches]).double()
            below = probs.cumsum(1).cpu().numpy()
            own = chosen == index
            codes[own] = np.argmax(below > points[own] * below[:, -1:], axis=2)
        return self.classes_[codes.T]


@final
class SWAGClassifier(_Classifying):
    r"""A neural network classifier whose probabilities are averaged over the weights' SWAG posterior.

        p̄(c|x) = (1/S) Σ_s softmax(f(x; θ_s))_c,  θ_s ~ N(θ̄, scale·(Σ_diag + D̂D̂ᵀ/(K−1)))

    The network is trained at the rates of the SWA paper; at the end of every epoch after ⌊swa_start·E⌋ a
    snapshot of its weights is taken.

    Args:
        module: None for a multilayer perceptron; or module(n_features, n_outputs) → network, a class or a
            function; or a network, of which a copy is trained on. It takes rows
            (N, F) and gives logits (N, C).
        hidden_layer_sizes: widths of the perceptron's hidden layers, with ReLU.
        epochs: E, passes over the rows.
        batch_size: rows a step; all of them where there are fewer.
        lr: learning rate of the first part.
        weight_decay: as the optimizer means it.
        optimizer: None for Adam; or optimizer(parameters, lr=…, weight_decay=…), such as torch.optim.AdamW.
        swa_start: the part of the epochs after which averaging begins.
        swa_lr: the constant rate of the averaging; None for half of `lr`, or `lr` where swa_start is 0.
        rank: K, deviations kept; 0 for a diagonal covariance. No more rows than snapshots are there.
        scale: of the covariance; 0 for SWA alone; "auto" for the one with the least NLL on held-out rows.
        n_samples: S, the members that are averaged in a prediction.
        early_stopping: begin averaging early: when the NLL of held-out rows has not fallen for
            `n_iter_no_change` epochs, from the best weights. The epochs of averaging are never cut short.
        validation_fraction: the part of the rows that is held out where early_stopping or scale="auto" asks
            for it; they are not trained on.
        n_iter_no_change: epochs of patience.
        standardize: centre features and divide them by their std (weighted, of the training rows) inside.
        dtype: "float32", "float64", or None for that of X (float64 is what tables usually have; float32 is
            faster).
        device: where to train and predict.
        random_state: seed, RandomState or None. The global generators of torch and Python are left as they
            were, NumPy's too unless it is None.

    Attributes:
        posterior_: the `LowRankGaussian`, for `swag.save`, `diagnose()` and the rest of the library.
        ensemble_: the `swag.Ensemble`, which takes standardised features.
        classes_: (C,), sorted.
        scale_: the scale in use, tuned where it was "auto".
        n_iter_: epochs run. swa_start_: the epoch after which averaging began.
        n_collected_: snapshots. loss_curve_, validation_curve_: mean NLL of every epoch, nats.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        InputError: at `fit`: a parameter that cannot be used, one class, a network of the wrong width.
        DivergedError: the loss is NaN or infinite; what was fitted before is still there.

    Source: Maddox et al. 2019, arXiv:1902.02476.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SWAGClassifier(epochs=30, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:2]).shape, model.score(X, y) > 0.9
    ((2, 3), True)
    >>> model.predictive(X).mutual_information.shape  # how far the members disagree, in nats
    torch.Size([150])
    """

    def __init__(
        self,
        *,
        module: Any = None,
        hidden_layer_sizes: Sequence[int] = (100,),
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 0.01,
        weight_decay: float = 1e-4,
        optimizer: Any = None,
        swa_start: float = 0.5,
        swa_lr: float | None = None,
        rank: int = 20,
        scale: float | Literal["auto"] = 0.5,
        n_samples: int = 30,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        standardize: bool = True,
        dtype: Any = None,
        device: Any = "cpu",
        random_state: Any = None,
    ) -> None:
        self.module = module
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.swa_start = swa_start
        self.swa_lr = swa_lr
        self.rank = rank
        self.scale = scale
        self.n_samples = n_samples
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.standardize = standardize
        self.dtype = dtype
        self.device = device
        self.random_state = random_state


@final
class MultiSWAGClassifier(_Classifying):
    r"""MultiSWAG: the average over M networks trained apart, each with the posterior of `SWAGClassifier`.

    S samples are shared evenly by the M posteriors (S ≥ M). All members hold out the same rows.

    Args:
        n_members: M, networks trained apart.
        module: None for a multilayer perceptron; or module(n_features, n_outputs) → network, a class or a
            function, since each member needs weights of its own. It takes rows
            (N, F) and gives logits (N, C).
        hidden_layer_sizes: widths of the perceptron's hidden layers, with ReLU.
        epochs: E, passes over the rows.
        batch_size: rows a step; all of them where there are fewer.
        lr: learning rate of the first part.
        weight_decay: as the optimizer means it.
        optimizer: None for Adam; or optimizer(parameters, lr=…, weight_decay=…), such as torch.optim.AdamW.
        swa_start: the part of the epochs after which averaging begins.
        swa_lr: the constant rate of the averaging; None for half of `lr`, or `lr` where swa_start is 0.
        rank: K, deviations kept; 0 for a diagonal covariance. No more rows than snapshots are there.
        scale: of the covariance; 0 for SWA alone; "auto" for the one with the least NLL on held-out rows.
        n_samples: S, the members that are averaged in a prediction.
        early_stopping: begin averaging early: when the NLL of held-out rows has not fallen for
            `n_iter_no_change` epochs, from the best weights. The epochs of averaging are never cut short.
        validation_fraction: the part of the rows that is held out where early_stopping or scale="auto" asks
            for it; they are not trained on.
        n_iter_no_change: epochs of patience.
        standardize: centre features and divide them by their std (weighted, of the training rows) inside.
        dtype: "float32", "float64", or None for that of X (float64 is what tables usually have; float32 is
            faster).
        device: where to train and predict.
        random_state: seed, RandomState or None. The global generators of torch and Python are left as they
            were, NumPy's too unless it is None.
        n_jobs: processes that train them, as joblib counts; None for one after the other. One result.

    Attributes:
        posterior_: the `Mixture` of M posteriors, for `swag.save`, `diagnose()` and the rest of the library.
        ensemble_: the `swag.Ensemble`, which takes standardised features.
        classes_: (C,), sorted.
        scale_: the scale in use, tuned where it was "auto".
        n_iter_: epochs run. swa_start_: the epoch after which averaging began, one a member.
        n_collected_: snapshots, one a member. loss_curve_, validation_curve_: mean NLL of every epoch, nats,
            one list a member.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        InputError: at `fit`: a parameter that cannot be used, one class, a network of the wrong width.
        DivergedError: the loss is NaN or infinite; what was fitted before is still there.

    Source: Wilson & Izmailov 2020, arXiv:2002.08791.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> MultiSWAGClassifier(n_members=2, epochs=20, random_state=0).fit(X, y).posterior_
    Mixture(2 components, D=803)
    """

    def __init__(
        self,
        n_members: int = 5,
        *,
        module: Any = None,
        hidden_layer_sizes: Sequence[int] = (100,),
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 0.01,
        weight_decay: float = 1e-4,
        optimizer: Any = None,
        swa_start: float = 0.5,
        swa_lr: float | None = None,
        rank: int = 20,
        scale: float | Literal["auto"] = 0.5,
        n_samples: int = 30,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        standardize: bool = True,
        dtype: Any = None,
        device: Any = "cpu",
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.n_members = n_members
        self.module = module
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.swa_start = swa_start
        self.swa_lr = swa_lr
        self.rank = rank
        self.scale = scale
        self.n_samples = n_samples
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.standardize = standardize
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.n_jobs = n_jobs
