"""Batch norm folded into the convolution before it: one operation less a layer, and no statistics to read.

BN(Wx + b) = W'x + b',   W' = W·γ/√(σ² + ε),   b' = (b − μ)·γ/√(σ² + ε) + β
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# What an operation gives that only asks about a tensor: its shape, dtype, device, ….
_ABOUT = (bool, int, str, torch.Size, torch.dtype, torch.device, torch.layout)


@final
class Folding:
    """The layer pairs of a module in eval mode that can be one, found by watching a forward pass.

    A pair is a convolution whose output goes into a batch-norm layer and no other operation, each of
    exactly these classes, run once, without hooks or parametrizations. What one pass does not show stays
    unseen (control flow that depends on values): compare the folded module's output with the plain one's.

    Args:
        module: in eval mode.
        run: one forward pass of it.
        loaded: the parameters that get new values before each `fold_`; others keep theirs.
    """

    def __init__(self, module: nn.Module, run: Callable[[], Any], loaded: Collection[nn.Parameter]) -> None:
        self._pairs = _find_pairs(module, run)
        self._bare = {convolution for convolution, _ in self._pairs if convolution.bias is None}
        exchanged = {id(parameter) for parameter in loaded}
        self._kept = {
            parameter: parameter.data
            for convolution, _ in self._pairs
            for parameter in (convolution.weight, convolution.bias)
            if parameter is not None and id(parameter) not in exchanged
        }

    def __len__(self) -> int:
        return len(self._pairs)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside the block the batch-norm layers pass their input on; call `fold_` after each new weights."""
        try:
            for convolution, norm in self._pairs:
                norm.forward = _identity
                if convolution in self._bare:
                    place = convolution.weight.new_empty(convolution.weight.shape[0])
                    convolution.bias = nn.Parameter(place, requires_grad=False)
            yield
        finally:
            for _, norm in self._pairs:
                vars(norm).pop("forward", None)
            for convolution in self._bare:
                convolution.bias = None
            for parameter, value in self._kept.items():
                parameter.data = value

    def fold_(self) -> None:
        """Folds the weights and statistics that the module holds now into the first layer of each pair."""
        for convolution, norm in self._pairs:
            scale = torch.rsqrt(norm.running_var + norm.eps)
            shift = -norm.running_mean * scale
            if norm.weight is not None:
                scale, shift = scale * norm.weight, shift * norm.weight
            if norm.bias is not None:
                shift = shift + norm.bias
            if convolution not in self._bare:
                shift = shift + self._kept.get(convolution.bias, convolution.bias.data) * scale
            weight = self._kept.get(convolution.weight, convolution.weight.data)
            # One (C_out,) scale, one number a row of the weight.
            convolution.weight.data = (weight * scale.view(-1, *[1] * (weight.ndim - 1))).to(weight.dtype)
            convolution.bias.data = shift.to(weight.dtype)


def may_fold(module: nn.Module) -> bool:
    """Whether the module holds convolutions and batch norm at all."""
    kinds = {type(layer) for layer in module.modules()}
    return bool(kinds & set(_CONVOLUTIONS)) and bool(kinds & set(_NORMS))


def _identity(x: Tensor) -> Tensor:
    return x


class _Uses(TorchFunctionMode):
    """Counts the operations that take each of some tensors; to ask for a shape or the like is none."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int, int] = {}  # by the tensor's id

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not isinstance(result, _ABOUT):
            for value in {id(leaf) for leaf in tree_leaves((args, kwargs))} & self.of.keys():
                self.of[value] += 1
        return result


def _find_pairs(module: nn.Module, run: Callable[[], Any]) -> list[tuple[Any, Any]]:
    produced: dict[int, tuple[nn.Module, Tensor]] = {}  # by the output's id; the tensor keeps the id taken
    followed: list[tuple[nn.Module, nn.Module, int]] = []
    uses = _Uses()
    runs: dict[nn.Module, int] = {}

    def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        runs[layer] = runs.get(layer, 0) + 1
        produced[id(output)] = (layer, output)
        uses.of[id(output)] = 0

    def before(norm: nn.Module, args: tuple[Any, ...]) -> None:
        runs[norm] = runs.get(norm, 0) + 1
        if args and id(args[0]) in produced:
            followed.append((produced[id(args[0])][0], norm, id(args[0])))

    handles = []
    for layer in module.modules():
        if type(layer) in _CONVOLUTIONS and _is_plain(layer):
            handles.append(layer.register_forward_hook(after))
        elif type(layer) in _NORMS and _is_plain(layer) and layer.running_mean is not None:
            handles.append(layer.register_forward_pre_hook(before))
    try:
        with torch.no_grad(), uses:
            run()
    finally:
        for handle in handles:
            handle.remove()
    owners = Counter(id(p) for m in module.modules() for p in m._parameters.values() if p is not None)
    return [
        (convolution, norm)
        for convolution, norm, output in followed
        if runs[convolution] == runs[norm] == uses.of[output] == 1 and owners[id(convolution.weight)] == 1
    ]


def _is_plain(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    weight = layer._parameters.get("weight")
    foldable = weight is not None or type(layer) in _NORMS
    return foldable and not any(hooks) and "forward" not in vars(layer)
