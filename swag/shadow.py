"""One private copy of the user's model whose weights are exchanged without copying them.

The user's model is read once and never touched again, so an ensemble can predict while it trains on.
"""

from __future__ import annotations

import copy
from types import CellType, FunctionType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from swag.errors import InputError
from swag.parameters import Layout, clean_name, named_parameters, unwrap


@final
class Shadow:
    """A copy of a model in eval mode, with parameters that do not require gradients.

    Args:
        model: the user's model; wrappers are looked through, gradients are not copied.
        layout: the parameters that `load_` replaces.

    Raises:
        InputError: the model lacks a parameter of the layout, or a module's own `forward` is a function that
            would go on using the original's weights.
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
    # Parameters are cloned by hand so that gradients are not copied along.
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach().clone(), requires_grad=False)
        for _, parameter in named_parameters(model)
    }
    _check_forwards(model)
    with torch.no_grad(), _WithoutHistory():
        return copy.deepcopy(model, memo)


def _check_forwards(model: nn.Module) -> None:
    """Refuses a function in the place of `forward` that holds on to the model: a copy would share it."""
    modules = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        forward = vars(module).get("forward")
        if "_orig_mod" in module._modules:  # torch.compile(module) makes a copy's forward anew
            continue
        if isinstance(forward, FunctionType) and _holds(forward, modules):
            raise InputError(
                f"model: the forward of {name or 'the model'} was replaced by a function that runs the "
                "original weights (such as torch.compile(model.forward)); others would change nothing; pass "
                "the module without it, or torch.compile(model)"
            )


def _holds(function: object, modules: set[int]) -> bool:
    """Whether a function, or one that it wraps, keeps one of these modules or a method of it.

    Methods and partials in the place of `forward` do not count: they are copied with what they hold.
    """
    while isinstance(function, FunctionType):
        wrapped = getattr(function, "__wrapped__", None)
        held = [wrapped, *map(_content, function.__closure__ or ())]
        if any(id(value) in modules or id(getattr(value, "__self__", None)) in modules for value in held):
            return True
        function = wrapped
    return False


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@final
class _WithoutHistory(TorchFunctionMode):
    """Inside, `copy.deepcopy` copies the values of tensors that have a history, which refuse it else.

    Such tensors hang on modules after a forward pass, wherever one can keep them: the weight of
    torch.nn.utils.weight_norm, the last features in a list, a distribution over actions.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
