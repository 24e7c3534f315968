"""What a caller hands in, checked and turned into float64 arrays. The only file that knows predictives."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from swag.errors import InputError, StateError
from swag.metrics.inputs import as_labels, as_tensor, as_vector
from swag.metrics.sweep import check_probs

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]


@dataclasses.dataclass(frozen=True, eq=False)
class ClassProbabilities:
    """A classifier's output for N rows.

    Attributes:
        probs: (N, C) on the CPU, in the precision they came in.
        log_probs: (N, C) where the predictive has them: exact where `probs` underflow.
        scores: Out-of-distribution scores by name, (N,) each, higher = more out-of-distribution.
        n_samples: Members averaged, or None where it is not known.
    """

    probs: torch.Tensor
    log_probs: torch.Tensor | None
    scores: Mapping[str, Array]
    n_samples: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianOutput:
    """A regressor's output for N rows; the parts of the exact mixture are None where members were not kept.

    Attributes:
        mean: (N,).
        variance: (N,).
        aleatoric: (N,) or None.
        log_prob: (N,) log-density at the targets.
        cdf: (N,) distribution function at the targets.
        quantile: Level → (N,).
        member_means: (S, N).
        member_variances: (S, N).
        n_samples: Members averaged, or None.
    """

    mean: Array
    variance: Array
    aleatoric: Array | None
    log_prob: Array | None
    cdf: Array | None
    quantile: Callable[[float], Array] | None
    member_means: Array | None
    member_variances: Array | None
    n_samples: int | None


def check_methods(predictions: Any, name: str = "predictions") -> dict[str, Any]:
    """The mapping from method to predictions, non-empty and with usable names."""
    if not isinstance(predictions, Mapping):
        raise InputError(
            f"{name}: got {type(predictions).__name__}; pass a dict of method and predictive, "
            'such as {"SGD": ..., "SWAG": ...}'
        )
    if not predictions:
        raise InputError(f"{name}: the dict is empty; pass at least one method")
    for key in predictions:
        if not isinstance(key, str) or not key.strip():
            raise InputError(f"{name}: {key!r} is not a method's name; use non-empty strings as keys")
    return dict(predictions)


def is_regression(output: Any) -> bool:
    """Whether an output is a Gaussian predictive (it has `mean` and `variance`)."""
    return all(hasattr(output, part) for part in ("mean", "variance")) and not hasattr(output, "shape")


def class_labels(labels: Any, n_rows: int, n_classes: int, name: str = "labels") -> Labels:
    """Labels (N,) as integers in [0, C)."""
    try:
        tensor = as_labels(labels, n_rows, n_classes, torch.device("cpu"))
    except InputError as error:
        raise InputError(str(error).replace("labels", name, 1)) from None
    return tensor.numpy().astype(np.intp)


def class_probabilities(output: Any, name: str) -> ClassProbabilities:
    """Checks one classifier's output: probabilities (N, C) or a predictive that has them."""
    probs = check_probs(getattr(output, "probs", output), name).cpu()
    if probs.shape[1] < 2:
        raise InputError(
            f"{name} has shape {tuple(probs.shape)}; give both classes: torch.stack([1 - p, p], dim=1)"
        )
    log_probs = getattr(output, "log_probs", None)
    log_probs = None if log_probs is None else as_tensor(f"{name}.log_probs", log_probs).cpu()
    n_samples = getattr(output, "n_samples", None)
    exact = probs.double().numpy()
    scores = {"max_prob": 1.0 - exact.max(axis=1), "entropy": entropy(exact)}
    if n_samples != 1 and getattr(output, "mutual_information", None) is not None:
        scores["mutual_information"] = _column(
            output.mutual_information, len(probs), f"{name}.mutual_information"
        )
    if getattr(output, "energy", None) is not None:
        scores["energy"] = _column(output.energy, len(probs), f"{name}.energy")
    if getattr(output, "max_logit", None) is not None:
        scores["max_logit"] = -_column(output.max_logit, len(probs), f"{name}.max_logit")
    return ClassProbabilities(probs, log_probs, scores, n_samples)


def gaussian_output(output: Any, y: Array, name: str) -> GaussianOutput:
    """Checks one regressor's output against the targets (N,)."""
    variance = _column(output.variance, len(y), f"{name}.variance")
    if not (variance > 0).all():
        row = int((variance <= 0).argmax())
        raise InputError(f"{name}.variance row {row} is {variance[row]:.4g}; variances are > 0")
    aleatoric = getattr(output, "aleatoric", None)
    like = as_tensor(f"{name}.mean", output.mean)
    at_targets = torch.as_tensor(y, dtype=like.dtype, device=like.device)
    log_prob, cdf = (_of_mixture(output, part, at_targets) for part in ("log_prob", "cdf"))
    member_means, member_variances = (_members(output, part) for part in ("member_means", "member_variances"))
    return GaussianOutput(
        _column(output.mean, len(y), f"{name}.mean"),
        variance,
        None if aleatoric is None else _column(aleatoric, len(y), f"{name}.aleatoric"),
        None if log_prob is None else _column(log_prob, len(y), f"{name}.log_prob(labels)"),
        None if cdf is None else _column(cdf, len(y), f"{name}.cdf(labels)"),
        None if cdf is None else lambda q: _column(output.quantile(q), len(y), f"{name}.quantile"),
        member_means,
        member_variances,
        getattr(output, "n_samples", None),
    )


def targets(labels: Any) -> Array:
    """Regression targets (N,), finite."""
    return as_vector("labels", labels).cpu().numpy()


def entropy(probs: Array) -> Array:
    """H[p] in nats, (N, C) → (N,), with 0 log 0 = 0."""
    from scipy.special import entr

    return np.asarray(entr(probs).sum(axis=1))


def _column(value: Any, n_rows: int, name: str) -> Array:
    column = as_vector(name, value).cpu().numpy()
    if len(column) != n_rows:
        raise InputError(f"{name} has {len(column)} rows, but there are {n_rows}; give the same rows")
    return column


def _of_mixture(output: Any, method: str, y: torch.Tensor) -> Any:
    try:
        return getattr(output, method)(y)
    except (AttributeError, StateError):  # no such method, or the members were not kept
        return None


def _members(output: Any, part: str) -> Array | None:
    try:
        return as_tensor(part, getattr(output, part)).cpu().double().numpy()
    except (AttributeError, StateError):
        return None
