"""The batch-norm layers of a model, and the statistics of one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from swag.errors import InputError
from swag.parameters import check_initialised, clean_name, unwrap


def batchnorm_modules(model: nn.Module, frozen: Iterable[str] = ()) -> dict[str, _BatchNorm]:
    """The batch-norm layers whose statistics a refresh replaces, by name.

    Left out: layers without running statistics; those named in `frozen`; and, where the model is in
    train mode, layers that are in eval mode (frozen by the user). In a model wholly in eval mode no
    layer counts as frozen.

    Raises:
        InputError: `frozen` is a string, or names something that is no batch-norm layer.
    """
    if isinstance(frozen, str):
        raise InputError(f"frozen: got the string {frozen!r}; pass a list of names, as in [{frozen!r}]")
    check_initialised(model)
    model = unwrap(model)
    found = {clean_name(name): m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    unknown = sorted(set(frozen) - set(found))
    if unknown:
        raise InputError(
            f"frozen: '{unknown[0]}' is no batch-norm layer of the model; it has {sorted(found)}"
        )
    return {
        name: module
        for name, module in found.items()
        if name not in set(frozen)
        and module.running_mean is not None
        and module.running_var is not None
        and (module.training or not model.training)
    }


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside the block, each back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
