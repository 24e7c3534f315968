"""Regressors with mean and standard deviation from the posterior of their weights.

Longer than most files here, for the reason that `classifier.py` has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, final

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from swag.integrations.sklearn.estimator import SWAGEstimator
from swag.integrations.sklearn.objectives import GaussianNLL, Objective
from swag.integrations.sklearn.rows import Standard
from swag.integrations.sklearn.settings import Settings, noise_floor
from swag.posterior.protocol import check_n_samples
from swag.predictive import GaussianPredictive


class _Regressing(RegressorMixin, SWAGEstimator):
    """Everything but the parameters."""

    noise_floor: float

    def _objective(self) -> Objective:
        return GaussianNLL(noise_floor(self._fit_params["noise_floor"]) ** 2)

    def _target_standard(self, y: np.ndarray, weights: np.ndarray | None) -> Standard | None:
        return Standard.of(y, weights)

    def _checked_settings(self) -> Settings:
        noise_floor(self.noise_floor)
        return super()._checked_settings()

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains from fresh weights.

        Args:
            X: (N, F) finite numbers.
            y: (N,) finite numbers.
            sample_weight: (N,) ≥ 0: a row of weight 2 counts as two rows; None for 1.
        """
        settings = self._checked_settings()
        with self._or_as_before():
            X, y, sample_weight = self._checked_table(X, y, sample_weight, reset=True, y_numeric=True)
            self._fit(settings, X, y.astype(np.float64), sample_weight, 2)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One epoch over these rows, going on from `fit` or from earlier calls.

        A call counts as one of the E epochs: the learning rate moves, and once ⌊swa_start·E⌋ are over each
        call ends with a snapshot. E calls with all rows are `fit`. Before the first snapshot predictions are
        those of the weights as they are. The first call's rows set the standardisation.

        Args:
            X: (N, F).
            y: (N,).
            sample_weight: (N,) ≥ 0, relative to the mean of this call.
        """
        settings = self._checked_settings()
        first = not hasattr(self, "_runs")
        with self._or_as_before():
            X, y, sample_weight = self._checked_table(X, y, sample_weight, reset=first, y_numeric=True)
            self._partial_fit(settings, X, y.astype(np.float64), sample_weight, 2)
        return self

    def predict(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The mean of y (N,), and with `return_std` its std √(aleatoric + epistemic) (N,), in y's unit."""
        predictive = self.predictive(X)
        if return_std:
            return predictive.mean.numpy(), predictive.variance.sqrt().numpy()
        return predictive.mean.numpy()

    def predictive(self, X: Any) -> GaussianPredictive:
        """The mixture in y's unit: `mean`, `aleatoric`, `epistemic`, `log_prob(y)`, `quantile(q)`, …."""
        check_is_fitted(self)
        found: GaussianPredictive = self._predictive(X)
        mean, std = self._target or (0.0, 1.0)
        return GaussianPredictive(found.member_means * std + mean, found.member_variances * std**2)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Values drawn from the predictive (N, n_samples), in y's unit.

        A column has one member for all of its rows, so that columns are plausible functions with noise and
        not only plausible rows.

        Args:
            X: (N, F).
            n_samples: columns.
            random_state: seed, RandomState or None.
        """
        check_n_samples(n_samples)
        predictive = self.predictive(X)
        random = check_random_state(random_state)
        chosen = random.randint(predictive.n_samples, size=n_samples)
        means = predictive.member_means.numpy()[chosen]
        std = predictive.member_variances.sqrt().numpy()[chosen]
        return (means + std * random.standard_normal(means.shape)).T


@final
class SWAGRegressor(_Regressing):
    r"""A neural network regressor: mean and noise of y for every row, averaged over the SWAG posterior.

        p̄(y|x) = (1/S) Σ_s N(y; μ(x; θ_s), σ²(x; θ_s)),  θ_s ~ N(θ̄, scale·(Σ_diag + D̂D̂ᵀ/(K−1)))

    trained by the negative log-likelihood, with σ² = softplus(v) + noise_floor² of the network's second
    output v. `predict(X, return_std=True)` gives the mixture's mean and the root of its variance: the mean
    of the σ²_s (aleatoric, noise in y) plus the variance of the μ_s (epistemic, what the data leave open). y
    is one column; several are refused.

    Args:
        module: None for a multilayer perceptron; or module(n_features, n_outputs) → network, a class or a
            function; or a network, of which a copy is trained on. It takes rows
            (N, F) and gives (N, 2): mean and raw variance.
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
        standardize: centre features and y and divide them by their std (weighted, of the training rows).
        noise_floor: the least noise std, in units of y's std (of y itself without `standardize`).
        dtype: "float32", "float64", or None for that of X (float64 is what tables usually have; float32 is
            faster).
        device: where to train and predict.
        random_state: seed, RandomState or None. The global generators of torch and Python are left as they
            were, NumPy's too unless it is None.

    Attributes:
        posterior_: the `LowRankGaussian`, for `swag.save`, `diagnose()` and the rest of the library.
        ensemble_: the `swag.Ensemble`, between standardised features and standardised y.
        scale_: the scale in use, tuned where it was "auto".
        n_iter_: epochs run. swa_start_: the epoch after which averaging began.
        n_collected_: snapshots. loss_curve_, validation_curve_: mean NLL of every epoch, nats.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        InputError: at `fit`: a parameter that cannot be used, a network of the wrong width.
        DivergedError: the loss is NaN or infinite; what was fitted before is still there.

    Source: Maddox et al. 2019, arXiv:1902.02476.

    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 60)[:, None]
    >>> model = SWAGRegressor(epochs=60, random_state=0).fit(X, X[:, 0])
    >>> mean, std = model.predict([[0.0], [5.0]], return_std=True)
    >>> mean.shape, std.shape
    ((2,), (2,))
    >>> inside, outside = model.predictive([[0.0], [5.0]]).epistemic
    >>> bool(outside > 4 * inside)
    True
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
        noise_floor: float = 0.01,
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
        self.noise_floor = noise_floor
        self.dtype = dtype
        self.device = device
        self.random_state = random_state


