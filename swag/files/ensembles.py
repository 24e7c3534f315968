"""An ensemble as a file: its members' weights and buffers, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from swag.batches import Forward, device_of
from swag.ensemble import Ensemble
from swag.errors import InputError
from swag.files.kinds import Header, Packed, Tensors
from swag.forwarding import Forwarding
from swag.members import MemberStack
from swag.parameters import Layout, clean_name, named_parameters
from swag.predictive import Categorical, HeteroscedasticGaussian, HomoscedasticGaussian, Pointwise
from swag.shadow import Shadow
from swag.strategy import Compiled, Loop, Vmapped
from swag.weights import Kept

_LIKELIHOODS = {
    cls.__name__: cls for cls in (Categorical, HeteroscedasticGaussian, HomoscedasticGaussian, Pointwise)
}
_STRATEGIES = {cls.__name__: cls for cls in (Loop, Vmapped, Compiled)}
_OWN, _SHARED = "buffers/", "shared/"


class OtherModel(Exception):
    """The model at hand does not fit the file; the file may be fine."""


def pack_ensemble(ensemble: Ensemble) -> Packed:
    """Header and tensors of an ensemble.

    Raises:
        InputError: a likelihood of the caller's own, which is code; or how many members are enough is open.
    """
    likelihood, members, forwarding = ensemble._likelihood, ensemble._members, ensemble._forwarding
    if ensemble._growth is not None:
        raise InputError("obj: with n_samples='auto' an ensemble grows at its first batch; predict one first")
    name = type(likelihood).__name__
    if _LIKELIHOODS.get(name) is not type(likelihood):
        raise InputError(
            f"obj: the ensemble's likelihood {name} is no part of swag, and code goes into no file; save the "
            "posterior, or an ensemble with a likelihood of swag's"
        )
    members.load_(0)
    dtypes = [parameter.dtype for parameter in members.layout.tensors(members.module)]
    entries = members.layout.entries
    layout = Layout((e.name, e.shape, dtype) for e, dtype in zip(entries, dtypes, strict=True))
    tensors: dict[str, Any] = {"thetas": members.thetas}
    own = list(members.buffers[0])
    for key in own:
        tensors[_OWN + key] = torch.stack([buffers[key] for buffers in members.buffers])
    for key, value in _shared(members.module, layout).items():
        if key not in own:
            tensors[_SHARED + key] = value
    header: Header = {
        "kind": "ensemble",
        "layout": layout.to_list(),
        "likelihood": {"name": name, **asdict(likelihood)},
        "keep_members": ensemble._keep_members,
        "autocast": None if forwarding.autocast is None else str(forwarding.autocast).removeprefix("torch."),
        # Strategies differ in rounding.
        "strategy": {"name": type(forwarding.strategy).__name__, **asdict(forwarding.strategy)},
    }
    return header, tensors


def unpack_ensemble(header: Header, tensors: Tensors, model: nn.Module, forward: Forward | None) -> Ensemble:
    """The ensemble, over a copy of the model.

    Raises:
        OtherModel: the model does not fit.
        InputError: the file does not fit together.
    """
    layout = Layout.from_list(header["layout"])
    likelihood: Any = _named("likelihood", header["likelihood"], _LIKELIHOODS)
    strategy: Any = _named("strategy", header["strategy"], _STRATEGIES)
    keep, autocast = header["keep_members"], header["autocast"]
    if keep not in (None, True, False) or autocast not in (None, "bfloat16", "float16", "float32", "float64"):
        raise InputError(f"keep_members {keep!r:.80} or autocast {autocast!r:.80} is none that there is")
    thetas = tensors["thetas"]
    if thetas.ndim != 2 or len(thetas) == 0 or not thetas.is_floating_point():
        raise InputError(f"thetas: shape {tuple(thetas.shape)} {thetas.dtype}, expected (S, D) and S ≥ 1")
    layout.check_theta(thetas)
    if not bool(thetas.isfinite().all()):
        raise InputError("thetas: not finite")
    shadow = _shadow(model, layout, tensors)
    members = MemberStack(shadow, Kept(thetas.to(device_of(shadow.module))))
    own = {
        n.removeprefix(_OWN): t.to(members.thetas.device) for n, t in tensors.items() if n.startswith(_OWN)
    }
    if any(len(stacked) != len(thetas) for stacked in own.values()):
        raise InputError("buffers: not as many as members")
    members.buffers = [{n: stacked[s].clone() for n, stacked in own.items()} for s in range(len(thetas))]
    dtype = None if autocast is None else getattr(torch, autocast)
    forwarding = Forwarding(members, forward, autocast=dtype, strategy=strategy)
    return Ensemble.from_stack(members, forwarding, likelihood, keep)


def _named(what: str, settings: Mapping[str, Any], classes: Mapping[str, Callable[..., Any]]) -> Any:
    """The object that {"name": …, settings} stands for."""
    name, rest = settings["name"], {key: value for key, value in settings.items() if key != "name"}
    if name not in classes:
        raise InputError(f"{what} {name!r:.80} is unknown to this version; update swag")
    return classes[name](**rest)


def _shared(module: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """By clean name, what a module holds besides the layout's parameters: frozen parameters, and buffers."""
    covered = {id(parameter) for parameter in layout.tensors(module)}
    found = {n: p.detach() for n, p in named_parameters(module) if id(p) not in covered}
    return found | {clean_name(name): buffer for name, buffer in module.named_buffers()}


def _shadow(model: nn.Module, layout: Layout, tensors: Tensors) -> Shadow:
    """A private copy of the model with the file's shared values in it."""
    try:
        shadow = Shadow(model, layout)
    except InputError as error:
        raise OtherModel(str(error).removeprefix("model: ")) from error
    places = _places(shadow.module)
    have = _shared(shadow.module, layout)
    shared = {n.removeprefix(_SHARED): t for n, t in tensors.items() if n.startswith(_SHARED)}
    own = {n.removeprefix(_OWN): t[0] for n, t in tensors.items() if n.startswith(_OWN)}
    unknown = set(tensors) - {"thetas"} - {_SHARED + n for n in shared} - {_OWN + n for n in own}
    if unknown:
        raise InputError(f"tensor {min(unknown)!r:.80} is unknown to this version; update swag")
    for entry, parameter in zip(layout.entries, layout.tensors(shadow.module), strict=True):
        if parameter.dtype != entry.dtype:
            raise OtherModel(f"parameter '{entry.name}' has {parameter.dtype}, the ensemble's {entry.dtype}")
    lacking = sorted(have.keys() - shared.keys() - own.keys())
    if lacking:
        raise OtherModel(f"it has '{lacking[0]}', which the ensemble lacks; pass its architecture")
    for name, value in {**shared, **own}.items():
        place = places.get(name)
        if place is None:
            raise OtherModel(f"it lacks '{name}', which the ensemble has; pass its architecture")
        there = getattr(*place)
        if there.shape != value.shape or there.dtype != value.dtype:
            raise OtherModel(
                f"'{name}' is {tuple(there.shape)} {there.dtype} in it, the ensemble's {tuple(value.shape)} "
                f"{value.dtype}; pass its architecture"
            )
        there.data = value.to(there.device)
    return shadow


def _places(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """By clean name, the module that owns a tensor, and the tensor's name there."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for leaf, value in {**owner._parameters, **owner._buffers}.items():
            if value is not None:
                found[clean_name(f"{prefix}.{leaf}" if prefix else leaf)] = (owner, leaf)
    return found
