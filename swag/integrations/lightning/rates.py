"""The rate of the averaging phase, set on the optimizers whatever schedulers of the module say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from swag.errors import InputError


@final
class Rates:
    r"""rate = (1 − s)·before + s·swa_lr, s from 0 to 1; before s > 0 the rates are left alone.

    Args:
        swa_lr: one rate for all groups, one a group, or None to leave them alone always.

    Attributes:
        before: the groups' rates where the way began; None before that.
    """

    def __init__(self, swa_lr: float | Sequence[float] | None) -> None:
        rates = swa_lr if isinstance(swa_lr, Sequence) else [] if swa_lr is None else [swa_lr]
        for rate in rates:
            if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < rate < float("inf"):
                raise InputError(f"swa_lr: got {swa_lr!r}; pass a positive rate, or a list with one a group")
        self.swa_lr: float | list[float] | None
        self.swa_lr = [float(r) for r in rates] if isinstance(swa_lr, Sequence) else swa_lr
        self.before: list[float] | None = None

    def set_(self, groups: Sequence[dict[str, Any]], share: float) -> None:
        """Sets the rates of parameter groups.

        Raises:
            InputError: `swa_lr` is a list of another length.
        """
        if self.swa_lr is None or share <= 0:
            return
        targets = self.swa_lr if isinstance(self.swa_lr, list) else [self.swa_lr] * len(groups)
        if len(targets) != len(groups):
            raise InputError(
                f"swa_lr: has {len(targets)} rates, and {len(groups)} parameter groups hold collected weights"
            )
        if self.before is None or len(self.before) != len(groups):
            self.before = [float(group["lr"]) for group in groups]
        for group, target, before in zip(groups, targets, self.before, strict=True):
            rate = (1 - share) * before + share * target
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def groups_of(
    optimizers: Iterable[Optimizer], parameters: Iterable[torch.nn.Parameter]
) -> list[dict[str, Any]]:
    """The groups that hold one of the parameters, optimizer after optimizer."""
    wanted = {id(parameter) for parameter in parameters}
    return [
        group
        for optimizer in optimizers
        for group in optimizer.param_groups
        if any(id(parameter) in wanted for parameter in group["params"])
    ]
