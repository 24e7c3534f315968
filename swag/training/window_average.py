"""The average of the last k snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.applied import mean_applied
from swag.errors import InputError
from swag.parameters import Layout, Select
from swag.posterior import PointMass
from swag.training.averages import STATE_VERSION, check_header, counted, no_snapshot
from swag.training.finiteness import check_finite_now


@final
class WindowAverage:
    r"""The equal average of the last k snapshots: old ones are forgotten at once, not little by little.

        θ̄ = θ_o + (1/m) Σ (θ_i − θ_o) over the last m = min(n, k) snapshots, o the oldest of them

    summed anew at each read, so that no rounding gathers. Memory: 4·k bytes a parameter.

    Args:
        model: gives names, shapes and the parameters to follow.
        k: how many snapshots count.
        select: which parameters, as in `Collector`.
        device: where the snapshots live; by default beside the first selected parameter.

    Raises:
        InputError: k below 1, or nothing selected.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = WindowAverage(model, 2)
    >>> for value in (1.0, 2.0, 4.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     average.collect(model)
    >>> average.mean.tolist()
    [3.0]
    """

    def __init__(
        self,
        model: nn.Module,
        k: int,
        *,
        select: Select = None,
        device: torch.device | str | None = None,
    ) -> None:
        if isinstance(k, bool) or not isinstance(k, int | Integral) or k < 1:
            raise InputError(f"k: got {k!r}; pass how many snapshots count, 1 or more")
        self.layout = Layout.of(model, select)
        self.k = int(k)
        self._device = torch.device(device) if device is not None else self.layout.tensors(model)[0].device
        self._n = 0
        self._ring: Tensor | None = None  # snapshot i in row (i − 1) mod k

    @property
    def n_collected(self) -> int:
        """n, the snapshots taken so far, the forgotten ones too."""
        return self._n

    @property
    def mean(self) -> Tensor:
        """The average (D,), a fresh tensor."""
        if self.n_collected == 0 or self._ring is None:
            raise no_snapshot()
        m = min(self._n, self.k)
        oldest = self._ring[self._n % self.k if self._n >= self.k else 0]
        total = torch.zeros_like(oldest)
        for row in self._ring[:m]:
            total += row - oldest
        return total.div_(m).add_(oldest)

    @torch.no_grad()
    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot; the one k before is forgotten.

        Raises:
            InputError: a name is missing, a shape differs, or a weight is NaN or infinite (named). The
                average is then unchanged.
        """
        tensors = self.layout.tensors(model)
        check_finite_now(tensors, self.layout.names)
        with torch.inference_mode(False):  # what is made in inference mode cannot be updated outside of it
            theta = self.layout.flatten(model).to(self._device)
            if self._ring is None:
                self._ring = self._allocated()
            self._ring[self._n % self.k].copy_(theta)
        self._n += 1

    def swa(self) -> PointMass:
        """The average as a posterior, for `swag.Ensemble`.

        Raises:
            StateError: no snapshot yet.
        """
        return PointMass(self.mean, layout=self.layout)

    applied = mean_applied

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, safe for `torch.load(weights_only=True)`; resumes bit for bit."""
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "layout": self.layout.to_list(),
            "k": self.k,
            "n_collected": self._n,
        }
        if self._n and self._ring is not None:
            state["ring"] = self._ring[: min(self._n, self.k)].clone()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken; checked whole before anything changes.

        Raises:
            InputError: another model or k, or a damaged state.
        """
        check_header(state, self.layout, "WindowAverage")
        n = state.get("n_collected")
        if state.get("k") != self.k:
            raise InputError(
                f"state: its window is {state.get('k')!r}, this one {self.k}; build it with the same k"
            )
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise InputError(f"state: 'n_collected' is {n!r}, no number of snapshots; the state is damaged")
        shape, ring = (min(n, self.k), self.layout.size), state.get("ring")
        if n and (not isinstance(ring, Tensor) or tuple(ring.shape) != shape):
            raise InputError(f"state: 'ring' should be a tensor of shape {shape}; the state is damaged")
        if n and ring is not None:
            own = self._allocated()
            own[: min(n, self.k)].copy_(ring)
            self._ring = own
        self._n = n

    @torch.inference_mode(False)
    def _allocated(self) -> Tensor:
        dtype = self.layout.statistics_dtype
        return torch.zeros(self.k, self.layout.size, dtype=dtype, device=self._device)

    def __repr__(self) -> str:
        return f"WindowAverage({counted(self._n)}, k={self.k}, D={self.layout.size:,})"
