"""How members are run on a batch: one after the other, several at once, or compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from swag.errors import InputError


@final
@dataclass(frozen=True)
class Loop:
    """One member after the other.

    Args:
        fast: on the CPU, send images through convolutional nets in channels_last memory and fold batch
            norm into the convolutions before it; each only where the first batch's outputs agree with
            the plain way to rounding.
    """

    fast: bool = True


@final
@dataclass(frozen=True)
class Vmapped:
    """`chunk` members at once by `torch.func.vmap`; models it cannot run fall back to the loop, logged.

    Out of memory, the chunk is halved and tried again. Costs `chunk` times the memory of activations.
    """

    chunk: int = 8

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise InputError(f"chunk: got {self.chunk}; run at least one member at once")


@final
@dataclass(frozen=True)
class Compiled:
    """One member after the other through `torch.compile`; a model it cannot run falls back, logged."""


Strategy = Loop | Vmapped | Compiled


def usual(device: torch.device, module: nn.Module) -> Strategy:
    """The rule: the loop, which never lost on the CPU; other devices have not been measured.

    It depends on nothing but the device and the model, so that one seed gives one result.
    `Ensemble.tune` measures instead.
    """
    return Loop()
