"""scikit-learn's own checks, all of them, for the four estimators, with fewer epochs than usual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from swag.integrations.sklearn import MultiSWAGClassifier, MultiSWAGRegressor, SWAGClassifier, SWAGRegressor

FEW: dict[str, Any] = {"epochs": 16, "n_samples": 4, "rank": 4, "hidden_layer_sizes": (32,), "lr": 0.03}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are too small for more
    yield
    torch.set_num_threads(before)


@parametrize_with_checks(
    [
        SWAGClassifier(epochs=30),
        SWAGRegressor(epochs=30),
        MultiSWAGClassifier(n_members=2, **FEW),
        MultiSWAGRegressor(n_members=2, **FEW),
    ]
)
def test_scikit_learns_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
