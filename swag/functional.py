"""A module run with other weights and buffers, in the user's own way of feeding it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, nn
from torch.func import functional_call

from swag.batches import Forward


@final
class Caller(nn.Module):
    """A module whose call is forward(module, batch), so that a functional call reaches the user's way."""

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.module = module
        self._run = forward

    def forward(self, batch: Any) -> Any:
        return self._run(self.module, batch)


def called(caller: Caller, values: Mapping[str, Tensor], batch: Any) -> Any:
    """caller(batch) with `values` in the places they name ("module.…"); also under `torch.func.vmap`."""
    with _put_back(caller):
        return functional_call(caller, dict(values), (batch,))


@contextmanager
def _put_back(module: nn.Module) -> Iterator[None]:
    """Afterwards every slot holds the tensor it held before.

    A functional call forgets to where one module has two names, and leaves the stacked tensors in it.
    """
    held = [(own, dict(own._parameters), dict(own._buffers)) for own in module.modules()]
    try:
        yield
    finally:
        for own, parameters, buffers in held:
            own._parameters.update(parameters)
            own._buffers.update(buffers)
