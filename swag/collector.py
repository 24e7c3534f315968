"""The moments of a training trajectory: mean, squared deviations and the last K deviations of θ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NoReturn, final

import torch
from torch import Tensor, nn

from swag import moments
from swag.applied import mean_applied
from swag.collector_state import STATE_VERSION, checked_state
from swag.errors import InputError, StateError
from swag.forecast import Forecast, check_fits, forecast
from swag.moments import Kernel
from swag.parameters import Layout, Select
from swag.posterior import LowRankGaussian, PointMass
from swag.running import Pieces, RunningMoments
from swag.staging import Staging
from swag.subspace.space import Subspace

_ROW_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_VECTORS = ("origin", "offset_mean", "sq_dev")


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
        kernel: one step on tensors; `swag.moments.compiled_kernel()` fuses it.
        deviation_folder: keeps the rows in a file without a name in this folder and not in memory.

    Raises:
        InputError: a negative rank, nothing selected, a lazy module without shape, a model divided by
            `fully_shard` (see `swag.distributed.ShardedCollector`), or more memory than is free (says what
            would fit); the last also at the first snapshot, which allocates it.

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
        kernel: Kernel = moments.accumulate_,
        deviation_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        layout = Layout.of(model, select)
        tensors = layout.tensors(model)
        _check_whole(layout, tensors)
        device = device or tensors[0].device
        self._set_up(layout, rank, deviation_dtype, device, kernel, deviation_folder)

    @classmethod
    def for_layout(
        cls,
        layout: Layout,
        rank: int = 20,
        *,
        deviation_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        kernel: Kernel = moments.accumulate_,
        deviation_folder: str | os.PathLike[str] | None = None,
    ) -> Collector:
        """A collector for a layout alone, without a model at hand."""
        collector = cls.__new__(cls)
        collector._set_up(layout, rank, deviation_dtype, device, kernel, deviation_folder)
        return collector

    def _set_up(
        self,
        layout: Layout,
        rank: int,
        deviation_dtype: torch.dtype,
        device: torch.device | str,
        kernel: Kernel,
        deviation_folder: str | os.PathLike[str] | None,
    ) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int | Integral) or rank < 0:
            raise InputError(
                f"rank: got {rank!r}; pass the number of deviations to keep, 0 or more (20 is usual)"
            )
        if deviation_dtype not in _ROW_DTYPES:
            raise InputError(f"deviation_dtype: got {deviation_dtype}; pass torch.float32 or torch.bfloat16")
        self.layout = layout
        self.rank = int(rank)
        self.deviation_dtype = deviation_dtype
        self.device = torch.device(device)
        self._n = 0
        self._running: RunningMoments | None = None
        self._kernel = kernel
        self._folder = deviation_folder
        if deviation_folder is not None and self.device.type != "cpu":
            raise InputError(
                f"deviation_folder: the statistics live on {self.device}; pass device='cpu', too"
            )
        self._check_memory()
        self._staging = Staging(layout, self.device, piece=getattr(kernel, "piece", None))
        # On an accelerator a snapshot's finiteness is known later: whether tensors were bad, on the device.
        self._pending: Tensor | None = None

    @staticmethod
    def forecast(
        model: nn.Module,
        rank: int = 20,
        *,
        select: Select = None,
        deviation_dtype: torch.dtype = torch.float32,
        n_samples: int = 30,
        deviation_folder: str | os.PathLike[str] | None = None,
    ) -> Forecast:
        """The bytes that such a collector, its posterior and an ensemble of `n_samples` will take.

        >>> print(Collector.forecast(nn.Linear(999, 1000), rank=20).collecting)
        92000000
        """
        return forecast(
            Layout.of(model, select),
            rank,
            n_samples=n_samples,
            deviation_dtype=deviation_dtype,
            on_disk=deviation_folder is not None,
        )

    @property
    def n_collected(self) -> int:
        """n, the snapshots taken so far."""
        self._settle()
        return self._n

    @property
    def mean(self) -> Tensor:
        """θ̄ (D,), a fresh tensor."""
        running = self._require(1, "mean")
        return running.origin + running.offset_mean

    @property
    def sq_dev(self) -> Tensor:
        """Σ (θ_i − θ̄)² (D,), a fresh tensor; Σ_diag is this over n."""
        return self._require(1, "sq_dev").sq_dev.clone()

    @property
    def deviations(self) -> Tensor:
        """The rows present (k, D), k = min(n, K), oldest first; a fresh tensor."""
        return self._require(1, "deviations").rows(self._n)

    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot: one Welford step and one deviation row.

        Args:
            model: the model as it is now, same architecture as at construction.

        Raises:
            InputError: a name is missing, a shape differs, or a weight is NaN or infinite (named); the
                statistics are then unchanged. On an accelerator, where waiting would stall training, a
                snapshot with bad values changes nothing either, and the error comes at the next
                `collect` or read.
        """
        self._settle()
        tensors = [tensor.detach() for tensor in self.layout.tensors(model)]
        _check_whole(self.layout, tensors)
        self._staging.fresh()
        keep = None
        if self._defers(tensors):
            self._pending = moments.non_finite_flags(tensors)
            keep = ~self._pending.any()
        elif not moments.all_finite(x for _, _, x in self._staging.pieces(tensors)):
            self._refuse(moments.first_non_finite(tensors), "model")
        running = self._allocated()
        running.step_(self._staging.pieces(tensors), self._n + 1, keep)
        self._n += 1

    def collect_pieces(self, pieces: Pieces) -> None:
        """Takes a snapshot that comes piece by piece, as (start, stop, θ[start:stop]) from first to last.

        For weights that never are in memory together. The caller vouches for the values; after an error
        on the way the statistics are worthless.
        """
        self._settle()
        self._allocated().step_(pieces, self._n + 1)
        self._n += 1

    def swa(self) -> PointMass:
        """The SWA solution θ̄ [Izmailov et al. 2018].

        Raises:
            StateError: no snapshot yet.
        """
        return PointMass(self.mean, layout=self.layout)

    applied = mean_applied

    def swag_diag(self, scale: float = 1.0) -> LowRankGaussian:
        """SWAG-diag: N(θ̄, scale·Σ_diag), Σ_diag = sq_dev/n (population variance).

        Raises:
            StateError: fewer than two snapshots.
        """
        running = self._require(2, "swag_diag()")
        rows = running.sq_dev.new_empty(0, self.layout.size)
        return LowRankGaussian.from_moments(
            self.mean,
            running.sq_dev / self._n,
            rows,
            scale=scale,
            layout=self.layout,
            n_collected=self._n,
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
        running = self._require(2, "swag()")
        return LowRankGaussian.from_moments(
            self.mean,
            running.sq_dev / self._n,
            self.deviations,
            scale=scale,
            layout=self.layout,
            n_collected=self._n,
        )

    def subspace(self, k: int) -> Subspace:
        r"""The affine subspace θ̄ + P z of the k longest directions: PCA of the deviation rows.

        Column i of P is s_i v_i, the i-th singular value and right vector of D̂/√(K−1), K the rows present
        [Izmailov et al. 2019].

        Raises:
            StateError: fewer than two snapshots.
            InputError: k is larger than the rows present.
        """
        rows = self._require(2, "subspace()").ordered(self._n)
        return Subspace.from_deviations(self.mean, rows, k, layout=self.layout)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, safe for `torch.load(weights_only=True)`; resumes bit for bit."""
        state = self.state_views()
        if "deviations" in state:
            state["deviations"] = self.deviations
        return {key: value.clone() if key in _VECTORS else value for key, value in state.items()}

    def state_views(self) -> dict[str, Any]:
        """What `state_dict` holds, as views: the vectors, and "deviations" as a list of rows."""
        self._settle()
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "layout": self.layout.to_list(),
            "rank": self.rank,
            "deviation_dtype": str(self.deviation_dtype).removeprefix("torch."),
            "n_collected": self._n,
        }
        if self._running is not None and self._n > 0:
            state |= {key: getattr(self._running, key) for key in _VECTORS}
            state["deviations"] = self._running.ordered(self._n)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the statistics of `state_dict()`; checked whole before anything changes.

        Raises:
            InputError: another layout, rank, row dtype or version, or a tensor of the wrong shape.
        """
        n, tensors = checked_state(state, self.layout, self.rank, self.deviation_dtype)
        self._n, self._pending = n, None
        if n == 0:
            self._running = None
            return
        running = self._allocated()
        running.origin.copy_(tensors["origin"])
        running.offset_mean.copy_(tensors["offset_mean"])
        running.sq_dev.copy_(tensors["sq_dev"])
        running.put_rows_(tensors["deviations"], n)

    def _allocated(self) -> RunningMoments:
        if self._running is None:
            self._check_memory()
            self._running = RunningMoments(
                self.layout.size,
                self.rank,
                dtype=self.layout.statistics_dtype,
                row_dtype=self.deviation_dtype,
                device=self.device,
                widest=self._staging.widest,
                kernel=self._kernel,
                row_folder=self._folder,
            )
        return self._running

    def _check_memory(self) -> None:
        check_fits(
            self.layout,
            self.rank,
            deviation_dtype=self.deviation_dtype,
            device=self.device,
            on_disk=self._folder is not None,
        )

    def _defers(self, tensors: list[Tensor]) -> bool:
        """Whether the finiteness test must not wait for the device."""
        there = any(t.numel() for t in tensors)
        return self.device.type != "cpu" and there and all(t.device == self.device for t in tensors)

    def _settle(self) -> None:
        """Looks at the flags of the last snapshot, which are long there; raises if it was bad."""
        if self._pending is None:
            return
        flags, self._pending = self._pending.tolist(), None
        if any(flags):
            self._n -= 1
            self._refuse(flags.index(True), "model, at the snapshot before")

    def _refuse(self, bad: int | None, where: str) -> NoReturn:
        # None: finite in the model's own dtype, but too large for the statistics'.
        name = f"parameter '{self.layout.names[bad]}'" if bad is not None else "a wider parameter"
        raise InputError(
            f"{where}: {name} holds NaN or infinite values; nothing was collected (still "
            f"{self._n} snapshots): lower the learning rate or skip this step"
        )

    def _require(self, n: int, what: str) -> RunningMoments:
        self._settle()
        if self._running is None or self._n < n:
            raise StateError(
                f"{what}: needs {n} snapshot{'s' if n > 1 else ''} or more and this collector has {self._n}; "
                "call collector.collect(model) along the training trajectory first"
            )
        return self._running

    def __repr__(self) -> str:
        plural = "" if self._n == 1 else "s"
        return f"Collector({self._n} snapshot{plural}, rank={self.rank}, D={self.layout.size:,})"


def _check_whole(layout: Layout, tensors: Sequence[Tensor]) -> None:
    """Raises InputError where a process holds a part of a parameter alone (a DTensor has placements)."""
    for name, tensor in zip(layout.names, tensors, strict=True):
        if hasattr(tensor, "placements"):
            raise InputError(
                f"model: parameter '{name}' is divided over processes (fully_shard); collect with "
                "swag.distributed.ShardedCollector(model), which keeps each process' part beside it"
            )
