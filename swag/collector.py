"""The moments of a training trajectory: mean, squared deviations and the last K deviations of θ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from swag import moments
from swag.collector_state import STATE_VERSION, checked_state
from swag.errors import InputError, StateError
from swag.parameters import Layout, Select
from swag.posterior import LowRankGaussian, PointMass
from swag.staging import Staging

_ROW_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@final
class Collector:
    r"""Collects snapshots of a model's weights and reads posteriors out of them.

    After n snapshots θ₁ … θ_n:

        mean    θ̄ = (1/n) Σ θ_i                          (D,)
        sq_dev  Σ (θ_i − θ̄)²                             (D,)
        row i   θ_i − θ̄_i, θ̄_i the mean after including θ_i, for the last K snapshots

    accumulated in float32 (float64 for float64 models), shifted by θ₁. Memory: 4·(3 + K) bytes a
    parameter with float32 rows, allocated at the first snapshot. It keeps no reference to the model.

    Args:
        model: gives names, shapes and the parameters to follow; its values are not read yet.
        rank: K, the deviation rows kept; 0 for the mean and the diagonal alone.
        select: which parameters: None for all that require a gradient, a predicate on
            (name, parameter), or a list of names, module names or globs.
        deviation_dtype: dtype of the rows; bfloat16 halves their memory.
        device: where the statistics live; by default beside the first selected parameter.

    Raises:
        InputError: a negative rank, nothing selected, a lazy module without shape.

    Source: Izmailov et al. 2018 (SWA), Maddox et al. 2019 (SWAG), arXiv:1902.02476.

    >>> model = nn.Linear(3, 1)
    >>> collector = Collector(model, rank=2)
    >>> for _ in range(5):
    ...     _ = nn.init.normal_(model.weight)
    ...     collector.collect(model)
    >>> collector
    Collector(5 snapshots, rank=2, D=4)
    """

    def __init__(
        self,
        model: nn.Module,
        rank: int = 20,
        *,
        select: Select = None,
        deviation_dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        layout = Layout.of(model, select)
        self._set_up(layout, rank, deviation_dtype, device or layout.tensors(model)[0].device)

    @classmethod
    def for_layout(
        cls,
        layout: Layout,
        rank: int = 20,
        *,
        deviation_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Collector:
        """A collector for a layout alone, without a model at hand."""
        collector = cls.__new__(cls)
        collector._set_up(layout, rank, deviation_dtype, device)
        return collector

    def _set_up(
        self, layout: Layout, rank: int, deviation_dtype: torch.dtype, device: torch.device | str
    ) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
            raise InputError(
                f"rank: got {rank!r}; pass the number of deviations to keep, 0 or more (20 is usual)"
            )
        if deviation_dtype not in _ROW_DTYPES:
            raise InputError(f"deviation_dtype: got {deviation_dtype}; pass torch.float32 or torch.bfloat16")
        self.layout = layout
        self.rank = rank
        self.deviation_dtype = deviation_dtype
        self.device = torch.device(device)
        self._n = 0
        self._origin: Tensor | None = None  # θ₁
        self._offset_mean: Tensor  # m_n = θ̄ − θ₁
        self._sq_dev: Tensor
        self._ring: Tensor  # (K, D); snapshot i (from 0) lies in row i mod K
        self._scratch: Tensor
        self._staging = Staging(layout, self.device)

    @property
    def n_collected(self) -> int:
        """n, the snapshots taken so far."""
        return self._n

    @property
    def mean(self) -> Tensor:
        """θ̄ (D,), a fresh tensor."""
        self._require(1, "mean")
        assert self._origin is not None
        return self._origin + self._offset_mean

    @property
    def sq_dev(self) -> Tensor:
        """Σ (θ_i − θ̄)² (D,), a fresh tensor; Σ_diag is this over n."""
        self._require(1, "sq_dev")
        return self._sq_dev.clone()

    @property
    def deviations(self) -> Tensor:
        """The rows present (k, D), k = min(n, K), oldest first; a fresh tensor."""
        self._require(1, "deviations")
        if self._n <= self.rank or self.rank == 0:
            return self._ring[: min(self._n, self.rank)].clone()
        return self._ring.roll(-(self._n % self.rank), dims=0)

    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot: one Welford step and one deviation row.

        Args:
            model: the model as it is now, same architecture as at construction.

        Raises:
            InputError: a name is missing, a shape differs, or a weight is NaN or infinite (named); the
                statistics are then unchanged.
        """
        tensors = [tensor.detach() for tensor in self.layout.tensors(model)]
        self._staging.fresh()
        if not moments.all_finite(x for _, _, x in self._staging.pieces(tensors)):
            bad = moments.first_non_finite(tensors)
            name = self.layout.names[bad] if bad is not None else "(it changed meanwhile)"
            raise InputError(
                f"model: parameter '{name}' holds NaN or infinite values; nothing was collected (still "
                f"{self._n} snapshots): lower the learning rate or skip this step"
            )
        if self._origin is None:
            self._allocate()
        assert self._origin is not None
        n = self._n + 1
        for start, stop, x in self._staging.pieces(tensors):
            if n == 1:
                self._origin[start:stop].copy_(x)
                continue
            row = self._ring[(n - 1) % self.rank, start:stop] if self.rank else None
            straight = row is not None and row.dtype == self._origin.dtype
            deviation = row if straight and row is not None else self._scratch[: stop - start]
            moments.accumulate_(
                x,
                self._origin[start:stop],
                self._offset_mean[start:stop],
                self._sq_dev[start:stop],
                deviation,
                n,
            )
            if row is not None and not straight:
                row.copy_(deviation)
        if n == 1 and self.rank:
            self._ring[0].zero_()
        self._n = n

    def swa(self) -> PointMass:
        """The SWA solution θ̄ [Izmailov et al. 2018].

        Raises:
            StateError: no snapshot yet.
        """
        return PointMass(self.mean, layout=self.layout)

    def swag_diag(self, scale: float = 1.0) -> LowRankGaussian:
        """SWAG-diag: N(θ̄, scale·Σ_diag), Σ_diag = sq_dev/n (population variance).

        Raises:
            StateError: fewer than two snapshots.
        """
        self._require(2, "swag_diag()")
        rows = self._sq_dev.new_empty(0, self.layout.size)
        return LowRankGaussian.from_moments(
            self.mean, self._sq_dev / self._n, rows, scale=scale, layout=self.layout
        )

    def swag(self, scale: float = 0.5) -> LowRankGaussian:
        """SWAG: N(θ̄, scale·(Σ_diag + D̂D̂ᵀ/(k−1))), k the rows present [Maddox et al. 2019, eq. 1].

        Args:
            scale: multiplies the covariance; 0.5 is the paper's, 0 gives SWA.

        Raises:
            StateError: fewer than two snapshots.
            InputError: the collector's rank is below 2, or scale is negative.
        """
        if self.rank < 2:
            raise InputError(
                f"rank: the low-rank part of SWAG needs rank 2 or more and this collector has {self.rank}; "
                "collect with Collector(model, rank=20), or use swag_diag()"
            )
        self._require(2, "swag()")
        return LowRankGaussian.from_moments(
            self.mean, self._sq_dev / self._n, self.deviations, scale=scale, layout=self.layout
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, safe for `torch.load(weights_only=True)`; resumes bit for bit."""
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "layout": self.layout.to_list(),
            "rank": self.rank,
            "deviation_dtype": str(self.deviation_dtype).removeprefix("torch."),
            "n_collected": self._n,
        }
        if self._origin is not None:
            state["origin"] = self._origin.clone()
            state["offset_mean"] = self._offset_mean.clone()
            state["sq_dev"] = self._sq_dev.clone()
            state["deviations"] = self.deviations
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the statistics of `state_dict()`; checked whole before anything changes.

        Raises:
            InputError: another layout, rank, row dtype or version, or a tensor of the wrong shape.
        """
        n, tensors = checked_state(state, self.layout, self.rank, self.deviation_dtype)
        if n == 0:
            self._n, self._origin = 0, None
            return
        self._allocate()
        assert self._origin is not None
        self._origin.copy_(tensors["origin"])
        self._offset_mean.copy_(tensors["offset_mean"])
        self._sq_dev.copy_(tensors["sq_dev"])
        for i, row in zip(range(n - len(tensors["deviations"]), n), tensors["deviations"], strict=True):
            self._ring[i % self.rank].copy_(row)
        self._n = n

    @torch.inference_mode(False)  # tensors made in inference mode could not be updated outside of it
    def _allocate(self) -> None:
        dtype, size = self.layout.statistics_dtype, self.layout.size
        origin = torch.empty(size, dtype=dtype, device=self.device)
        self._offset_mean = torch.zeros_like(origin)
        self._sq_dev = torch.zeros_like(origin)
        self._ring = torch.empty(self.rank, size, dtype=self.deviation_dtype, device=self.device)
        needs_scratch = self.rank == 0 or self.deviation_dtype != dtype
        self._scratch = torch.empty(
            self._staging.widest if needs_scratch else 0, dtype=dtype, device=self.device
        )
        self._origin = origin

    def _require(self, n: int, what: str) -> None:
        if self._n < n:
            raise StateError(
                f"{what}: needs {n} snapshot{'s' if n > 1 else ''} or more and this collector has {self._n}; "
                "call collector.collect(model) along the training trajectory first"
            )

    def __repr__(self) -> str:
        plural = "" if self._n == 1 else "s"
        return f"Collector({self._n} snapshot{plural}, rank={self.rank}, D={self.layout.size:,})"
