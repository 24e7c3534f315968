"""A table that needs no data folder: scikit-learn's diabetes progression, with two random splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes


def write_diabetes(path: Path) -> Path:
    """442 rows of 10 features as an .npz file in the layout of the published sets."""
    features, target = load_diabetes(return_X_y=True)
    n, columns = features.shape
    orders = [np.random.default_rng(seed).permutation(n) for seed in (0, 1)]
    cut = round(0.9 * n)
    np.savez(
        path,
        data=np.column_stack([features, target]),
        index_features=np.arange(columns),
        index_target=np.array(columns),
        index_train=np.array([order[:cut] for order in orders]),
        index_test=np.array([order[cut:] for order in orders]),
    )
    return path
