"""What predictions are worth, with the standard error of having so many test rows and no more."""

from __future__ import annotations

import numpy as np

from swag import metrics

RESAMPLES = 200


def classification(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL (nats), Brier, ECE and mean entropy (nats) of probabilities (N, C), with standard errors.

    The errors are those over test rows: of a mean from its rows, of ECE from a bootstrap.
    """
    probs = probs.astype(np.float64)
    probs /= probs.sum(1, keepdims=True)
    rows = {
        "accuracy": (probs.argmax(1) == labels).astype(float),
        "nll": -np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-300)),
        "brier": np.square(probs - np.eye(probs.shape[1])[labels]).sum(1),
        "entropy": -(probs * np.log(np.maximum(probs, 1e-300))).sum(1),
    }
    found = {name: float(values.mean()) for name, values in rows.items()}
    found |= {f"{name}_error": float(v.std(ddof=1) / np.sqrt(len(v))) for name, v in rows.items()}
    random = np.random.default_rng(0)
    again = [random.integers(len(labels), size=len(labels)) for _ in range(RESAMPLES)]
    found["ece"] = float(metrics.ece(probs, labels))
    found["ece_error"] = float(np.std([float(metrics.ece(probs[i], labels[i])) for i in again], ddof=1))
    return found


def regression(log_density: np.ndarray, mean: np.ndarray, std: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """NLL (nats), RMSE, coverage of mean ± 1.96 std and mean std, with the NLL's standard error."""
    return {
        "nll": float(-log_density.mean()),
        "nll_error": float(log_density.std(ddof=1) / np.sqrt(len(y))),
        "rmse": float(np.sqrt(np.square(y - mean).mean())),
        "coverage": float((np.abs(y - mean) <= 1.959964 * std).mean()),
        "std": float(std.mean()),
    }


def gaussian(mean: np.ndarray, std: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log N(y; mean, std²) of every row."""
    return -0.5 * (np.square((y - mean) / std) + np.log(2 * np.pi * np.square(std)))
