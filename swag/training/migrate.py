"""Averages that other libraries began, taken over so that they can go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from swag.arguments import whole
from swag.collector import Collector
from swag.collector_state import STATE_VERSION
from swag.errors import InputError
from swag.parameters import Layout, Select, clean_name
from swag.training.averages import RunningAverage
from swag.training.group_averages import GroupAverages
from swag.training.optimizer import SWAOptimizer
from swag.training.rules import Rule

_log = logging.getLogger(__name__)
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
    theta = _vector(average.layout, found, "", "averaged", average.layout.statistics_dtype)
    average._mean.put(theta, n)
    return average


def from_swa_gaussian(
    state: Mapping[str, Any],
    model: nn.Module,
    *,
    rank: int | None = None,
    select: Select = None,
) -> Collector:
    r"""A collector from the state_dict of a `SWAG` of the SWAG paper's code (swa_gaussian), ready to go on.

    Taken over: n_models, the mean, the deviations' rows, and the variance as that code has it,

        sq_dev = n·max(sq_mean − mean², 0),

    a difference of large float32 numbers: where weights moved little beside their size, their variance was
    lost when it was written, and a warning says about how many these are (where it is not above twice the
    error of n rounded steps, √n·eps·sq_mean/2 each). Buffers are left out: refresh batch norm.
    `swag(scale)` of the result is that code's posterior once its `max_num_models` snapshots are there; with
    fewer it divides the low-rank part by max_num_models − 1, and this by the rows less one.

    Args:
        state: `swag_model.state_dict()`; of a file of its `run_swag.py`, the entry "state_dict".
        model: of the same architecture; gives names and which parameters are trainable.
        rank: the rows to keep from now on. None for as many as there are, and where no row was dropped
            yet, 20 or more; 0 where the state has none.
        select: which parameters, as in `Collector`.

    Returns:
        A collector beside the model's weights, of n_models snapshots.

    Raises:
        InputError: no such state, one of another architecture or with values that are not finite, a damaged
            one, or a rank larger than the rows that were kept.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> state = {"n_models": torch.tensor([2]), "base.weight_mean": torch.tensor([[3.0]])}
    >>> state |= {"base.weight_sq_mean": torch.tensor([[10.0]])}
    >>> collector = from_swa_gaussian(state, model)
    >>> collector, collector.swag_diag().cov_diag
    (Collector(2 snapshots, rank=0, D=1), tensor([1.]))
    """
    found, n = _swa_gaussian_tensors(state)
    layout = Layout.of(model, select)
    rows = _rows_of(found, layout)
    kept = 0 if rows is None else len(rows)
    if kept > n:
        raise InputError(f"state: has {kept} rows of {n} snapshots; it is damaged, or no SWAG's")
    if rank is None:
        rank = kept if kept < n else max(20, kept)
    if whole("rank", rank, 0) > kept and kept < n:
        raise InputError(
            f"rank: got {rank}, and of {n} snapshots {kept} rows were kept; pass {kept} or fewer"
        )
    collector = Collector(model, rank, select=select)
    if n == 0:
        return collector
    kept = min(n, rank)
    dtype = layout.statistics_dtype
    mean, variance = _moments(found, layout, n)
    collector.load_state_dict(
        {
            "version": STATE_VERSION,
            "layout": layout.to_list(),
            "rank": collector.rank,
            "deviation_dtype": str(collector.deviation_dtype).removeprefix("torch."),
            "n_collected": n,
            "origin": mean.to(dtype),
            "offset_mean": torch.zeros(layout.size, dtype=dtype, device="cpu"),
            "sq_dev": (n * variance).to(dtype),
            "deviations": torch.empty(0, layout.size, device="cpu")
            if rows is None
            else rows[len(rows) - kept :],
        }
    )
    return collector


def _swa_gaussian_tensors(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """The tensors by their names in the network, and n_models; DataParallel around either is taken off."""
    if isinstance(state, Mapping):
        for outside in ("", _PREFIX):
            n = state.get(f"{outside}n_models")
            if not isinstance(n, Tensor) or n.numel() != 1:
                continue
            inside = f"{outside}base."
            found = {
                clean_name(name.removeprefix(inside)): value
                for name, value in state.items()
                if isinstance(value, Tensor) and name.startswith(inside)
            }
            return found, int(n)
    raise InputError(
        "state: has no number 'n_models'; pass swag_model.state_dict(), or the entry 'state_dict' of its file"
    )


def _moments(found: Mapping[str, Tensor], layout: Layout, n: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (D,) in float64, the latter not below 0; tells where rounding has eaten it."""
    mean = _vector(layout, found, "_mean", "state", torch.float64)
    square = _vector(layout, found, "_sq_mean", "state", torch.float64)
    variance = square - mean.square()
    # n steps of a running mean, each rounded, leave an error of about √n·eps·θ²/2 (standard deviation).
    squares = [_beside(found, f"{entry.name}_sq_mean", entry.shape, "state") for entry in layout.entries]
    eps = max(torch.finfo(part.dtype).eps for part in squares)
    rounding = 0.5 * n**0.5 * eps * square
    if bool((variance < -4 * n * eps * square.abs()).any()):  # more than n roundings of one sign
        raise InputError("state: a mean of squares is less than the square of the mean; it is damaged")
    lost = int(((variance <= 2 * rounding) & (square > 0)).sum())
    if lost and n > 1:
        _log.warning(
            "state: of about %d of %d weights the variance, sq_mean − mean², cannot be told from rounding: "
            "that code loses it where weights move little; collect anew if it matters",
            lost,
            layout.size,
        )
    return mean, variance.clamp(min=0)


def _beside(found: Mapping[str, Tensor], name: str, shape: tuple[int, ...] | None, argument: str) -> Tensor:
    """The tensor of that name, also where the network inside is in a DDP or DataParallel.

    Raises:
        InputError: it is missing, or has another shape than the one that is wanted.
    """
    value = found.get(name, found.get(_PREFIX + name))
    if value is None or (shape is not None and tuple(value.shape) != shape):
        came = "is missing" if value is None else f"has shape {tuple(value.shape)}"
        wanted = "" if shape is None else f", expected {shape}"
        raise InputError(f"{argument}: '{name}' {came}{wanted}: pass a model of the same architecture")
    return value


def _rows_of(found: Mapping[str, Tensor], layout: Layout) -> Tensor | None:
    """The deviations (k, D) in such a state, oldest first; None where it has none."""
    names = [f"{entry.name}_cov_mat_sqrt" for entry in layout.entries]
    if not any(name.endswith("_cov_mat_sqrt") for name in found):
        return None
    first = _beside(found, names[0], None, "state")
    k = first.shape[0] if first.ndim else 0
    rows = torch.empty(k, layout.size, dtype=layout.statistics_dtype, device="cpu")
    for entry, name in zip(layout.entries, names, strict=True):
        rows[:, entry.start : entry.stop] = _beside(found, name, (k, entry.stop - entry.start), "state")
    return rows


def _vector(
    layout: Layout, found: Mapping[str, Tensor], suffix: str, argument: str, dtype: torch.dtype
) -> Tensor:
    """θ (D,) of the tensors that have the parameters' names, with a suffix."""
    theta = torch.empty(layout.size, dtype=dtype, device="cpu")
    for entry in layout.entries:
        name = entry.name + suffix
        value = _beside(found, name, entry.shape, argument)
        if not bool(value.isfinite().all()):
            raise InputError(f"{argument}: '{name}' holds NaN or infinite values")
        theta[entry.start : entry.stop].view(entry.shape).copy_(value)
    return theta


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
