"""One function a schedule. Rates may be lists, one a parameter group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real

from torch.optim import Optimizer

from swag.errors import InputError
from swag.schedules.schedule import Schedule
from swag.schedules.shapes import (
    Constant,
    Cosine,
    CosineCycle,
    RepeatedCosine,
    SawTooth,
    Shape,
    SWAPaper,
    Triangle,
    check_length,
    whole_steps,
)

Rate = float | Sequence[float]


def swa_paper(
    optimizer: Optimizer, *, swa_start: float, swa_lr: Rate, epochs: float | None = None
) -> Schedule:
    r"""The SWA paper's schedule: the group's own rate, a linear descent, `swa_lr` from 0.9·swa_start on.

    Formula: `swag.schedules.rates.swa_paper`. Collection points: the last step of every epoch from swa_start
    on.

    Args:
        optimizer: its groups' rates are the starting rates.
        swa_start: the epoch at which averaging begins; the paper's is about 0.75 of the training.
        swa_lr: the rate while averaging, one number or one a group.
        epochs: an end beyond which stepping is an error.

    Raises:
        InputError: a rate or length out of range, or not one rate a group.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> schedule = swa_paper(optimizer, swa_start=160, swa_lr=0.05)
    >>> schedule.step(112)
    >>> round(optimizer.param_groups[0]["lr"], 4), schedule.is_collection_point()
    (0.075, False)
    """
    return _made(optimizer, lambda swa_lr: SWAPaper(swa_start, swa_lr), epochs, swa_lr=swa_lr)


def constant(optimizer: Optimizer, *, lr: Rate, epochs: float | None = None) -> Schedule:
    r"""One rate for ever, as SWAG uses while collecting; the collection point is each epoch's last step.

    Args:
        optimizer: its groups' rates are replaced.
        lr: one number or one a group.
        epochs: an end beyond which stepping is an error.

    Raises:
        InputError: a rate out of range, or not one rate a group.
    """
    return _made(optimizer, Constant, epochs, lr=lr)


def cyclical(
    optimizer: Optimizer,
    *,
    lr_max: Rate,
    lr_min: Rate,
    cycle: float,
    steps_per_epoch: int | None = None,
    epochs: float | None = None,
) -> Schedule:
    r"""The SWA paper's cyclical rate: falls linearly to `lr_min` in each cycle, then jumps back.

        rate = (1 − t)·lr_max + t·lr_min,   t = min(1, ((epoch mod cycle) + step)/cycle)

    with `step` the length of a step in epochs: t is the share of the cycle that is over when the step is.
    1 for `step()` and `step(0), step(1), …`; for `step(epoch + batch/batches)` it is 1/batches, found from
    the difference between one epoch asked for and the next. At the first fractional call there is no
    difference yet, and step = 0: with the rate lr_max. Both ways end each cycle with a step at lr_min,
    which is the collection point. The formula is `swag.schedules.rates.saw_tooth`.

    Args:
        optimizer: its groups' rates are replaced.
        lr_max: the upper rate α₁, one number or one a group; the first step is one step below it.
        lr_min: the lower rate α₂.
        cycle: length in epochs, one step or more.
        steps_per_epoch: how often `step(epoch)` is called in an epoch; None finds it as above. It matters to
            the first step alone, and to steps of different lengths.
        epochs: an end beyond which stepping is an error.

    Raises:
        InputError: a rate or length out of range, lr_min above lr_max, or not one rate a group.

    Source: Izmailov et al. 2018, section 3.1.
    """
    step = _step(steps_per_epoch, cycle)

    def shape(lr_max: float, lr_min: float) -> Shape:
        return SawTooth(lr_max, lr_min, cycle, step)

    return _made(optimizer, shape, epochs, lr_max=lr_max, lr_min=lr_min)


def cyclical_cosine(
    optimizer: Optimizer,
    *,
    lr_max: Rate,
    lr_min: Rate,
    cycle: float,
    steps_per_epoch: int | None = None,
    epochs: float | None = None,
) -> Schedule:
    r"""`cyclical` with half a cosine in the place of the line.

    Formula: `swag.schedules.rates.cosine_cycle`. Args, collection points and errors as for `cyclical`.
    """
    step = _step(steps_per_epoch, cycle)

    def shape(lr_max: float, lr_min: float) -> Shape:
        return CosineCycle(lr_max, lr_min, cycle, step)

    return _made(optimizer, shape, epochs, lr_max=lr_max, lr_min=lr_min)


def fge_triangle(
    optimizer: Optimizer, *, lr_max: Rate, lr_min: Rate, cycle: float, epochs: float | None = None
) -> Schedule:
    r"""FGE's triangle: from `lr_max` linearly to `lr_min` at mid-cycle and back.

    Formula: `swag.schedules.rates.triangle`. Collection point: the middle of each cycle, where the rate is
    lr_min. Meant for `step(epoch + batch/batches)`; with `step()` once an epoch take an even cycle.

    Args:
        optimizer: its groups' rates are replaced.
        lr_max: α₁, one number or one a group.
        lr_min: α₂.
        cycle: length in epochs.
        epochs: an end beyond which stepping is an error.

    Raises:
        InputError: a rate or length out of range, lr_min above lr_max, or not one rate a group.

    Source: Garipov et al. 2018, arXiv:1802.10026, equation 4.
    """

    def shape(lr_max: float, lr_min: float) -> Shape:
        return Triangle(lr_max, lr_min, cycle)

    return _made(optimizer, shape, epochs, lr_max=lr_max, lr_min=lr_min)


def fast_swa(
    optimizer: Optimizer,
    *,
    horizon: float = 210,
    first_end: float = 180,
    cycle: float = 30,
    every: float | None = None,
    epochs: float | None = None,
) -> Schedule:
    r"""fast-SWA's rate: a cosine cut off at `first_end`, whose last `cycle` epochs then come again.

    Formula: `swag.schedules.rates.repeated_cosine` with the groups' own rates. Collection points: the last
    step of each cycle (SWA), or every `every` epochs from first_end − cycle on (fast-SWA, every=3: the last
    steps of the epochs 150, 153, …; or a fraction with fractional steps).

    Args:
        optimizer: its groups' rates are those at epoch 0.
        horizon: where the cosine would be 0.
        first_end: where it is cut off and the repetition begins.
        cycle: the length of the piece that is repeated.
        every: None for SWA's collection points, the distance in epochs for fast-SWA's.
        epochs: an end beyond which stepping is an error.

    Raises:
        InputError: not cycle ≤ first_end ≤ horizon, or a length that is none.

    Source: Athiwaratkun et al. 2019, arXiv:1806.05594.
    """
    for name, length in (("horizon", horizon), ("first_end", first_end), ("cycle", cycle)):
        check_length(name, length)
    # Where the first snapshot's training ends.
    first_point = first_end if every is None else first_end - cycle + min(every, 1)
    distance = cycle if every is None else every
    return _made(optimizer, lambda: RepeatedCosine(horizon, first_end, cycle, first_point, distance), epochs)


def cosine(optimizer: Optimizer, *, epochs: float, lr_min: Rate = 0.0) -> Schedule:
    r"""Half a cosine from the group's own rate to `lr_min` at `epochs`, its end: the usual baseline.

    Formula: `swag.schedules.rates.cosine`. Stepping beyond the end is an error.
    """
    return _made(optimizer, lambda lr_min: Cosine(lr_min, epochs), epochs, lr_min=lr_min)


def _made(optimizer: Optimizer, shape: Callable[..., Shape], epochs: float | None, **rates: Rate) -> Schedule:
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer: got a {type(optimizer).__name__}; pass a torch.optim.Optimizer")
    if epochs is not None:
        check_length("epochs", epochs)
    n = len(optimizer.param_groups)
    columns = {name: _per_group(name, value, n) for name, value in rates.items()}
    shapes = [shape(**{name: column[i] for name, column in columns.items()}) for i in range(n)]
    own = any(isinstance(value, Sequence) for value in rates.values())
    return Schedule(optimizer, shapes, shared=None if own else shapes[0], epochs=epochs)


def _per_group(name: str, value: Rate, n: int) -> list[float]:
    values = list(value) if isinstance(value, Sequence) else [value] * n
    if isinstance(value, str) or not all(isinstance(v, Real) and not isinstance(v, bool) for v in values):
        raise InputError(f"{name}: got {value!r}; pass a number, or a list with one a parameter group")
    if len(values) != n:
        raise InputError(f"{name}: has {len(values)} rates, the optimizer has {n} parameter groups")
    return [float(v) for v in values]


def _step(steps_per_epoch: int | None, cycle: float) -> float | None:
    check_length("cycle", cycle)
    if steps_per_epoch is None:
        return None
    n = whole_steps("steps_per_epoch", steps_per_epoch)
    if cycle * n < 1:
        raise InputError(f"cycle: got {cycle}, which is shorter than a step; pass a longer one")
    return 1.0 / n
