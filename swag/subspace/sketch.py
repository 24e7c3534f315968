"""Frequent directions: a low-rank sketch of rows that come one after the other, with a bound on its error."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from swag.errors import InputError, StateError
from swag.parameters import Layout, Select
from swag.subspace.pca import gram
from swag.subspace.space import Subspace


@final
class FrequentDirections:
    r"""A sketch B (ℓ, D) of all the rows A (n, D) given to it, in 2ℓ·D numbers however large n is.

    When its 2ℓ rows are full, they are rotated to their right singular vectors and every squared singular
    value is lowered by δ = σ²_{ℓ+1}, which leaves ℓ rows. For every unit vector x, and every j < ℓ + 1,

        0 ≤ ‖Ax‖² − ‖Bx‖² ≤ Σδ ≤ ‖A − A_j‖²_F / (ℓ + 1 − j),

    A_j the best approximation of rank j. Σδ is `error_bound`, and known exactly.

    Args:
        size: D.
        rank: ℓ ≥ 1, rows kept.
        dtype: of the sketch.
        device: where it lives.

    Source: Liberty 2013; Ghashami, Liberty, Phillips & Woodruff 2016, arXiv:1501.01711, theorem 1.1.

    >>> sketch = FrequentDirections(3, rank=1)
    >>> for _ in range(50):
    ...     sketch.update(torch.tensor([3.0, 0.0, 0.0]))
    >>> round((sketch.rows.T @ sketch.rows)[0, 0].item(), 3), sketch.error_bound < 1e-9
    (450.0, True)
    """

    def __init__(
        self,
        size: int,
        rank: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("size", size), ("rank", rank)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: got {value!r}; pass an integer of at least 1")
        self.rank = rank
        self._rows = torch.zeros(2 * rank, size, dtype=dtype, device=device)
        self._filled = 0
        self._rotated = True
        self._error = 0.0
        self.n_rows = 0

    def update(self, row: Tensor) -> None:
        """Takes in one row (D,).

        Raises:
            InputError: another shape, or values that are not finite; nothing is then changed.
        """
        if not isinstance(row, Tensor) or row.shape != self._rows.shape[1:]:
            came = f"shape {tuple(row.shape)}" if isinstance(row, Tensor) else type(row).__name__
            raise InputError(f"row: got {came}, expected (D={self._rows.shape[1]},)")
        if not bool(row.isfinite().all()):
            raise InputError("row: holds NaN or infinite values; leave it out")
        if self._filled == len(self._rows):
            self._shrink()
        self._rows[self._filled] = row.detach()
        self._filled += 1
        self._rotated = False
        self.n_rows += 1

    @property
    def rows(self) -> Tensor:
        """B (≤ ℓ, D), its rows orthogonal, longest first; as much as there is in it."""
        if not self._rotated:
            self._shrink()
        return self._rows[: self._filled].clone()

    @property
    def error_bound(self) -> float:
        """Σδ: no variance ‖Ax‖² is underestimated by more, none is overestimated."""
        if self._filled > self.rank:
            self._shrink()
        return self._error

    def _shrink(self) -> None:
        present = self._rows[: self._filled]
        squared, vectors = torch.linalg.eigh(gram(present))
        squared, vectors = squared.flip(0).clamp(min=0), vectors.flip(1)
        delta = squared[self.rank] if self._filled > self.rank else squared.new_zeros(())
        kept = int((squared[: self.rank] > delta).sum())
        # Row i of the rotated rows is σ_i v_i = u_iᵀA; its new length is √(σ_i² − δ).
        shorter = ((squared[:kept] - delta) / squared[:kept]).sqrt()
        mixing = (vectors[:, :kept] * shorter).T.to(present)
        self._rows[:kept] = mixing @ present
        self._rows[kept:] = 0
        self._filled = kept
        self._rotated = True
        self._error += float(delta)

    def __repr__(self) -> str:
        return f"FrequentDirections(rank={self.rank}, D={self._rows.shape[1]:,}, {self.n_rows} rows seen)"


@final
class SketchedTrajectory:
    r"""The mean and a sketch of ALL the deviations of a run, where a collector keeps the last K alone.

    Snapshot n adds the row √((n−1)/n)·(θ_n − θ̄_{n−1}); the rows' AᵀA is the trajectory's scatter
    Σ_i (θ_i − θ̄)(θ_i − θ̄)ᵀ around its final mean, exactly, and a `FrequentDirections` sketches it.

    Args:
        model: gives names and shapes.
        rank: ℓ, the sketch's rows; more than the directions wanted make it more accurate.
        select: which parameters, as for `swag.Collector`.

    >>> model = nn.Linear(3, 1)
    >>> run = SketchedTrajectory(model, rank=4)
    >>> for _ in range(20):
    ...     _ = nn.init.normal_(model.weight)
    ...     run.collect(model)
    >>> run.subspace(2)
    Subspace(D=4, k=2)
    """

    def __init__(self, model: nn.Module, rank: int = 20, *, select: Select = None) -> None:
        self.layout = Layout.of(model, select)
        first = self.layout.tensors(model)[0]
        dtype = self.layout.statistics_dtype
        self.sketch = FrequentDirections(self.layout.size, rank, dtype=dtype, device=first.device)
        self.n_collected = 0
        self._origin = torch.zeros(0, device="cpu")
        self._shift = torch.zeros(0, device="cpu")

    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot.

        Raises:
            InputError: another architecture, or weights that are not finite; nothing is then changed.
        """
        theta = self.layout.flatten(model, dtype=self.layout.statistics_dtype)
        if self.n_collected == 0:
            if not bool(theta.isfinite().all()):
                raise InputError("model: holds NaN or infinite weights; nothing was collected")
            # Sums are taken on θ − θ₁, as in the collector: weights move little beside their size.
            self._origin, self._shift = theta, torch.zeros_like(theta)
        else:
            n = self.n_collected + 1
            moved = (theta - self._origin).sub_(self._shift)
            self.sketch.update(moved * ((n - 1) / n) ** 0.5)
            self._shift.add_(moved, alpha=1 / n)
        self.n_collected += 1

    @property
    def mean(self) -> Tensor:
        """θ̄ (D,)."""
        if self.n_collected == 0:
            raise StateError("mean: no snapshot yet; call collect(model) along the training trajectory first")
        return self._origin + self._shift

    @property
    def error_bound(self) -> float:
        """No direction's variance is underestimated by more than this; none is overestimated."""
        return self.sketch.error_bound / max(self.n_collected - 1, 1)

    def subspace(self, k: int) -> Subspace:
        r"""The k longest directions, column i being s_i v_i of the sketch of the sample covariance.

        As `Subspace.from_deviations`, with n − 1 snapshots in the place of K − 1 rows.

        Raises:
            StateError: fewer than two snapshots.
            InputError: k larger than the rows in the sketch.
        """
        if self.n_collected < 2:
            raise StateError(f"subspace(): needs 2 snapshots or more and has {self.n_collected}")
        rows = self.sketch.rows
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(rows):
            raise InputError(
                f"k: got {k!r} with {len(rows)} rows in the sketch; pass 1 to {len(rows)}, or a larger rank"
            )
        return Subspace(self.mean, rows[:k].T / (self.n_collected - 1) ** 0.5, layout=self.layout)
