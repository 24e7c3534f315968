"""Several members at once: stacked weights, `torch.func.vmap` over a functional call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from swag.errors import InputError
from swag.functional import Caller, called
from swag.members import MemberStack


class CannotVmap(Exception):
    """The model does something that vmap has no rule for; no member was consumed yet."""


def each_vmapped(
    members: MemberStack,
    forward: Callable[[nn.Module, Any], Tensor],
    batch: Any,
    consume: Callable[[Tensor], None],
    chunk: int,
    chosen: range,
) -> int:
    """Calls `consume` with the outputs of the chosen members, `chunk` of them computed together.

    Out of memory, the chunk is halved and tried again.

    Returns:
        The chunk that fitted.

    Raises:
        CannotVmap: at the first chunk, such as for control flow that depends on values.
        InputError: not even one member fits into memory.
    """
    caller = Caller(members.module, forward)
    start = chosen.start
    while start < chosen.stop:
        stop = min(start + chunk, chosen.stop)
        try:
            outputs = _run(members, caller, batch, start, stop)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if chunk == 1:
                raise InputError(
                    f"batch: one member at a time does not fit into memory ({error}); pass smaller batches"
                ) from error
            chunk //= 2
            continue
        except Exception as error:  # what vmap lacks comes in many classes
            if start > chosen.start or isinstance(error, InputError):
                raise
            raise CannotVmap(str(error)) from error
        for output in outputs:
            consume(output)
        start = stop
    return chunk


def _run(members: MemberStack, caller: Caller, batch: Any, start: int, stop: int) -> Tensor:
    values = {
        f"module.{name}": stacked
        for name, stacked in (*members.stacked_weights(start, stop), *members.stacked_buffers(start, stop))
    }
    return vmap(lambda own: called(caller, own, batch), randomness="different")(values)
