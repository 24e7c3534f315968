"""Which layers can be quantised, by kind, and which of a model's are meant."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from swag.errors import InputError
from swag.parameters import check_initialised

_log = logging.getLogger(__name__)

# Layers whose `weight` multiplies their input (or is looked up).
_QUANTISABLE = (nn.Linear, _ConvNd, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)
# Layers that own parameters and are known to work in full precision between quantised ones.
_KEPT = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.PReLU)
# MultiheadAttention reads its projection's weight past the layer, whose hooks never run.
_BYPASSED = (NonDynamicallyQuantizableLinear,)


def quantisable_layers(
    model: nn.Module, *, skip: Iterable[str] = (), strict: bool = False
) -> dict[str, nn.Module]:
    """The layers to quantise, by name, shared ones once.

    Args:
        model: any module.
        skip: names of modules to leave out, with all that is in them.
        strict: whether a layer that owns parameters and is of an unknown kind is an error; otherwise it stays
            in full precision, and is logged.

    Raises:
        InputError: none is left, a name of `skip` does not exist, a lazy module, an unknown kind
            under `strict`.
    """
    check_initialised(model)
    skip = [skip] if isinstance(skip, str) else list(skip)
    names = dict(model.named_modules())
    for name in skip:
        if name not in names:
            raise InputError(
                f"skip: the model has no module {name!r} (it has {', '.join(list(names)[1:5])}, …); pass "
                "names as model.named_modules() gives them"
            )
    found: dict[str, nn.Module] = {}
    for name, module in names.items():
        if any(name == left or name.startswith(left + ".") for left in skip):
            continue
        # Under a parametrisation the module owns its bias alone, and its class is a subclass of its own.
        if isinstance(module, _QUANTISABLE) and not isinstance(module, _BYPASSED):
            found[name] = module
        elif _owns_parameters(module) and not isinstance(module, _KEPT) and not _is_part(module):
            if strict:
                raise InputError(
                    f"model: layer '{name}' is a {type(module).__name__}, a kind that cannot be quantised "
                    "here; pass strict=False to leave such layers in full precision, or name it in skip="
                )
            _log.info("layer '%s' (%s) stays in full precision", name, type(module).__name__)
    if not found:
        raise InputError(
            "model: has no layer to quantise (Linear, Conv, Bilinear or Embedding"
            + (" outside of skip)" if skip else ")")
            + "; other kinds stay in full precision"
        )
    return found


def _owns_parameters(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def _is_part(module: nn.Module) -> bool:
    return isinstance(module, parametrize.ParametrizationList)
