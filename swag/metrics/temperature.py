"""The temperature that makes labels most likely: p_c^{1/T} / Σ_c' p_c'^{1/T}, a convex problem in 1/T."""

import logging
import math
from collections.abc import Iterator

import torch

from swag.errors import InputError
from swag.metrics.inputs import Values, as_count, as_labels
from swag.metrics.sweep import check_probs, chunk_bounds

logger = logging.getLogger(__name__)

LOWEST, HIGHEST = 0.01, 100.0


def fit_temperature(probs: Values, labels: Values) -> float:
    r"""The temperature T of least NLL of softmax(ln p / T), found in float64.

    With β = 1/T, f(β) = 1/N Σ_i (ln Σ_c p_ic^β − β ln p_i[y_i]) is convex, with f′ = mean of
    E_β[ln p] − ln p[y] and f″ = mean of Var_β[ln p]: Newton's steps, bisected where they leave the bracket. A
    class with probability 0 keeps it; rows whose true class has it say nothing about T and are left out.

    Args:
        probs: (N, C) probabilities of validation rows, tensor or array; of an ensemble, the members' mean.
        labels: (N,) integer class indices.

    Returns:
        T in [0.01, 100], above 1 where the probabilities are too confident; an end that is reached is logged
        as a warning. 1 where every T is as good.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> probs, labels = torch.tensor([[0.9, 0.1]]).repeat(4, 1), torch.tensor([0, 0, 0, 1])
        >>> round(fit_temperature(probs, labels), 4)  # ln 9 / ln 3: .75 is right
        2.0
    """
    tensor = check_probs(probs)
    targets = as_labels(labels, len(tensor), tensor.shape[1], tensor.device)
    return fit_temperature_to_logs(tensor.double().log(), targets)


def fit_temperature_to_logs(log_probs: torch.Tensor, labels: torch.Tensor) -> float:
    """The same from log-probabilities (N, C), float64 and already checked: they do not underflow."""
    problem = list(shifted_logs(log_probs, labels))
    low, high = 1 / HIGHEST, 1 / LOWEST
    slope_low, _ = derivatives(problem, low)
    slope_high, _ = derivatives(problem, high)
    if slope_low == slope_high == 0:
        return 1.0
    if slope_low >= 0:
        logger.warning(
            "the best temperature is at or above %g, the highest allowed; the probabilities say little",
            HIGHEST,
        )
        return HIGHEST
    if slope_high <= 0:
        logger.warning(
            "the best temperature is at or below %g, the lowest allowed; is every row right?", LOWEST
        )
        return LOWEST
    beta = 1.0
    for _ in range(100):
        slope, curvature = derivatives(problem, beta)
        if slope == 0:
            break
        if slope < 0:
            low = beta
        else:
            high = beta
        following = beta - slope / curvature if curvature > 0 else high
        if not low < following < high:
            following = math.sqrt(low * high)
        if abs(following - beta) <= 1e-12 * beta:
            break
        beta = following
    return 1 / beta


def shifted_logs(
    log_probs: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """In chunks, for rows whose true class is possible: ln p_c − ln max p (n, C), and the label's (n,)."""
    for start, stop in chunk_bounds(log_probs):
        logs = log_probs[start:stop]
        own = logs.gather(1, labels[start:stop].unsqueeze(1)).squeeze(1)
        possible = own > -math.inf
        top = logs.amax(1)
        yield (logs - top.unsqueeze(1))[possible], (own - top)[possible]


def derivatives(problem: list[tuple[torch.Tensor, torch.Tensor]], beta: float) -> tuple[float, float]:
    """f′(β) and f″(β), sums over rows."""
    slope, curvature = 0.0, 0.0
    for logs, own in problem:
        weights = torch.exp(beta * logs)
        values = torch.where(weights > 0, logs, 0.0)
        total = weights.sum(1)
        first = (weights * values).sum(1) / total
        second = (weights * values.square()).sum(1) / total
        slope += float((first - own).sum())
        curvature += float((second - first.square()).sum())
    return slope, curvature


def nll_at(log_probs: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """Σ_i −ln softmax(ln p_i / T)[y_i] in nats, a sum."""
    scaled = torch.log_softmax(log_probs / temperature, dim=1)
    return -float(scaled.gather(1, labels.unsqueeze(1)).sum())


def calibrated_nll(probs: Values, labels: Values, *, n_splits: int = 5, seed: int = 0) -> float:
    r"""NLL after temperature scaling fitted on half the test rows and scored on the other, nats.

    Source: Ashukha et al., 2020. Each of `n_splits` random halvings gives two values, one for each half
    fitted; their mean is reported. It compares methods as if each had been calibrated, without spending
    validation rows. The logarithms are held in float64, 8 N C bytes.

    Args:
        probs: (N, C) probabilities of N ≥ 2 test rows, tensor or array.
        labels: (N,) integer class indices.
        n_splits: random halvings.
        seed: of the halvings; the same for methods that are compared.

    Returns:
        Nats per row; +∞ where a true class had probability 0, which no temperature mends.

    Raises:
        InputError: fewer than two rows, or shapes, dtypes or labels are wrong, or a row is not a
        distribution.

    Example:
        >>> import torch
        >>> from swag.metrics import nll
        >>> probs, labels = torch.tensor([[0.99, 0.01]]).repeat(400, 1), torch.tensor([0, 0, 0, 1] * 100)
        >>> round(nll(probs, labels), 2), round(calibrated_nll(probs, labels), 2)
        (1.16, 0.57)
    """
    logs = check_probs(probs).double().log()
    n = len(logs)
    targets = as_labels(labels, n, logs.shape[1], logs.device)
    as_count("n_splits", n_splits)
    if n < 2:
        raise InputError(f"probs has {n} row; two halves need at least 2")
    generator, total = torch.Generator().manual_seed(seed), 0.0
    for _ in range(n_splits):
        order = torch.randperm(n, generator=generator, device="cpu").to(logs.device)
        for fitted, scored in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            temperature = fit_temperature_to_logs(logs[fitted], targets[fitted])
            total += nll_at(logs[scored], targets[scored], temperature)
    return total / (n * n_splits)


def calibrated_log_likelihood(probs: Values, labels: Values, *, n_splits: int = 5, seed: int = 0) -> float:
    r"""−`calibrated_nll`: the mean log-likelihood after cross-validated temperature scaling, nats.

    Args:
        probs: (N, C) probabilities of N ≥ 2 test rows, tensor or array.
        labels: (N,) integer class indices.
        n_splits: random halvings.
        seed: of the halvings.

    Returns:
        Nats per row, 0 or less.

    Raises:
        InputError: as for `calibrated_nll`.

    Example:
        >>> import torch
        >>> probs, labels = torch.tensor([[0.99, 0.01]]).repeat(400, 1), torch.tensor([0, 0, 0, 1] * 100)
        >>> round(calibrated_log_likelihood(probs, labels), 2)
        -0.57
    """
    return -calibrated_nll(probs, labels, n_splits=n_splits, seed=seed)
