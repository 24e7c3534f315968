"""The schedules as torch learning-rate schedulers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from numbers import Integral
from typing import Any, final

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from swag.errors import InputError
from swag.schedules.shapes import (
    KINDS,
    TOLERANCE,
    Shape,
    check_epoch,
    check_stride,
    whole_steps,
)
from swag.schedules.state_checks import check_numbers

STATE_VERSION = 1


@final
class Schedule(LRScheduler):
    r"""Sets every group's rate to a function of the epoch; made by the functions of `swag.schedules`.

    `step()` once an epoch after training, as for every torch scheduler; or `step(epoch)` with an absolute
    epoch, fractions included, before a batch. How long a step is follows from these calls: 1 for `step()` and
    for whole numbers one after another, for fractions the difference between an epoch and the one before
    (`stepped` says it in advance). The rate depends on the epoch and on that length alone, so changes that
    others make to the rate do not last. It works inside torch's `SequentialLR`, where its epochs count from
    its own beginning.

    Args:
        optimizer: any torch optimizer, `SWAOptimizer` too.
        shapes: one a parameter group.
        shared: what groups added later get; None where the groups were given rates of their own.
        epochs: the schedule's end; asking for a later epoch is an error. None: it has none.

    >>> import torch, swag.schedules
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> schedule = swag.schedules.cyclical(optimizer, lr_max=0.5, lr_min=0.1, cycle=4)
    >>> for epoch in range(8):
    ...     optimizer.step()                       # train one epoch
    ...     if schedule.is_collection_point():
    ...         print(epoch, round(schedule.get_last_lr()[0], 3))
    ...     schedule.step()
    3 0.1
    7 0.1
    """

    def __init__(
        self,
        optimizer: Optimizer,
        shapes: Sequence[Shape],
        *,
        shared: Shape | None = None,
        epochs: float | None = None,
    ) -> None:
        self._shapes = list(shapes)
        self._shared = shared
        self._end = epochs
        self._previous = -1.0
        self._stride: float | None = None  # the length of a step in epochs; None while nothing tells
        super().__init__(optimizer)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The rate of each parameter group as a function of the epoch."""
        return tuple(self._shapes)

    @property
    def epochs(self) -> float | None:
        """The schedule's end, or None."""
        return self._end

    def step(self, epoch: float | None = None) -> None:
        """Sets the rates of the next epoch, or of the given one.

        Args:
            epoch: absolute, from 0, fractions included; None is one more than the last.

        Raises:
            InputError: beyond the schedule's end, no such number, or a parameter group was added that has no
                rates (see `add_group`), or a cycle is shorter than a step. The rates are then as they were.
        """
        check_epoch(self.last_epoch + 1 if epoch is None else epoch, self._end)
        self._meet_new_groups()
        previous: float = self.last_epoch
        stride = self._stride_to(epoch)
        for shape in self._shapes:
            check_stride(shape, stride)
        self._stride = stride
        if epoch is None:
            super().step()
        else:
            # torch's own step warns that this use is deprecated; for us it is one of the two.
            self.last_epoch = epoch if isinstance(epoch, int) else float(epoch)  # type: ignore[assignment]
            self._step_count += 1
            self._set_rates()
        self._previous = previous

    def stepped(self, steps_per_epoch: int) -> None:
        """Says how often `step(epoch)` will be called in an epoch; the present rate is set accordingly.

        Not needed, since the calls themselves tell; it makes the first step right, too. A length given to the
        schedule when it was made stays.

        Raises:
            InputError: no such number, or a cycle is shorter than a step; nothing was changed.
        """
        stride = 1.0 / whole_steps("steps_per_epoch", steps_per_epoch)
        for shape in self._shapes:
            check_stride(shape, stride)
        if stride != self._stride:
            self._stride = stride
            self._set_rates()

    def get_lr(self) -> list[float | Tensor]:
        """The rates at `last_epoch`, one a group."""
        return [*self._rates_at(self.last_epoch)]

    def rates(self, epoch: float) -> list[float]:
        """The rates at any epoch, one a group, without setting them."""
        check_epoch(epoch, self._end)
        return self._rates_at(epoch)

    def __repr__(self) -> str:
        shapes = self._shapes if len(set(self._shapes)) > 1 else self._shapes[:1]
        end = "" if self._end is None else f", epochs={self._end}"
        return f"Schedule({', '.join(map(repr, shapes))}{end}, now at epoch {self.last_epoch:g})"

    def is_collection_point(self) -> bool:
        """Whether now is the time to take a snapshot: ask after training at this rate and before `step`.

        True where the rate is at its lowest of the cycle; where it is constant, in each epoch's last step.
        Where steps jump over that point, the first step after it counts, so that each cycle has one.

        Inside `SequentialLR`, ask the schedule whose turn it is: one whose turn is over is stepped no more,
        and its answer stays as it was.
        """
        point = self._shapes[0].last_point(self.last_epoch, self._step_length) if self._shapes else None
        if point is None:
            return False
        if 0 < self.last_epoch - self._previous <= 1 + TOLERANCE:
            return point > self._previous + TOLERANCE
        return self.last_epoch - point <= TOLERANCE

    def add_group(self, **rates: float) -> None:
        """Gives the next parameter group its rates, where the groups have rates of their own.

        Args:
            rates: the rates that differ from the last group's, by the names of its shape's fields.

        Raises:
            InputError: no such rate.
        """
        known = {field.name for field in fields(self._shapes[-1])}  # type: ignore[arg-type]
        unknown = sorted(set(rates) - known)
        if unknown:
            raise InputError(f"{unknown[0]}: this schedule has {', '.join(sorted(known))}")
        self._shapes.append(replace(self._shapes[-1], **rates))  # type: ignore[type-var]

    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists alone, so that JSON can hold it; resumes exactly."""
        return {
            "version": STATE_VERSION,
            "kind": self._shapes[0].kind,
            "shapes": [asdict(shape) for shape in self._shapes],  # type: ignore[call-overload]
            "shared": None if self._shared is None else asdict(self._shared),  # type: ignore[call-overload]
            "epochs": self._end,
            "last_epoch": self.last_epoch,
            "previous_epoch": self._previous,
            "stride": self._stride,
            "base_lrs": [float(lr) for lr in self.base_lrs],
            "last_lr": [float(lr) for lr in self._last_lr],
            "step_count": self._step_count,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes a state over, its rates included; the optimizer's present rate comes with its own state.

        Raises:
            InputError: a state of another kind of schedule, of more groups than there are, or damaged.
        """
        if not isinstance(state_dict, Mapping) or state_dict.get("version") != STATE_VERSION:
            raise InputError("state_dict: pass what state_dict() of a schedule of this library returned")
        kind = self._shapes[0].kind
        if state_dict.get("kind") != kind:
            raise InputError(
                f"state_dict: belongs to a schedule of kind {state_dict.get('kind')!r}, this one is {kind!r}"
            )
        try:
            shapes = [KINDS[kind](**numbers) for numbers in state_dict["shapes"]]
            shared = state_dict["shared"]
            found = {
                "_shapes": shapes,
                "_shared": None if shared is None else KINDS[kind](**shared),
                "_end": state_dict["epochs"],
                "last_epoch": state_dict["last_epoch"],
                "_previous": state_dict["previous_epoch"],
                "base_lrs": list(state_dict["base_lrs"]),
                "_last_lr": list(state_dict["last_lr"]),
                "_step_count": state_dict["step_count"],
                "_stride": state_dict.get("stride"),
            }
        except (KeyError, TypeError) as error:
            raise InputError(f"state_dict: damaged ({error!r})") from error
        check_numbers(found)
        groups = len(self.optimizer.param_groups)
        if len(shapes) > groups or len(found["base_lrs"]) > len(shapes):
            raise InputError(
                f"state_dict: has {len(shapes)} parameter groups, the optimizer {groups}; add them first"
            )
        self.__dict__.update(found)

    def _meet_new_groups(self) -> None:
        """Takes in the groups added since; a schedule of torch's would fail at its next step."""
        groups = self.optimizer.param_groups
        while len(self._shapes) < len(groups):
            if self._shared is None:
                raise InputError(
                    f"optimizer: has {len(groups)} parameter groups and this schedule rates for "
                    f"{len(self._shapes)}; call schedule.add_group(…) with the new group's rates"
                )
            self._shapes.append(self._shared)
        for group in groups[len(self.base_lrs) :]:
            group.setdefault("initial_lr", _copied(group["lr"]))
            self.base_lrs.append(group["initial_lr"])

    def _set_rates(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._last_lr = [_copied(group["lr"]) for group in self.optimizer.param_groups]

    def _rates_at(self, epoch: float) -> list[float]:
        self._meet_new_groups()
        pairs = zip(self._shapes, self.base_lrs, strict=True)
        return [shape.rate(epoch, float(base), self._step_length) for shape, base in pairs]

    @property
    def _step_length(self) -> float:
        return 1.0 if self._stride is None else self._stride

    def _stride_to(self, epoch: float | None) -> float | None:
        """The length of a step, once the step to `epoch` is asked for."""
        if self.last_epoch < 0:
            return None  # the constructor's own step, or the beginning inside SequentialLR
        if epoch is None:
            return 1.0
        difference = float(epoch) - self.last_epoch
        if TOLERANCE < difference <= 1 + TOLERANCE:
            steps = round(1 / difference)  # 1/steps without the rounding of epoch + batch/batches
            return 1.0 / steps if abs(difference * steps - 1) < 1e-6 else difference
        if self._stride is None and not isinstance(epoch, Integral):
            return 0.0
        return self._stride


def _copied(lr: float | Tensor) -> float | Tensor:
    return lr.clone() if isinstance(lr, Tensor) else lr