@final
class MultiSWAGRegressor(_Regressing):
    r"""MultiSWAG: the average over M networks trained apart, each with the posterior of `SWAGRegressor`.

    S samples are shared evenly by the M posteriors (S ≥ M). All members hold out the same rows.

    Args:
        n_members: M, networks trained apart.
        module: None for a multilayer perceptron; or module(n_features, n_outputs) → network, a class or a
            function, since each member needs weights of its own. It takes rows
            (N, F) and gives (N, 2): mean and raw variance.
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
        standardize: centre features and y and divide them by their std (weighted, of the training rows).
        noise_floor: the least noise std, in units of y's std (of y itself without `standardize`).
        dtype: "float32", "float64", or None for that of X (float64 is what tables usually have; float32 is
            faster).
        device: where to train and predict.
        random_state: seed, RandomState or None. The global generators of torch and Python are left as they
            were, NumPy's too unless it is None.
        n_jobs: processes that train them, as joblib counts; None for one after the other. One result.

    Attributes:
        posterior_: the `Mixture` of M posteriors, for `swag.save`, `diagnose()` and the rest of the library.
        ensemble_: the `swag.Ensemble`, between standardised features and standardised y.
        scale_: the scale in use, tuned where it was "auto".
        n_iter_: epochs run. swa_start_: the epoch after which averaging began, one a member.
        n_collected_: snapshots, one a member. loss_curve_, validation_curve_: mean NLL of every epoch, nats,
            one list a member.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        InputError: at `fit`: a parameter that cannot be used, a network of the wrong width.
        DivergedError: the loss is NaN or infinite; what was fitted before is still there.

    Source: Wilson & Izmailov 2020, arXiv:2002.08791.

    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> MultiSWAGRegressor(n_members=2, epochs=20, random_state=0).fit(X, y).posterior_
    Mixture(2 components, D=1,302)
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
        noise_floor: float = 0.01,
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
        self.noise_floor = noise_floor
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.n_jobs = n_jobs
