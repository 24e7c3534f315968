"""PCA of a few long rows, by their Gram matrix: never a (D, D) matrix, and D only in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from swag.errors import InputError

# Columns read at once, in float64: 20 rows of these are 40 MB.
_PIECE = 1 << 18


def principal_directions(rows: Tensor | Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    r"""s_i v_i (D, k) and s_i (k,) of D̂/√(K−1), largest first, D̂ = rows (K, D).

    With D̂D̂ᵀ/(K−1) = U S² Uᵀ it is D̂ᵀU/√(K−1), which divides by no singular value. A direction's sign makes
    its largest entry positive.

    Raises:
        InputError: fewer than two rows, or k not between 1 and K.
    """
    n = len(rows)
    if n < 2:
        raise InputError(f"deviations: got {n} row{'' if n == 1 else 's'}; PCA needs two or more")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
        raise InputError(
            f"k: got {k!r} with {n} deviation rows present; pass 1 to {n}, or collect more snapshots with a "
            "larger rank"
        )
    squared, vectors = torch.linalg.eigh(gram(rows) / (n - 1))
    order = torch.arange(n - 1, n - 1 - k, -1, device=squared.device)
    mixing = vectors[:, order] / (n - 1) ** 0.5
    size = rows[0].numel()
    wide = rows[0].dtype == torch.float64
    basis = torch.empty(size, k, dtype=torch.float64 if wide else torch.float32, device=rows[0].device)
    for start in range(0, size, _PIECE):
        basis[start : start + _PIECE] = piece(rows, start).T @ mixing
    at = basis.abs().argmax(0)
    basis *= torch.where(basis[at, torch.arange(k, device=at.device)] < 0, -1.0, 1.0).to(basis)
    return basis, squared[order].clamp(min=0).sqrt()


def gram(rows: Tensor | Sequence[Tensor]) -> Tensor:
    """D̂D̂ᵀ (K, K) in float64."""
    n, size = len(rows), rows[0].numel()
    total = torch.zeros(n, n, dtype=torch.float64, device=rows[0].device)
    for start in range(0, size, _PIECE):
        part = piece(rows, start)
        total += part @ part.T
    return total


def piece(rows: Tensor | Sequence[Tensor], start: int) -> Tensor:
    """The columns from `start` on, a piece of them, in float64 (K, ≤ piece)."""
    at = slice(start, start + _PIECE)
    if isinstance(rows, Tensor):
        return rows[:, at].double()
    return torch.stack([row[at].double() for row in rows])
