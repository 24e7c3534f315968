"""Other weights in a model for a while, and the model's own back exactly, whatever happened meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from swag.batches import Forward
from swag.batchnorm import batchnorm_modules, refresh_batchnorm_
from swag.parameters import Layout, unwrap

_log = logging.getLogger(__name__)


@contextmanager
def applied(
    model: nn.Module,
    layout: Layout,
    theta: Tensor,
    *,
    bn_loader: Iterable[Any] | None = None,
    forward: Forward | None = None,
) -> Iterator[nn.Module]:
    """Inside the block the model holds θ; afterwards its own weights, buffers and modes, bit for bit.

    Also after an exception, and whatever the block did to modes (`model.eval()`), to buffers and to the
    weights that θ stands for. Copies are kept meanwhile. Optimizers keep their state and their hold on the
    parameters.

    Args:
        model: any module; wrappers are looked through.
        layout: the parameters that θ stands for.
        theta: (D,).
        bn_loader: training data for the batch-norm statistics that belong to θ. Without it, and with
            batch-norm layers, a warning is logged: the statistics are those of other weights.
        forward: how a batch of bn_loader is fed to the model.

    Yields:
        The model.

    Raises:
        InputError: the model lacks a parameter, or the loader is empty. The model is then as it was.

    >>> model = nn.Linear(2, 1)
    >>> before = model.weight.detach().clone()
    >>> with applied(model, Layout.of(model), torch.zeros(3)):
    ...     model(torch.ones(1, 2)).item()
    0.0
    >>> torch.equal(model.weight, before)
    True
    """
    aside = Aside(model, layout)
    modes = [(module, module.training) for module in model.modules()]
    try:
        layout.write_(model, theta)
        if bn_loader is not None:
            refresh_batchnorm_(model, bn_loader, forward=forward)
        elif batchnorm_modules(unwrap(model)):
            _log.warning(
                "the model has batch-norm layers, whose statistics belong to other weights; pass bn_loader= "
                "or call swag.refresh_batchnorm_(model, loader) before evaluating"
            )
        yield model
    finally:
        aside.restore_()
        for module, training in modes:
            module.training = training


class Averaged(Protocol):
    """What has an average over a model's parameters."""

    @property
    def layout(self) -> Layout:
        """The parameters."""

    @property
    def mean(self) -> Tensor:
        """The average (D,)."""


def mean_applied(
    self: Averaged,
    model: nn.Module,
    *,
    bn_loader: Iterable[Any] | None = None,
    forward: Forward | None = None,
) -> AbstractContextManager[nn.Module]:
    """`with average.applied(model):` the model holds the average, afterwards its own weights exactly.

    Args:
        model: as at construction.
        bn_loader: training data for the batch-norm statistics of the average.
        forward: how a batch of it is fed to the model.

    Raises:
        StateError: no snapshot yet.
    """
    return applied(model, self.layout, self.mean, bn_loader=bn_loader, forward=forward)


@final
class Aside:
    """A model's weights and buffers as they were.

    Args:
        model: read now, written by `restore_`.
        layout: the parameters that will change.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        tensors: list[Tensor] = list(layout.tensors(model))
        self._weights = [(tensor, tensor.detach().clone()) for tensor in tensors]
        # With their places: a layer may put a new tensor where its buffer was.
        self._buffers = [
            (module, name, buffer, None if buffer is None else buffer.clone())
            for module in unwrap(model).modules()
            for name, buffer in module._buffers.items()
        ]

    def restore_(self) -> None:
        """Puts everything back."""
        with torch.no_grad():
            for tensor, weight in self._weights:
                tensor.copy_(weight)
            for module, name, buffer, value in self._buffers:
                module._buffers[name] = buffer
                if buffer is not None and value is not None:
                    buffer.copy_(value)
