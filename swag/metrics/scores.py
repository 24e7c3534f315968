"""Scores of single inputs for telling out-of-distribution ones: higher = more out-of-distribution.

Each takes (N, C), of one model or of an ensemble's mean. `averaged_over_members` applies one to every member
of an ensemble (S, N, C) and averages the scores, which is another figure than the score of the average.
"""

from collections.abc import Callable

import torch

from swag.errors import InputError
from swag.metrics.diversity import entropy, mutual_information
from swag.metrics.inputs import Array, as_tensor, like, working
from swag.metrics.sweep import check_probs


def max_probability_score(probs: Array) -> Array:
    r"""1 − max_c p_c of each row (Hendrycks and Gimpel, 2017, turned round).

    Args:
        probs: (N, C) probabilities, tensor or array.

    Returns:
        (N,) in 0..1 − 1/C, a tensor or an array as `probs` is.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> max_probability_score(torch.tensor([[0.75, 0.25]]))
        tensor([0.2500])
    """
    return like(1 - working(check_probs(probs)).amax(1), probs)


def entropy_score(probs: Array) -> Array:
    r"""Predictive entropy of each row, −Σ_c p_c ln p_c, nats; `entropy` under the name of a score.

    Args:
        probs: (N, C) probabilities, tensor or array.

    Returns:
        (N,) in 0..ln C, a tensor or an array as `probs` is.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> entropy_score(torch.tensor([[0.5, 0.5]]))
        tensor([0.6931])
    """
    return entropy(probs)


def mutual_information_score(member_probs: Array) -> Array:
    r"""Mutual information of each row, nats: what the members of an ensemble disagree about.

    Args:
        member_probs: (S, N, C) probabilities of the S members.

    Returns:
        (N,), 0 or more, a tensor or an array as the input is.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> mutual_information_score(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        tensor([0.6931])
    """
    return mutual_information(member_probs)


def as_logits(logits: Array) -> torch.Tensor:
    """Finite logits (N, C), float32 or float64."""
    tensor = as_tensor("logits", logits)
    if tensor.dim() != 2 or tensor.numel() == 0:
        hint = "; for an ensemble use averaged_over_members" if tensor.dim() == 3 else ""
        raise InputError(f"logits has shape {tuple(tensor.shape)}, expected (N, C){hint}")
    if not tensor.is_floating_point():
        raise InputError(
            f"logits has dtype {tensor.dtype}, expected floating point; convert it: logits.float()"
        )
    tensor = working(tensor)
    bad = ~torch.isfinite(tensor).all(1)
    if bool(bad.any()):
        raise InputError(
            f"logits row {int(bad.int().argmax())} holds NaN or infinity; every logit must be finite"
        )
    return tensor


def energy_score(logits: Array) -> Array:
    r"""Energy of each row: −ln Σ_c exp(logit_c) (Liu et al., 2020, temperature 1).

    Args:
        logits: (N, C) unnormalised, tensor or array; log-probabilities would all have energy 0.

    Returns:
        (N,) of any sign, a tensor or an array as `logits` is.

    Raises:
        InputError: the shape or dtype is wrong, or a value is not finite.

    Example:
        >>> import torch
        >>> energy_score(torch.tensor([[0.0, 0.0]]))
        tensor([-0.6931])
    """
    return like(-torch.logsumexp(as_logits(logits), dim=1), logits)


def max_logit_score(logits: Array) -> Array:
    r"""−max_c logit_c of each row (Hendrycks et al., 2022, turned round).

    Args:
        logits: (N, C) unnormalised, tensor or array.

    Returns:
        (N,) of any sign, a tensor or an array as `logits` is.

    Raises:
        InputError: the shape or dtype is wrong, or a value is not finite.

    Example:
        >>> import torch
        >>> max_logit_score(torch.tensor([[3.0, 1.0]]))
        tensor([-3.])
    """
    return like(-as_logits(logits).amax(1), logits)


def averaged_over_members(score: Callable[[Array], Array], members: Array) -> Array:
    r"""Mean over an ensemble's members of a score of each: 1/S Σ_s score(members_s).

    Args:
        score: one of this file's scores of (N, C).
        members: (S, N, C) logits or probabilities, as that score takes them.

    Returns:
        (N,), a tensor or an array as `members` is.

    Raises:
        InputError: `members` is not (S, N, C), or what the score refuses.

    Example:
        >>> import torch
        >>> averaged_over_members(max_logit_score, torch.tensor([[[3.0, 1.0]], [[0.0, 1.0]]]))
        tensor([-2.])
    """
    if members.ndim != 3 or members.shape[0] == 0:
        raise InputError(
            f"members has shape {tuple(members.shape)}, expected (S, N, C) with at least one member"
        )
    total = score(members[0])
    for member in members[1:]:
        total = total + score(member)
    return total / members.shape[0]
