"""One private copy of the user's model whose weights are exchanged without copying them.

The user's model is read once and never touched again, so an ensemble can predict while it trains on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.parameters import Layout, clean_name, named_parameters, unwrap


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
        # The model's own buffers: members may put others in their place.
        self.buffers: dict[str, Tensor] = {
            clean_name(name): buffer for name, buffer in self.module.named_buffers(remove_duplicate=False)
        }
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
    # Tensors that hang on modules with a history (as torch.nn.utils.weight_norm, or a module that keeps its
    # last features, leaves behind after a forward pass) refuse to be deep-copied.
    for module in model.modules():
        for tensor in _tensors_in(vars(module), set()):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    with torch.no_grad():
        return copy.deepcopy(model, memo)


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors in a value and, where it is a dict, list or tuple, in what it holds."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(item, seen)
