"""Snapshots kept as they are, one weight vector each: the members of FGE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from swag.errors import InputError, StateError
from swag.parameters import Layout, Select
from swag.posterior import Empirical

_VERSION = 1


class Store(Protocol):
    """What snapshots go into: a `Collector`, `Snapshots`, the averages of `swag.training`."""

    @property
    def n_collected(self) -> int:
        """Snapshots so far."""

    def collect(self, model: nn.Module) -> None:
        """Takes one."""

    def state_dict(self) -> dict[str, Any]:
        """All of them, or what was kept of them."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a state over; checked whole before anything changes."""


@final
class Snapshots:
    """A list of weight vectors θ_1 … θ_S, in the order they were taken.

    Memory: 4·S bytes a parameter, on the CPU unless told otherwise.

    Args:
        model: gives names, shapes and the parameters to follow.
        select: which parameters, as in `Collector`.
        device: where the vectors live.

    >>> model = nn.Linear(3, 1)
    >>> snapshots = Snapshots(model)
    >>> for _ in range(2):
    ...     _ = nn.init.normal_(model.weight)
    ...     snapshots.collect(model)
    >>> snapshots.empirical()
    Empirical(2 samples, D=4)
    """

    def __init__(
        self, model: nn.Module, *, select: Select = None, device: torch.device | str = "cpu"
    ) -> None:
        self.layout = Layout.of(model, select)
        self.device = torch.device(device)
        self._thetas: list[Tensor] = []

    @property
    def n_collected(self) -> int:
        """S, the snapshots taken so far."""
        return len(self._thetas)

    @property
    def thetas(self) -> Tensor:
        """(S, D), a fresh tensor, oldest first.

        Raises:
            StateError: no snapshot yet.
        """
        if not self._thetas:
            raise StateError("thetas: no snapshot was taken yet; call collect(model) first")
        return torch.stack(self._thetas)

    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot.

        Raises:
            InputError: a name is missing, a shape differs, or a weight is NaN or infinite.
        """
        theta = self.layout.flatten(model).to(self.device)
        if not theta.isfinite().all():
            name = self.layout.name_at(int((~theta.isfinite()).nonzero()[0]))
            raise InputError(f"model: parameter '{name}' holds NaN or infinite values; nothing was collected")
        self._thetas.append(theta)

    def empirical(self) -> Empirical:
        """Equal mass on each of the snapshots."""
        return Empirical(self.thetas, self.layout)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, safe for `torch.load(weights_only=True)`."""
        return {"version": _VERSION, "layout": self.layout.to_list(), "thetas": list(self._thetas)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the snapshots of `state_dict()`; checked whole before anything changes.

        Raises:
            InputError: another version or layout, or vectors of the wrong shape.
        """
        if not isinstance(state, Mapping) or state.get("version") != _VERSION:
            raise InputError("state: is not what Snapshots.state_dict() of this version returned")
        difference = self.layout.first_difference(Layout.from_list(state.get("layout", [])))
        if difference is not None:
            raise InputError(f"state: belongs to another model ({difference})")
        thetas = state.get("thetas")
        if not isinstance(thetas, list) or not all(
            isinstance(theta, Tensor) and theta.shape == (self.layout.size,) for theta in thetas
        ):
            raise InputError(f"state: 'thetas' should be a list of tensors of shape ({self.layout.size},)")
        self._thetas = [theta.to(self.device, copy=True) for theta in thetas]

    def __repr__(self) -> str:
        return f"Snapshots({self.n_collected}, D={self.layout.size:,})"
