"""Any model in low precision, by hooks and parametrisations: no layer is replaced."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from swag.batchnorm import eval_mode
from swag.errors import InputError
from swag.lowprecision.formats import Format
from swag.lowprecision.layers import quantisable_layers
from swag.lowprecision.quantizer import Quantizer, WeightQuantizer, check_format
from swag.noise import checked_seed, split_seeds, take_seed
from swag.parameters import unwrap

# The name under which a layer holds the quantizer of its input.
_INPUT = "input_quantizer"


def quantize_model(
    model: nn.Module,
    *,
    weights: Format | None = None,
    activations: Format | None = None,
    errors: Format | None = None,
    keep_grid: bool = False,
    skip: Iterable[str] = (),
    strict: bool = False,
    seed: int | None = None,
) -> nn.Module:
    r"""A copy of the model whose layers compute with low-precision numbers.

    For every linear, convolutional, bilinear or embedding layer ℓ, with a its input and e = ∂loss/∂a:

        forward    output = f_ℓ(Q_A(a), Q_W(w))
        backward   e ← Q_E(e)

    which is where SWALP puts them: after layer ℓ − 1 with its normalisation and nonlinearity. Gradients pass
    Q_A and Q_W straight through. In eval mode all three round to nearest. The model's other layers (batch
    norm, pooling, …), and biases, compute as before.

    With `weights`, the parameters stay in full precision and are rounded when they are used ("fake
    quantisation", as SQWA trains); their names become `….parametrizations.weight.original`, and `plain_copy`
    gives the model of the rounded ones. For SWALP, where the weights themselves are of low precision, leave
    `weights` out and let `LowPrecisionOptimizer` round them: then all names stay.

    Args:
        model: any model; it is not changed.
        weights: Q_W, or None.
        activations: Q_A, or None.
        errors: Q_E, or None.
        keep_grid: whether Q_W's steps are those of the weights as they are now, for good.
        skip: names of modules to leave in full precision, such as the first or the last layer.
        strict: whether a layer that owns parameters and is of an unknown kind is an error; otherwise it stays
            in full precision, and is logged.
        seed: of the stochastic roundings; None takes one from torch's global generator.

    Returns:
        The copy, in the model's mode. Its `state_dict()` holds the random numbers' state too.

    Raises:
        InputError: no format at all, no quantisable layer, an unknown kind under `strict`, a model that is
            quantised already.

    Source: Yang et al. 2019 (SWALP), algorithm 2; Shin et al. 2020 (SQWA).

    >>> from swag.lowprecision import FixedPoint
    >>> lowbit = quantize_model(nn.Linear(2, 1), activations=FixedPoint(8, 4), seed=0)
    >>> lowbit(torch.ones(1, 2)).shape
    torch.Size([1, 1])
    """
    model = unwrap(model)
    for name, form in {"weights": weights, "activations": activations, "errors": errors}.items():
        check_format(name, form)
    if weights is None and activations is None and errors is None:
        raise InputError("weights: got None, as activations and errors; pass at least one format")
    skip = [skip] if isinstance(skip, str) else list(skip)
    if weight_quantizers(model) or any(hasattr(module, _INPUT) for module in model.modules()):
        raise InputError("model: is quantised already; pass the plain model, or plain_copy(model)")
    chosen = quantisable_layers(model, skip=skip, strict=strict)
    foreign = [name for name, layer in chosen.items() if "weight" not in layer._parameters]
    if weights is not None and foreign:
        raise InputError(
            f"weights: that of layer '{foreign[0]}' is computed (by weight norm, or another parametrisation) "
            "and cannot be quantised; name the layer in skip="
        )
    renormed = [name for name, layer in chosen.items() if getattr(layer, "max_norm", None) is not None]
    if weights is not None and renormed:
        raise InputError(
            f"weights: layer '{renormed[0]}' rescales its weight in place (max_norm), which a rounded copy "
            "cannot pass on; name the layer in skip="
        )
    quantized = _copied(model)
    seed = take_seed() if seed is None else checked_seed(seed)
    for name, own in zip(chosen, split_seeds(seed, len(chosen)), strict=True):
        layer = quantized.get_submodule(name)
        of_input, of_weight = split_seeds(own, 2)
        if weights is not None:
            weight = cast(Tensor, layer.weight)
            steps = weights.steps(weight.detach()) if keep_grid else None
            quantizer = WeightQuantizer(weights, steps, seed=of_weight).train(layer.training)
            parametrize.register_parametrization(layer, "weight", quantizer)
        if (activations, errors) != (None, None):
            of_layer = Quantizer(activations, errors, seed=of_input).train(layer.training)
            layer.add_module(_INPUT, of_layer)
            layer.register_forward_pre_hook(_quantize_input, with_kwargs=True)
    return quantized


def weight_quantizers(model: nn.Module) -> dict[str, WeightQuantizer]:
    """The quantizers of a model's weights, by the weights' plain names."""
    found = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            parts = cast(Any, module.parametrizations)["weight"]
            if isinstance(parts[0], WeightQuantizer):
                found[f"{name}.weight" if name else "weight"] = parts[0]
    return found


def plain_copy(model: nn.Module) -> nn.Module:
    """The model without hooks and parametrisations, its weights the rounded ones (to nearest).

    Args:
        model: what `quantize_model` gave; it is not changed.

    Returns:
        A model of the original's classes and parameter names.
    """
    plain = _copied(unwrap(model))
    modes = {module: module.training for module in plain.modules()}
    plain.eval()
    # A tensor that two layers share is the same parameter under both parametrisations, and has to stay so.
    rounded: dict[int, nn.Parameter] = {}
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module, "weight") and isinstance(
            cast(Any, module.parametrizations)["weight"][0], WeightQuantizer
        ):
            original = cast(Any, module.parametrizations)["weight"].original
            value = cast(Tensor, module.weight).detach().clone()
            # Not by torch's remove_parametrizations: it takes the property off the class, which the deep copy
            # shares with the model.
            del module.parametrizations
            module.__class__ = type(module).__bases__[0]
            weight = rounded.setdefault(
                id(original), nn.Parameter(value, requires_grad=original.requires_grad)
            )
            # First, as all these kinds of layers have it: θ's order is the parameters' order.
            module._parameters = {"weight": weight, **module._parameters}
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is _quantize_input:
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
        if hasattr(module, _INPUT):
            delattr(module, _INPUT)
    for module in plain.modules():
        module.training = modes.get(module, module.training)
    return plain


def write_plain_(plain: nn.Module, model: nn.Module) -> None:
    """Copies a quantised model's rounded weights, other parameters and buffers into its plain copy."""
    # Without gradients and in eval mode the parametrised weights are the rounded ones.
    with torch.no_grad(), eval_mode(model):
        for name, tensor in [*plain.named_parameters(), *plain.named_buffers()]:
            owner, _, leaf = name.rpartition(".")
            tensor.copy_(getattr(model.get_submodule(owner), leaf))


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; tensors with a history, as old-style weight norm leaves them behind, are detached."""
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, memo)


def _quantize_input(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # A function of the module, so that a layer's deep copy finds its own quantizer.
    quantizer = getattr(layer, _INPUT)

    def rounded(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return quantizer(value) if floating else value

    return tuple(map(rounded, args)), {key: rounded(value) for key, value in kwargs.items()}
