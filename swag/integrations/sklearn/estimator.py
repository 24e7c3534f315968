"""What the four estimators share: from a checked table to trained members, their posterior and its average.

A base class, which this library has nowhere else: scikit-learn finds parameters, tags and mixins by
inheritance. The estimators themselves are final.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from swag.ensemble import Ensemble
from swag.errors import InputError
from swag.files.ensembles import pack_ensemble, unpack_ensemble
from swag.integrations.sklearn.objectives import Objective
from swag.integrations.sklearn.rows import Rows, Standard, held_out, kept_weights
from swag.integrations.sklearn.run import Run, check_same_kind
from swag.integrations.sklearn.settings import Settings, device_here, settings_of
from swag.integrations.sklearn.state import plain, tensors
from swag.noise import split_seeds
from swag.posterior import Mixture, Posterior
from swag.progress import silent
from swag.scale_rank import tune

# Rows that go through the members at once.
_AT_ONCE = 8192
_LARGEST_SEED = 2**31 - 1
# Tables are small and their networks soon certain, or far from it: a wider grid than `tune` has by itself.
_SCALES = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 16.0)


class SWAGEstimator(BaseEstimator):
    """The shared part; use SWAGClassifier, SWAGRegressor or their Multi forms.

    A subclass says what is minimised and how targets become numbers.
    """

    def _objective(self) -> Objective:
        raise NotImplementedError

    def _target_standard(self, y: np.ndarray, weights: np.ndarray | None) -> Standard | None:
        """How targets are standardised; None where they are class numbers."""
        raise NotImplementedError

    def _checked_settings(self) -> Settings:
        return settings_of(self.get_params(deep=False))

    def _checked_table(self, X: Any, y: Any, sample_weight: Any, *, reset: bool, **how: Any) -> Any:
        """X (N, F), y (N,) and weights (N,) or None as arrays, by scikit-learn's own checks."""
        X, y = validate_data(self, X, y, reset=reset, dtype=[np.float64, np.float32], **how)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return X, y, sample_weight

    def _begin(self, settings: Settings, X: np.ndarray, n_outputs: int) -> list[int]:
        """Sets up what belongs to the data and not to the weights; returns the members' seeds."""
        seed = int(check_random_state(self.random_state).randint(_LARGEST_SEED))
        self._dtype = str(settings.dtype or torch.from_numpy(X[:0].copy()).dtype).removeprefix("torch.")
        self._n_outputs = n_outputs
        self._split_seed, self._draw_seed, *members = split_seeds(seed, 2 + settings.n_members)
        self._fit_params = {k: v for k, v in self.get_params(deep=False).items() if k != "random_state"}
        return members

    def _fit(
        self, settings: Settings, X: np.ndarray, y: np.ndarray, sample_weight: Any, n_outputs: int
    ) -> None:
        """Trains all members and reads their posterior out."""
        seeds = self._begin(settings, X, n_outputs)
        kept, weights = kept_weights(sample_weight)
        X, y = X[kept], y[kept]
        train: Any = slice(None)
        held = None
        if settings.holds_out:
            labels = y if np.issubdtype(y.dtype, np.integer) else None
            split_seed = self._split_seed % _LARGEST_SEED
            train, held = held_out(len(X), settings.validation_fraction, split_seed, labels)
        own = None if weights is None else weights[train]
        self._standardise_as(settings, X[train], y[train], own)
        rows = self._rows(settings, X[train], y[train], own)
        validation = None
        if held is not None:
            validation = self._rows(settings, X[held], y[held], None if weights is None else weights[held])
        objective = self._objective()
        jobs = (
            delayed(_trained)(settings, X.shape[1], n_outputs, seed, rows, validation, objective)
            for seed in seeds
        )
        self._runs: list[Run] = Parallel(n_jobs=settings.n_jobs)(jobs)
        self._read_out(settings, rows, validation)

    def _partial_fit(
        self, settings: Settings, X: np.ndarray, y: np.ndarray, sample_weight: Any, n_outputs: int
    ) -> None:
        """One epoch over the rows at hand for every member, and the posterior after it."""
        if settings.early_stopping:
            raise InputError("early_stopping: partial_fit holds no rows out; pass False, or call fit")
        if settings.scale == "auto" and not hasattr(self, "scale_"):
            raise InputError(
                "scale: 'auto' is tuned on held-out rows, of which partial_fit has none; pass a number, or "
                "call fit first"
            )
        kept, weights = kept_weights(sample_weight)
        if not hasattr(self, "_runs"):
            seeds = self._begin(settings, X, n_outputs)
            self._standardise_as(settings, X[kept], y[kept], weights)
            dtype = getattr(torch, self._dtype)
            self._runs = [Run(settings, X.shape[1], n_outputs, dtype, seed) for seed in seeds]
        check_same_kind(self._runs, settings)
        rows = self._rows(settings, X[kept], y[kept], weights)
        before = [run.state_dict() for run in self._runs]
        try:
            for run in self._runs:
                run.step_(rows, self._objective())
            self._read_out(settings, rows, None)
        except BaseException:
            for run, state in zip(self._runs, before, strict=True):
                run.load_state_dict(state)
            raise

    @contextmanager
    def _or_as_before(self) -> Iterator[None]:
        """Gives all attributes back as they were where the block fails."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _standardise_as(
        self, settings: Settings, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None
    ) -> None:
        features = Standard.of(X, weights) if settings.standardize else None
        self._features = None if features is None else [features.mean, features.std]
        target = self._target_standard(y, weights) if settings.standardize else None
        self._target = None if target is None else [float(target.mean), float(target.std)]

    def _rows(self, settings: Settings, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Rows:
        dtype = getattr(torch, self._dtype)
        place: dict[str, Any] = {"device": settings.device}
        if np.issubdtype(y.dtype, np.integer):
            targets = torch.as_tensor(y, dtype=torch.int64, **place)
        else:
            mean, std = self._target or (0.0, 1.0)
            targets = torch.as_tensor((y - mean) / std, dtype=dtype, **place)
        own = None if weights is None else torch.as_tensor(weights / weights.mean(), dtype=dtype, **place)
        return Rows(self._inputs(X).to(settings.device), targets, own)

    def _inputs(self, X: np.ndarray) -> torch.Tensor:
        own = np.array(X) if self._features is None else Standard(*self._features).apply(X)
        return torch.from_numpy(own).to(getattr(torch, self._dtype))

    def _read_out(self, settings: Settings, rows: Rows, validation: Rows | None) -> None:
        """The posterior of the members, its ensemble, and what users look at."""
        network, batches = self._runs[0].network, rows.batches(settings.batch_size)
        likelihood = self._objective().likelihood
        if settings.scale != "auto":
            self.scale_ = settings.scale
            self.posterior_ = self._mixture(self.scale_)
        elif validation is None:
            self.posterior_ = self._mixture(self.scale_)
        else:
            with silent():
                tuned = tune(
                    self._mixture(1.0),
                    network,
                    [(validation.x, validation.y)],
                    scales=_SCALES,
                    n_samples=settings.n_samples,
                    bn_loader=batches,
                    seed=self._draw_seed,
                    likelihood=likelihood,
                )
            self.posterior_, self.scale_ = tuned.posterior, tuned.scale
        with silent():
            self.ensemble_ = Ensemble(
                network,
                self.posterior_,
                settings.n_samples,
                bn_loader=batches,
                seed=self._draw_seed,
                likelihood=likelihood,
            )
        alone = settings.n_members == 1 and not hasattr(self, "n_members")
        self.n_iter_ = max(run.epoch for run in self._runs)
        for name, values in (
            ("loss_curve_", [list(run.losses) for run in self._runs]),
            ("validation_curve_", [list(run.validation_losses) for run in self._runs]),
            ("swa_start_", [run.start for run in self._runs]),
            ("n_collected_", [run.collector.n_collected for run in self._runs]),
        ):
            setattr(self, name, values[0] if alone else values)

    def _mixture(self, scale: float) -> Posterior:
        posteriors = [run.posterior(scale) for run in self._runs]
        return Mixture(posteriors) if len(posteriors) > 1 else posteriors[0]

    def _batches(self, X: Any) -> list[torch.Tensor]:
        """Rows that were checked against the fitted table, standardised, as the ensemble takes them."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return list(self._inputs(X).split(_AT_ONCE))

    def _predictive(self, X: Any) -> Any:
        """The ensemble's predictive on the CPU."""
        batches = self._batches(X)
        with silent():
            return self.ensemble_.predict(batches).to("cpu")

    def __getstate__(self) -> dict[str, Any]:
        """Parameters, numbers and NumPy arrays, for pickle, joblib and skops; no torch object."""
        state = dict(super().__getstate__())
        if "_runs" in state:
            header, found = pack_ensemble(state.pop("ensemble_"))
            del state["posterior_"]
            state["_runs"] = [run.state_dict() for run in state["_runs"]]
            state["_ensemble"] = {"header": header, "tensors": plain(found)}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        runs, ensemble = state.pop("_runs", None), state.pop("_ensemble", None)
        super().__setstate__(state)
        if runs is None or ensemble is None:
            return
        here = {"device": device_here(self._fit_params["device"])}
        settings, dtype = settings_of(self._fit_params | here), getattr(torch, self._dtype)
        self._runs = []
        for own in runs:
            run = Run(settings, self.n_features_in_, self._n_outputs, dtype, 0)
            run.load_state_dict(own)
            self._runs.append(run)
        self.posterior_ = self._mixture(self.scale_)
        found = tensors(ensemble["tensors"])
        self.ensemble_ = unpack_ensemble(ensemble["header"], found, self._runs[0].network, None)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "ensemble_")


def _trained(
    settings: Settings,
    n_features: int,
    n_outputs: int,
    seed: int,
    rows: Rows,
    validation: Rows | None,
    objective: Objective,
) -> Run:
    """One member, in this process or another."""
    return Run(settings, n_features, n_outputs, rows.x.dtype, seed).train_(rows, validation, objective)
