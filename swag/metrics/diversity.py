"""How uncertain a prediction is, in nats, and how much of that is an ensemble's members disagreeing."""

import torch

from swag.errors import InputError
from swag.metrics.inputs import Array, like, working
from swag.metrics.sweep import check_probs, chunk_bounds


def entropy_rows(probs: torch.Tensor) -> torch.Tensor:
    """−Σ_c p_c ln p_c over the last dimension, with 0 ln 0 = 0."""
    return torch.special.entr(probs).sum(-1)


def entropy(probs: Array) -> Array:
    r"""Predictive entropy of each row: H_i = −Σ_c p_ic ln p_ic, nats.

    Args:
        probs: (N, C) probabilities, tensor or array; of an ensemble, the members' mean.

    Returns:
        (N,) in 0..ln C, float32 (float64 for float64 input), a tensor or an array as `probs` is.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    tensor = check_probs(probs)
    return like(torch.cat([entropy_rows(working(tensor[a:b])) for a, b in chunk_bounds(tensor)]), probs)


def split_entropy(member_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Entropy of the members' mean, and the members' mean entropy, (N,) float64, in chunks of rows."""
    total, expected = [], []
    n_members = member_probs.shape[0]
    for start, stop in chunk_bounds(member_probs.transpose(0, 1)):
        part = member_probs[:, start:stop].double()
        total.append(entropy_rows(part.sum(0) / n_members))
        expected.append(entropy_rows(part).sum(0) / n_members)
    return torch.cat(total), torch.cat(expected)


def expected_entropy(member_probs: Array) -> Array:
    r"""Mean entropy of an ensemble's members: 1/S Σ_s H(p_si), nats; what no further member would remove.

    Args:
        member_probs: (S, N, C) probabilities of the S members.

    Returns:
        (N,) in 0..ln C, float32 (float64 for float64 input), a tensor or an array as the input is.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> expected_entropy(torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]]))
        tensor([0.3466])
    """
    tensor = check_probs(member_probs, "member_probs", dims=3)
    _, expected = split_entropy(tensor)
    return like(expected.to(working(tensor[:0]).dtype), member_probs)


def mutual_information(member_probs: Array) -> Array:
    r"""Entropy of the mean less the mean entropy: H(1/S Σ_s p_si) − 1/S Σ_s H(p_si) ≥ 0, nats (BALD).

    Args:
        member_probs: (S, N, C) probabilities of the S members.

    Returns:
        (N,) in 0..ln min(S, C): 0 where the members agree. Computed in float64; float32 (float64 for float64
        input), a tensor or an array as the input is.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.

    Example:
        >>> import torch
        >>> mutual_information(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        tensor([0.6931])
    """
    tensor = check_probs(member_probs, "member_probs", dims=3)
    total, expected = split_entropy(tensor)
    return like((total - expected).clamp_min(0).to(working(tensor[:0]).dtype), member_probs)


def disagreement(member_probs: Array) -> float:
    r"""How often two different members predict different classes, averaged over rows and pairs of members.

    1/N Σ_i (1 − Σ_c n_ic (n_ic − 1) / (S (S − 1))), n_ic the members whose first maximum is class c.

    Args:
        member_probs: (S, N, C) probabilities of S ≥ 2 members.

    Returns:
        A fraction.

    Raises:
        InputError: fewer than two members, or as for `mutual_information`.

    Example:
        >>> import torch
        >>> disagreement(torch.tensor([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]]))
        0.5
    """
    tensor = check_probs(member_probs, "member_probs", dims=3)
    n_members, n, n_classes = tensor.shape
    if n_members < 2:
        raise InputError(f"member_probs has {n_members} member; disagreement needs at least two")
    votes = torch.zeros(n, n_classes, dtype=torch.int64, device=tensor.device)
    for member in tensor:
        votes.scatter_add_(
            1, member.argmax(1, keepdim=True), torch.ones_like(votes[:, :1])
        )  # the first maximum
    agreeing = int((votes * (votes - 1)).sum())
    return 1 - agreeing / (n * n_members * (n_members - 1))
