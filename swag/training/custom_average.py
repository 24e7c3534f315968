"""An average by a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.applied import mean_applied
from swag.errors import InputError
from swag.parameters import Layout, Select
from swag.posterior import PointMass
from swag.training.averages import STATE_VERSION, check_header, counted, no_snapshot
from swag.training.finiteness import check_finite_now

AvgFn = Callable[[Tensor, Tensor, Tensor], Tensor]


@final
class CustomAverage:
    r"""An average by a function of the user's own, as torch's `AveragedModel(model, avg_fn=…)`.

        θ̄_1 = θ_1,   θ̄_{n+1} = avg_fn(θ̄_n, θ_{n+1}, n)   one parameter at a time

    in float32 or better whatever the model's dtype. The function's result is checked; the function itself
    is not in the state. Where it is a weighted mean, `RunningAverage` with a rule is exacter and faster.

    Args:
        model: gives names, shapes and the parameters to follow.
        avg_fn: (average, current, n) ↦ the new average; tensors of one parameter's shape, n an integer
            tensor with one element, the snapshots before. It must not change its arguments.
        select: which parameters, as in `Collector`.
        device: where the average lives; by default beside the first selected parameter.

    Raises:
        InputError: no function, or nothing selected.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> largest = CustomAverage(model, lambda average, current, n: average.maximum(current))
    >>> for value in (1.0, 4.0, 2.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     largest.collect(model)
    >>> largest.mean.tolist()
    [4.0]
    """

    def __init__(
        self,
        model: nn.Module,
        avg_fn: AvgFn,
        *,
        select: Select = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not callable(avg_fn):
            raise InputError(f"avg_fn: got {avg_fn!r}; pass a function of (average, current, n)")
        self.layout = Layout.of(model, select)
        self._avg_fn = avg_fn
        self._device = torch.device(device) if device is not None else self.layout.tensors(model)[0].device
        self._n = 0
        self._mean: Tensor | None = None

    @property
    def n_collected(self) -> int:
        """n, the snapshots taken so far."""
        return self._n

    @property
    def mean(self) -> Tensor:
        """The average (D,), a fresh tensor."""
        if self._mean is None:
            raise no_snapshot()
        return self._mean.clone()

    @torch.no_grad()
    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot.

        Raises:
            InputError: the model does not fit, a weight is NaN or infinite, or the function returned
                something of another shape or not finite. The average is then unchanged.
        """
        tensors = self.layout.tensors(model)
        check_finite_now(tensors, self.layout.names)
        with torch.inference_mode(False):  # what is made in inference mode cannot be updated outside of it
            theta = self.layout.flatten(model).to(self._device)
            if self._mean is not None:
                theta = self._stepped(self._mean, theta)
        self._mean = theta
        self._n += 1

    def _stepped(self, mean: Tensor, theta: Tensor) -> Tensor:
        n = torch.tensor(self._n, device=self._device)
        old, new = self.layout.unflatten(mean), self.layout.unflatten(theta)
        found = torch.empty_like(mean)
        for entry in self.layout.entries:
            value = self._avg_fn(old[entry.name], new[entry.name], n)
            if not isinstance(value, Tensor) or tuple(value.shape) != entry.shape:
                came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(f"avg_fn: returned {came} for '{entry.name}', expected shape {entry.shape}")
            if not bool(value.isfinite().all()):
                raise InputError(f"avg_fn: returned NaN or infinite values for '{entry.name}'")
            found[entry.start : entry.stop].view(entry.shape).copy_(value)
        return found

    def swa(self) -> PointMass:
        """The average as a posterior, for `swag.Ensemble`.

        Raises:
            StateError: no snapshot yet.
        """
        return PointMass(self.mean, layout=self.layout)

    applied = mean_applied

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, without the function."""
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "layout": self.layout.to_list(),
            "n_collected": self._n,
        }
        return state if self._mean is None else {**state, "mean": self._mean.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken; checked whole before anything changes.

        Raises:
            InputError: another model, or a damaged state.
        """
        check_header(state, self.layout, "CustomAverage")
        n, mean = state.get("n_collected"), state.get("mean")
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise InputError(f"state: 'n_collected' is {n!r}, no number of snapshots; the state is damaged")
        if n and (not isinstance(mean, Tensor) or tuple(mean.shape) != (self.layout.size,)):
            raise InputError(f"state: 'mean' should be a tensor of shape ({self.layout.size},)")
        self._mean = None
        if n and mean is not None:
            self._mean = mean.to(self._device, self.layout.statistics_dtype, copy=True)
        self._n = n

    def __repr__(self) -> str:
        return f"CustomAverage({counted(self._n)}, D={self.layout.size:,})"
