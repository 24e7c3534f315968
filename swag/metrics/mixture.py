"""Scores of an ensemble's exact Gaussian mixture, Σ_s w_s N(m_s, v_s), not of one normal with its moments."""

import math

import torch

from swag.errors import InputError
from swag.metrics.inputs import (
    Array,
    Values,
    above_zero,
    as_finite,
    as_tensor,
    as_vector,
    at_least_zero,
    like,
    same_length,
)
from swag.metrics.regression import mean_abs_normal

PAIR_ELEMENTS = 1 << 22  # numbers held at once for the pairs of members


def mixture_inputs(
    means: Values, variances: Values, y: Values, weights: Values | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Members' means and variances (S, N), outcomes (N,) and weights (S,) that sum to 1, all float64."""
    members, widths = as_tensor("means", means), as_tensor("variances", variances)
    if members.dim() != 2:
        raise InputError(
            f"means has shape {tuple(members.shape)}, expected (S, N): a row for every member of the ensemble"
        )
    members, widths = as_finite("means", members), at_least_zero("variances", as_finite("variances", widths))
    same_length("means", members, variances=widths)
    outcomes = as_vector("y", y)
    if len(outcomes) != members.shape[1]:
        raise InputError(
            f"y has {len(outcomes)} rows but means has {members.shape[1]} columns; means is (S, N) and y (N,)"
        )
    shares = mixture_weights(weights, len(members))
    return members, widths.to(members.device), outcomes.to(members.device), shares.to(members.device)


def mixture_weights(weights: Values | None, n_members: int) -> torch.Tensor:
    """Weights (S,) ≥ 0 that sum to 1, equal ones where none are given."""
    if weights is None:
        return torch.full((n_members,), 1 / n_members, dtype=torch.float64, device="cpu")
    shares = at_least_zero("weights", as_vector("weights", weights))
    if len(shares) != n_members:
        raise InputError(
            f"weights has {len(shares)} entries but there are {n_members} members; give one for each"
        )
    total = float(shares.sum())
    if abs(total - 1) > 1e-6:
        raise InputError(f"weights sums to {total:.6g}, not 1; divide by the sum")
    return shares / total


def mixture_crps(means: Values, variances: Values, y: Values, *, weights: Values | None = None) -> float:
    r"""Continuous ranked probability score of the exact mixture, averaged over rows.

    Σ_s w_s A(y − m_s, v_s) − ½ Σ_s Σ_t w_s w_t A(m_s − m_t, v_s + v_t), with A(μ, σ²) = E|N(μ, σ²)| =
    2σ φ(μ/σ) + μ (2Φ(μ/σ) − 1) (Grimit et al., 2006). Time S² N, memory a fixed number of pairs at once.

    Args:
        means: (S, N) members' means.
        variances: (S, N) members' variances ≥ 0, in units of y squared.
        y: (N,) outcomes.
        weights: (S,) that sum to 1; equal if None.

    Returns:
        0 or more, in units of y; `crps` where there is one member.

    Raises:
        InputError: shapes differ, a value is not finite, or a variance is negative.

    Example:
        >>> round(mixture_crps([[0.0], [0.0]], [[1.0], [1.0]], [0.0]), 4)
        0.2337
    """
    members, widths, outcomes, shares = mixture_inputs(means, variances, y, weights)
    n_members, n = members.shape
    first, second = torch.triu_indices(n_members, n_members, offset=1, device=members.device)
    pair_shares = shares[first] * shares[second]  # each unordered pair stands for two, which the ½ halves
    size = max(1, PAIR_ELEMENTS // max(n_members, len(first)))
    total = 0.0
    for start in range(0, n, size):
        m, v, outcome = (
            members[:, start : start + size],
            widths[:, start : start + size],
            outcomes[start : start + size],
        )
        own = shares @ mean_abs_normal(outcome - m, v)
        spread = 0.5 * (shares.square() @ mean_abs_normal(torch.zeros_like(v), 2 * v))
        between = pair_shares @ mean_abs_normal(m[first] - m[second], v[first] + v[second])
        total += float((own - spread - between).clamp_min(0).sum())
    return total / n


def mixture_nll(means: Values, variances: Values, y: Values, *, weights: Values | None = None) -> float:
    r"""Negative log-density under the exact mixture: −1/N Σ_i ln Σ_s w_s N(y_i; m_si, v_si), nats.

    Args:
        means: (S, N) members' means.
        variances: (S, N) members' variances > 0, in units of y squared.
        y: (N,) outcomes.
        weights: (S,) that sum to 1; equal if None.

    Returns:
        A mean over rows, by log-sum-exp; `gaussian_nll` where there is one member.

    Raises:
        InputError: shapes differ, a value is not finite, or a variance is not above 0.

    Example:
        >>> round(mixture_nll([[0.0], [0.0]], [[1.0], [1.0]], [0.0]), 4)
        0.9189
    """
    members, widths, outcomes, shares = mixture_inputs(means, variances, y, weights)
    above_zero("variances", widths)
    log_density = -0.5 * (math.log(2 * math.pi) + widths.log() + (outcomes - members).square() / widths)
    return -float(torch.logsumexp(log_density + shares.log().unsqueeze(1), dim=0).mean())


def mixture_pit(means: Array, variances: Values, y: Values, *, weights: Values | None = None) -> Array:
    r"""Probability integral transform of each row under the exact mixture: Σ_s w_s Φ((y − m_s)/√v_s).

    Args:
        means: (S, N) members' means.
        variances: (S, N) members' variances > 0, in units of y squared.
        y: (N,) outcomes.
        weights: (S,) that sum to 1; equal if None.

    Returns:
        (N,) float64 in [0, 1], a tensor or an array as `means` is.

    Raises:
        InputError: shapes differ, a value is not finite, or a variance is not above 0.

    Example:
        >>> import torch
        >>> mixture_pit(torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1), torch.tensor([0.0]))
        tensor([0.5000], dtype=torch.float64)
    """
    members, widths, outcomes, shares = mixture_inputs(means, variances, y, weights)
    above_zero("variances", widths)
    return like((shares @ torch.special.ndtr((outcomes - members) / widths.sqrt())).clamp(0, 1), means)
