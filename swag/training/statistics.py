"""Batch-norm statistics kept aside for a step that may turn out to have been a bad one."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from swag.batchnorm import batchnorm_modules
from swag.parameters import unwrap

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@final
class StatisticsAside:
    """The running statistics of a model's batch-norm layers as they were before a step.

    A forward pass changes them before its loss is known. On an accelerator nothing is kept: losses are looked
    at many steps later there.

    Args:
        model: whose layers are followed.
        device: of the model.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._layers = list(batchnorm_modules(unwrap(model)).values()) if device.type == "cpu" else []
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Copies them; before each step, so without new memory where that can be."""
        buffers = self._buffers()
        if [b.shape for b in buffers] != [b.shape for b in self._kept]:
            self._kept = [buffer.clone() for buffer in buffers]
        elif buffers:
            torch._foreach_copy_(self._kept, buffers)

    @torch.no_grad()
    def put_back(self) -> None:
        """Puts them back as `keep` found them."""
        for buffer, kept in zip(self._buffers(), self._kept, strict=False):
            buffer.copy_(kept)

    def _buffers(self) -> list[Tensor]:
        found = (getattr(layer, name, None) for layer in self._layers for name in _BUFFERS)
        return [buffer for buffer in found if isinstance(buffer, Tensor)]
