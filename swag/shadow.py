"""One private copy of the user's model whose weights are exchanged without copying them.

The user's model is read once and never touched again, so an ensemble can predict while it trains on.
"""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn

from swag.parameters import Layout, named_parameters, unwrap


@final
class Shadow:
    """A copy of a model in eval mode, with parameters that do not require gradients.

    Args:
        model: the user's model; wrappers are looked through, gradients are not copied.
        layout: the parameters that `load_` replaces.

    Raises:
        InputError: the model lacks a parameter of the layout.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        layout.tensors(model)
        self.layout = layout
        self.module = _copy(unwrap(model)).eval()
        self._parameters = layout.tensors(self.module)

    def load_(self, theta: Tensor) -> None:
        """Makes θ (D,) the weights: parameters of θ's dtype and device become views of it, others copies."""
        self.layout.check_theta(theta)
        for entry, parameter in zip(self.layout.entries, self._parameters, strict=True):
            piece = theta[entry.start : entry.stop].view(entry.shape)
            parameter.data = piece.to(device=parameter.device, dtype=parameter.dtype)


def _copy(model: nn.Module) -> nn.Module:
    memo: dict[int, object] = {}
    # Parameters are cloned by hand so that gradients are not copied along.
    for _, parameter in named_parameters(model):
        memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    # Tensors that hang on modules with a history (as torch.nn.utils.weight_norm leaves behind after a
    # forward pass) refuse to be deep-copied; their values are recomputed at each forward anyway.
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    with torch.no_grad():
        return copy.deepcopy(model, memo)
