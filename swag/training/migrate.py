"""Averages that other libraries began, taken over so that they can go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from swag.errors import InputError
from swag.parameters import Select, clean_name
from swag.training.averages import RunningAverage
from swag.training.group_averages import GroupAverages
from swag.training.optimizer import SWAOptimizer
from swag.training.rules import Rule

_PREFIX = "module."


def from_averaged_model(
    averaged: AveragedModel | Mapping[str, Any],
    model: nn.Module | None = None,
    *,
    rule: Rule | None = None,
    select: Select = None,
) -> RunningAverage:
    r"""The average in a `torch.optim.swa_utils.AveragedModel`, ready to go on.

    Taken over: the weights and n_averaged, so that the next snapshot has the share it would have had. What
    cannot be known: the second moment and the deviations (SWAG must be collected anew), what rounding took
    from an average in float16 or bfloat16, torch's averaged or copied buffers (refresh batch norm), and
    which averaging function it was: say it by `rule`.

    Args:
        averaged: the AveragedModel, or its state_dict.
        model: gives names and which parameters are trainable; needed for a state_dict, otherwise the
            module inside.
        rule: Equal() for torch's default, EMA(decay) for its get_ema_avg_fn(decay).
        select: which parameters, as in `Collector`.

    Returns:
        The average, of n_averaged snapshots.

    Raises:
        InputError: no such object or state, or it is of another architecture.

    >>> model = nn.Linear(2, 1)
    >>> averaged = AveragedModel(model)
    >>> averaged.update_parameters(model)
    >>> from_averaged_model(averaged)
    RunningAverage(1 snapshot, Equal(), D=3)
    """
    if isinstance(averaged, AveragedModel):
        model = averaged.module if model is None else model
        averaged = averaged.state_dict()
    if not isinstance(averaged, Mapping) or not isinstance(averaged.get("n_averaged"), Tensor):
        raise InputError(
            "averaged: pass a torch.optim.swa_utils.AveragedModel, or its state_dict() with 'n_averaged'"
        )
    if model is None:
        raise InputError("model: a state_dict does not say which weights are trainable; pass the model, too")
    average = RunningAverage(model, rule, select=select)
    n = int(averaged["n_averaged"])
    if n == 0:
        return average
    found = {
        clean_name(name.removeprefix(_PREFIX)): value
        for name, value in averaged.items()
        if isinstance(value, Tensor)
    }
    theta = torch.empty(average.layout.size, dtype=average.layout.statistics_dtype)
    for entry in average.layout.entries:
        value = found.get(entry.name, found.get(_PREFIX + entry.name))  # the second: DDP inside
        if value is None or tuple(value.shape) != entry.shape:
            came = "is missing" if value is None else f"has shape {tuple(value.shape)}"
            raise InputError(
                f"averaged: '{entry.name}' {came}, expected {entry.shape}: pass a model of the same "
                "architecture"
            )
        if not bool(value.isfinite().all()):
            raise InputError(f"averaged: '{entry.name}' holds NaN or infinite values")
        theta[entry.start : entry.stop].view(entry.shape).copy_(value)
    average._mean.put(theta, n)
    return average


def load_torchcontrib_(optimizer: SWAOptimizer, state: Mapping[str, Any]) -> None:
    r"""Loads what `torchcontrib.optim.SWA.state_dict()` returned, which torchcontrib itself cannot.

    The base optimizer's state, the count of steps and the averages. torchcontrib files an average under its
    parameter's address in memory; in states of torch before 1.7 the groups list the same addresses, later
    ones are matched by their order, which is that of the groups where `update_swa()` or the automatic mode
    made them. A state that was saved while swapped holds the iterate in the place of the average, and cannot
    be told from others: swap back before saving.

    Args:
        optimizer: around the same kind of base, with the same groups.
        state: the dict, as from torch.load.

    Raises:
        InputError: no such state, or one of other parameters. Nothing was changed.
        ValueError: the base's own refusal. Nothing was changed.
    """
    keys = ("opt_state", "swa_state", "param_groups")
    if not isinstance(state, Mapping) or any(key not in state for key in keys):
        raise InputError(f"state: lacks one of {', '.join(keys)}; pass the dict that torchcontrib saved")
    groups, filed = state["param_groups"], state["swa_state"]
    if len(groups) != len(optimizer.param_groups):
        raise InputError(f"state: has {len(groups)} groups, the optimizer {len(optimizer.param_groups)}")
    buffers = {key: entry["swa_buffer"] for key, entry in filed.items() if "swa_buffer" in entry}
    ordered = iter(buffers.values())
    means: list[tuple[int, list[Tensor]]] = []
    for place, group in enumerate(groups):
        n = int(group.get("n_avg", 0))
        try:
            keys_here = group["params"] if n else ()
            values = [buffers[key] if key in buffers else next(ordered) for key in keys_here]
        except StopIteration:
            raise InputError(f"state: group {place} lacks averages; it is damaged") from None
        means.append((n, values))
    averages = GroupAverages.of_means(optimizer.param_groups, means)
    own = ("n_avg", "step_counter")
    plain = [{key: value for key, value in group.items() if key not in own} for group in groups]
    optimizer.base.load_state_dict({"state": state["opt_state"], "param_groups": plain})
    optimizer._resume(max(int(group.get("step_counter", 0)) for group in groups), averages)
