"""What PEFT may have done to a model since a posterior was collected, told before it goes wrong silently.

Adapters that are merged, disabled or not active leave their parameters in the model, where other values for
them change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from swag.errors import InputError
from swag.parameters import Layout, clean_name, unwrap

_SIGNS = ("base_model.model.", ".lora_", ".modules_to_save.")


def base_of(model: nn.Module) -> nn.Module:
    """The transformer inside wrappers and inside a PEFT model."""
    inner = unwrap(model)
    get = getattr(inner, "get_base_model", None)
    return get() if callable(get) else inner


def prompt_learning(model: nn.Module) -> bool:
    """Whether the active adapter puts virtual tokens before the input (prompt and prefix tuning)."""
    return bool(getattr(getattr(unwrap(model), "active_peft_config", None), "is_prompt_learning", False))


def check_adapters(model: nn.Module, layout: Layout) -> None:
    """The model has the layout's parameters, and they act on its outputs.

    Raises:
        InputError: parameters are missing, or adapters were merged, are disabled, or are not all active.
    """
    found, known = dict(_tuner_layers(model)), _known(model)
    try:
        layout.tensors(model)
    except InputError as error:
        if not found and any(sign in name for name in layout.names for sign in _SIGNS):
            raise InputError(
                f"model: has no adapters, and the weights at hand are adapters' ('{layout.names[0]}'); were "
                "they merged meanwhile (merge_and_unload)? Pass the PEFT model as it was in training"
            ) from error
        raise
    for path, layer in found.items():
        names = _adapters_in(layout, path, known)
        if not names:
            continue
        if getattr(layer, "merged", False):
            raise InputError(
                f"model: the adapters of '{path}' are merged into its weights, where other values for them "
                "change nothing; call model.unmerge_adapter() first"
            )
        if layer.disable_adapters:
            raise InputError(
                f"model: the adapters of '{path}' are disabled; leave disable_adapter(), or call "
                "model.base_model.enable_adapter_layers() first"
            )
        # All of them: values for one that is not active would change nothing.
        if not names <= set(layer.active_adapters):
            wanted = sorted(names)
            mend = f"set_adapter({wanted[0]!r})" if len(names) == 1 else f"base_model.set_adapter({wanted})"
            raise InputError(
                f"model: '{path}' runs with the adapters {sorted(layer.active_adapters)}, the weights at "
                f"hand are of {wanted}; call model.{mend} first"
            )


def adapters_of(model: nn.Module, layout: Layout) -> set[str]:
    """The names of the adapters that the layout's parameters belong to."""
    known = _known(model)
    return {name for path, _ in _tuner_layers(model) for name in _adapters_in(layout, path, known)}


def _tuner_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """PEFT's layers, by clean path; known by what they say, so that PEFT need not be there."""
    for path, module in unwrap(model).named_modules():
        # On whole models `disable_adapters` is a method.
        if isinstance(getattr(type(module), "disable_adapters", None), property):
            yield clean_name(path), module


def _known(model: nn.Module) -> set[str]:
    return set(getattr(unwrap(model), "peft_config", {}))


def _adapters_in(layout: Layout, path: str, known: set[str]) -> set[str]:
    """From names such as PATH.lora_A.default.weight and PATH.modules_to_save.default.bias: {"default"}."""
    rests = [name[len(path) + 1 :].split(".") for name in layout.names if name.startswith(path + ".")]
    return {rest[1] for rest in rests if len(rest) > 1} & known
