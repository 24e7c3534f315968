"""The averages of an optimizer's parameter groups, and their exchange with the parameters."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from swag.errors import InputError, StateError
from swag.moments import all_finite
from swag.parameters import Layout
from swag.training.finiteness import Finiteness
from swag.training.rules import Equal
from swag.training.shifted_mean import ShiftedMean, checked_mean

_log = logging.getLogger(__name__)

Groups = Sequence[Mapping[str, Any]]


@final
class GroupAverages:
    """One equal average a parameter group, found by the group's place.

    While `swapped`, the parameters hold the averages and the iterates lie aside.
    """

    def __init__(self) -> None:
        self._means: list[ShiftedMean] = []
        self._aside: list[Tensor | None] | None = None
        self._finite = Finiteness()

    @property
    def begun(self) -> bool:
        """Whether anything was averaged."""
        self._finite.settle()
        return any(mean.n for mean in self._means)

    @property
    def swapped(self) -> bool:
        """Whether the averages are in the parameters."""
        return self._aside is not None

    def counts(self, groups: Groups) -> list[int]:
        """The snapshots in each group's average."""
        self._finite.settle()
        return [mean.n for mean in self._means] if self._means else [0] * len(groups)

    def check_iterates_are_in(self, what: str) -> None:
        """Raises StateError while swapped."""
        if self.swapped:
            raise StateError(
                f"{what}: the averages are in the model and the iterates aside; call swap_swa_sgd() first"
            )

    def update(self, groups: Groups, which: Iterable[int]) -> None:
        """Takes the parameters of some groups in: all of them, or after an error none."""
        self.check_iterates_are_in("update_swa()")
        self._finite.settle()
        means = self._means or [_mean_for(group, place) for place, group in enumerate(groups)]
        _check_same(means, groups)
        chosen = [(means[i], list(groups[i]["params"])) for i in which]
        tensors = [tensor for _, params in chosen for tensor in params]
        names = [name for mean, _ in chosen for name in mean.layout.names]

        def undo() -> None:
            for mean, _ in chosen:
                mean.n -= 1

        keep = self._finite.look(tensors, names, undo)
        self._means = means
        for mean, params in chosen:
            mean.take(params, Equal().share(mean.n + 1), keep)

    def swap(self, groups: Groups) -> None:
        """Exchanges the parameters with the averages, or back."""
        if self._aside is not None:
            for mean, params, iterate in zip(self._means, _params(groups), self._aside, strict=True):
                if iterate is not None:
                    _write_(mean.layout, params, iterate)
            self._aside = None
            return
        if not self.begun:
            raise StateError(
                "swap_swa_sgd(): nothing was averaged yet; take steps beyond swa_start, or call update_swa()"
            )
        _check_same(self._means, groups)
        aside: list[Tensor | None] = []
        for place, (mean, params) in enumerate(zip(self._means, _params(groups), strict=True)):
            # In the statistics dtype, which holds every narrower one exactly.
            aside.append(_flat(mean, params) if mean.n else None)
            if not mean.n:
                _log.warning("parameter group %d was never averaged; its weights stay as they are", place)
        for mean, params in zip(self._means, _params(groups), strict=True):
            if mean.n:
                _write_(mean.layout, params, mean.mean())
        self._aside = aside

    def by_parameter(self, groups: Groups) -> dict[int, Tensor]:
        """The average of every averaged parameter, by its id."""
        found: dict[int, Tensor] = {}
        for mean, params in zip(self._means if self.begun else [], _params(groups), strict=False):
            if mean.n:
                found |= {
                    id(p): t for p, t in zip(params, mean.layout.unflatten(mean.mean()).values(), strict=True)
                }
        return found

    def state(self, groups: Groups) -> list[dict[str, Any]]:
        """Plain data and tensors, one entry a group."""
        self._finite.settle()
        states = [mean.state() for mean in self._means] if self._means else [{"n": 0} for _ in groups]
        for entry, aside in zip(states, self._aside or [], strict=False):
            if aside is not None:
                entry["aside"] = aside.clone()
        return states

    @classmethod
    def loaded(cls, states: Any, groups: Groups) -> GroupAverages:
        """The averages behind `state`, for the groups at hand.

        Raises:
            InputError: another number of groups or parameters, or damaged.
        """
        if not isinstance(states, list) or len(states) != len(groups):
            came = len(states) if isinstance(states, list) else type(states).__name__
            raise InputError(f"state_dict: has averages of {came} groups, the optimizer {len(groups)}")
        averages = cls()
        aside: list[Tensor | None] = []
        for place, (state, group) in enumerate(zip(states, groups, strict=True)):
            mean, where = _mean_for(group, place), f"state_dict: group {place}"
            mean.load(checked_mean(state, mean.layout.size, where))
            averages._means.append(mean)
            own = state.get("aside")
            if own is not None:
                if not isinstance(own, Tensor) or tuple(own.shape) != (mean.layout.size,) or not mean.n:
                    raise InputError(f"{where}: 'aside' does not fit; the state is damaged")
                if not all_finite([own]):
                    raise InputError(f"{where}: 'aside' holds NaN or infinite values")
                own = own.to(mean.device, mean.layout.statistics_dtype, copy=True)
            aside.append(own)
        if any(own is not None for own in aside):
            averages._aside = aside
        if not any(mean.n for mean in averages._means):
            averages._means = []
        return averages

    @classmethod
    def of_means(cls, groups: Groups, means: Sequence[tuple[int, Sequence[Tensor]]]) -> GroupAverages:
        """Averages that were computed elsewhere: n and one tensor a parameter, for each group.

        Raises:
            InputError: shapes that differ from the parameters'.
        """
        averages = cls()
        for place, (group, (n, values)) in enumerate(zip(groups, means, strict=True)):
            mean = _mean_for(group, place)
            if n:
                shapes = [tuple(value.shape) for value in values]
                if shapes != [tuple(p.shape) for p in group["params"]]:
                    raise InputError(f"state: the averages of group {place} are not shaped as its weights")
                if not all_finite(values):
                    raise InputError(f"state: the averages of group {place} hold NaN or infinite values")
                mean.put(_flat(mean, values), n)
            averages._means.append(mean)
        return averages


