"""Averages of weights beside the collector's: one protocol, an average by any rule of shares, and `Swap`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from swag.applied import Aside, mean_applied
from swag.batches import Forward
from swag.errors import InputError, StateError
from swag.parameters import Layout, Select
from swag.posterior import PointMass
from swag.training.finiteness import Finiteness
from swag.training.rules import RULES, Equal, Rule, checked_share
from swag.training.shifted_mean import ShiftedMean, checked_mean

STATE_VERSION = 1


class Average(Protocol):
    """What all averages of weights share; `swag.Collector` is one too."""

    layout: Layout

    @property
    def n_collected(self) -> int:
        """The snapshots taken so far."""

    @property
    def mean(self) -> Tensor:
        """The average (D,), a fresh tensor."""

    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot."""

    def swa(self) -> PointMass:
        """The average as a posterior."""

    def applied(
        self, model: nn.Module, *, bn_loader: Iterable[Any] | None = None, forward: Forward | None = None
    ) -> AbstractContextManager[nn.Module]:
        """The average in the model inside a with-block."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""


@final
class RunningAverage:
    r"""A running average of a model's weights, whatever optimizer trains it.

        θ̄_n = θ̄_{n−1} + s_n·(θ_n − θ̄_{n−1}),   s_n the rule's share

    accumulated in float32 (float64 for float64 models), as an offset from θ₁ and, after 2, 4, 8, … snapshots,
    from the average so far. Memory: 8 bytes a parameter from
    the first snapshot on. `swag.Collector` has the equal average with its variance; this is for those who
    need no variance, or another rule. It keeps no reference to the model.

    Args:
        model: gives names, shapes and the parameters to follow.
        rule: `Equal()`, `EMA(decay)`, `DebiasedEMA(decay)`, or anything with `share(n)`.
        select: which parameters, as in `Collector`.
        device: where the average lives; by default beside the first selected parameter.

    Raises:
        InputError: nothing selected, or no rule.

    >>> model = nn.Linear(1, 1)
    >>> average = RunningAverage(model, Equal())
    >>> for value in (1.0, 3.0):
    ...     _ = nn.init.constant_(model.weight, value), nn.init.zeros_(model.bias)
    ...     average.collect(model)
    >>> average.mean.tolist()
    [2.0, 0.0]
    >>> with average.applied(model):
    ...     model.weight.item()
    2.0
    >>> model.weight.item()
    3.0
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule | None = None,
        *,
        select: Select = None,
        device: torch.device | str | None = None,
    ) -> None:
        rule = Equal() if rule is None else rule
        if isinstance(rule, type) or not callable(getattr(rule, "share", None)):
            raise InputError(f"rule: got {rule!r}; pass Equal(), EMA(0.999) or DebiasedEMA(0.999)")
        self.layout = Layout.of(model, select)
        self.rule = rule
        where = torch.device(device) if device is not None else self.layout.tensors(model)[0].device
        self._mean = ShiftedMean(self.layout, where)
        self._finite = Finiteness()

    @property
    def n_collected(self) -> int:
        """n, the snapshots taken so far."""
        self._finite.settle()
        return self._mean.n

    @property
    def mean(self) -> Tensor:
        """θ̄ (D,), a fresh tensor."""
        if self.n_collected == 0:
            raise no_snapshot()
        return self._mean.mean()

    def collect(self, model: nn.Module) -> None:
        """Takes a snapshot.

        Raises:
            InputError: a name is missing, a shape differs, or a weight is NaN or infinite (named; on an
                accelerator at the next call), or the rule gives a share outside [0, 1]. The average is then
                unchanged.
        """
        tensors = self.layout.tensors(model)
        share = checked_share(self.rule, self.n_collected + 1)
        keep = self._finite.look(tensors, self.layout.names, self._uncount)
        self._mean.take(tensors, share, keep)

    def swa(self) -> PointMass:
        """The average as a posterior, for `swag.Ensemble`.

        Raises:
            StateError: no snapshot yet.
        """
        return PointMass(self.mean, layout=self.layout)

    applied = mean_applied

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, safe for `torch.load(weights_only=True)`; resumes bit for bit.

        A rule of the user's own is not in it.
        """
        self._finite.settle()
        return {
            "version": STATE_VERSION,
            "layout": self.layout.to_list(),
            "rule": rule_to_dict(self.rule),
            "average": self._mean.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken; checked whole before anything changes.

        Raises:
            InputError: another model, another rule, or a damaged state.
        """
        check_header(state, self.layout, "RunningAverage")
        if state.get("rule") != rule_to_dict(self.rule):
            raise InputError(
                f"state: was averaged by {state.get('rule')}, this average by {rule_to_dict(self.rule)}; "
                "build it with the same rule"
            )
        checked = checked_mean(state.get("average"), self.layout.size, "state")
        self._finite = Finiteness()
        self._mean.load(checked)

    def _uncount(self) -> None:
        self._mean.n -= 1

    def __repr__(self) -> str:
        return f"RunningAverage({counted(self._mean.n)}, {self.rule!r}, D={self.layout.size:,})"


@final
class Swap:
    """Exchanges a model's weights and an average, there and back, for code that has no with-block.

    Each call exchanges: after the first the model holds the average, after the second its own weights and
    buffers again, bit for bit, whatever happened to them in between.

    Args:
        model: whose weights are exchanged.
        average: any average or collector of such a model; read at each exchange.

    >>> model = nn.Linear(1, 1)
    >>> average = RunningAverage(model)
    >>> average.collect(model)
    >>> swap = Swap(model, average)
    >>> swap(), swap.swapped
    (None, True)
    >>> swap(), swap.swapped
    (None, False)
    """

    def __init__(self, model: nn.Module, average: Average) -> None:
        self._model = model
        self._average = average
        self._aside: Aside | None = None

    @property
    def swapped(self) -> bool:
        """Whether the model holds the average now."""
        return self._aside is not None

    def __call__(self) -> None:
        """Exchanges.

        Raises:
            StateError: the average has no snapshot yet; nothing was changed.
        """
        if self._aside is not None:
            self._aside.restore_()
            self._aside = None
            return
        theta = self._average.mean
        aside = Aside(self._model, self._average.layout)
        self._average.layout.write_(self._model, theta)
        self._aside = aside


def counted(n: int) -> str:
    return f"{n} snapshot" if n == 1 else f"{n} snapshots"


def no_snapshot() -> StateError:
    return StateError("average: has no snapshot yet; call collect(model) along the training trajectory first")


def rule_to_dict(rule: Rule) -> dict[str, Any]:
    """A rule as plain data: its name and numbers, or "own" for a user's."""
    known = RULES.get(getattr(rule, "name", ""))
    if known is None or type(rule) is not known:
        return {"name": "own"}
    return {"name": rule.name, **asdict(rule)}  # type: ignore[call-overload]


def check_header(state: Any, layout: Layout, kind: str) -> None:
    """Raises InputError where a state is none of this library, or belongs to another model."""
    if not isinstance(state, Mapping) or state.get("version") != STATE_VERSION or "layout" not in state:
        raise InputError(f"state: pass what {kind}.state_dict() returned")
    difference = layout.first_difference(Layout.from_list(state["layout"]))
    if difference is not None:
        raise InputError(
            f"state: belongs to another model ({difference}); build the {kind} from the same one"
        )