def _mean_for(group: Mapping[str, Any], place: int) -> ShiftedMean:
    params = list(group["params"])
    given = group.get("param_names")
    names = list(given) if given is not None and len(set(given)) == len(params) else None
    for number, tensor in enumerate(params):
        if not tensor.is_floating_point():
            raise InputError(
                f"param_groups[{place}]: parameter {number} has dtype {tensor.dtype}; only real "
                "floating-point parameters can be averaged"
            )
    layout = Layout(
        (names[i] if names else f"param_groups[{place}]['params'][{i}]", p.shape, p.dtype)
        for i, p in enumerate(params)
    )
    return ShiftedMean(layout, params[0].device if params else torch.device("cpu"))


def _check_same(means: Sequence[ShiftedMean], groups: Groups) -> None:
    held = [[entry.shape for entry in mean.layout.entries] for mean in means]
    found = [[tuple(p.shape) for p in group["params"]] for group in groups]
    if held != found:
        raise StateError(
            f"param_groups: averaging began with {[len(g) for g in held]} parameters by group, now there are "
            f"{[len(g) for g in found]}, or their shapes differ; call reset_swa() to begin the averages anew"
        )


def _params(groups: Groups) -> list[list[Tensor]]:
    return [list(group["params"]) for group in groups]


def _flat(mean: ShiftedMean, params: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        dtype, device = mean.layout.statistics_dtype, mean.device
        parts = [p.detach().reshape(-1).to(device, dtype) for p in params]
        return torch.cat(parts) if parts else torch.empty(0, dtype=dtype, device=device)


def _write_(layout: Layout, params: Sequence[Tensor], theta: Tensor) -> None:
    with torch.no_grad():
        for entry, tensor in zip(layout.entries, params, strict=True):
            tensor.copy_(theta[entry.start : entry.stop].view(entry.shape))
