"""The one file that knows parameter order: from a model to one flat vector θ (D,) and back, by name.

D's order is `model.named_parameters()` order, each tensor flattened row-major, shared tensors counted
once at their first name, unselected ones left out. Wrappers (DDP, DataParallel, AveragedModel,
`torch.compile`) do not show in the names.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from swag.errors import InputError
from swag.selection import Select, selector

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, torch.optim.swa_utils.AveragedModel)
_COMPILED = "_orig_mod"


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel, AveragedModel and `torch.compile` wrappers."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model: got a {type(model).__name__}; pass a torch.nn.Module")
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif _COMPILED in model._modules:
            model = getattr(model, _COMPILED)
        else:
            return model


def clean_name(name: str) -> str:
    """A parameter's name without the `_orig_mod` parts that `torch.compile` adds to submodules."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def named_parameters(model: nn.Module, *, aliases: bool = False) -> Iterator[tuple[str, nn.Parameter]]:
    """Clean names and parameters in order; with `aliases` a shared tensor comes under each of its names."""
    for name, parameter in unwrap(model).named_parameters(remove_duplicate=not aliases):
        yield clean_name(name), parameter


def check_initialised(model: nn.Module) -> None:
    """Raises InputError where a lazy module still has no shape."""
    for name, parameter in named_parameters(model):
        if nn.parameter.is_lazy(parameter):
            raise InputError(
                f"model: parameter '{name}' belongs to a lazy module that has no shape yet; "
                "run one forward pass before using the model here"
            )
    for name, buffer in unwrap(model).named_buffers():
        if nn.parameter.is_lazy(buffer):
            raise InputError(
                f"model: buffer '{clean_name(name)}' belongs to a lazy module that has no shape yet; "
                "run one forward pass before using the model here"
            )


@final
@dataclass(frozen=True)
class Entry:
    """One parameter's place in θ: θ[start:stop] is the tensor `name`, flattened row-major."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stop: int

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape), "dtype": str(self.dtype).removeprefix("torch.")}


@final
class Layout:
    """Names, shapes and order of the parameters behind a flat vector θ (D,).

    >>> layout = Layout.of(nn.Linear(3, 2))
    >>> layout.names, layout.size
    (('weight', 'bias'), 8)
    >>> {name: tuple(tensor.shape) for name, tensor in layout.unflatten(torch.zeros(8)).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """

    def __init__(self, specs: Iterable[tuple[str, Sequence[int], torch.dtype]]) -> None:
        entries, start = [], 0
        for name, shape, dtype in specs:
            stop = start + int(torch.Size(shape).numel())
            entries.append(Entry(name, tuple(int(side) for side in shape), dtype, start, stop))
            start = stop
        self.entries: tuple[Entry, ...] = tuple(entries)
        self.size: int = start
        self._places = [(e.name.rpartition(".")[0], e.name.rpartition(".")[2]) for e in entries]
        self._shapes = [entry.shape for entry in entries]
        if len(set(self.names)) != len(entries):
            raise InputError("layout: a parameter name occurs twice; names must be unique")

    @classmethod
    def of(cls, model: nn.Module, select: Select = None) -> Layout:
        """The layout of a model's selected parameters.

        Args:
            model: any module; wrappers are looked through.
            select: None for every parameter that requires a gradient; or a predicate on
                (name, parameter); or a list of names, module names ("layer4") or globs ("*.bias").

        Raises:
            InputError: nothing is selected, a pattern matches nothing, a selected parameter is lazy
                or not real floating point.
        """
        check_initialised(model)
        pairs = list(named_parameters(model))
        wanted = selector(select, pairs)
        chosen = [(name, parameter) for name, parameter in pairs if wanted(name, parameter)]
        if not chosen:
            raise InputError(
                f"select: none of the model's {len(pairs)} parameters is selected; by default those that "
                "require a gradient are: unfreeze some or pass select="
            )
        for name, parameter in chosen:
            if not parameter.is_floating_point():
                raise InputError(
                    f"select: parameter '{name}' has dtype {parameter.dtype}; only real floating-point "
                    "parameters can be averaged: leave it out with select="
                )
        return cls((name, parameter.shape, parameter.dtype) for name, parameter in chosen)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    @property
    def statistics_dtype(self) -> torch.dtype:
        """float64 where any parameter is, float32 otherwise: never less, whatever the model's dtype."""
        return torch.float64 if any(e.dtype == torch.float64 for e in self.entries) else torch.float32

    def name_at(self, index: int) -> str:
        """The name of the parameter that holds θ[index]."""
        # An empty parameter shares its start with the next one, so search by stop.
        return self.entries[bisect.bisect_right([entry.stop for entry in self.entries], index)].name

    def tensors(self, model: nn.Module) -> list[nn.Parameter]:
        """The model's own parameters in this layout's order, found by name.

        Raises:
            InputError: a name is missing or a shape differs; says which, and what the model has.
        """
        found_fast = self._walk(unwrap(model)) if isinstance(model, nn.Module) else None
        if found_fast is not None:
            return found_fast
        check_initialised(model)
        found = dict(named_parameters(model, aliases=True))
        missing = [entry.name for entry in self.entries if entry.name not in found]
        if missing:
            raise InputError(
                f"model: has no parameter '{missing[0]}' ({len(missing)} of {len(self.entries)} names are "
                f"missing; it has {', '.join(list(found)[:3])}, …): pass a model of the same architecture"
            )
        for entry in self.entries:
            if tuple(found[entry.name].shape) != entry.shape:
                raise InputError(
                    f"model: parameter '{entry.name}' has shape {tuple(found[entry.name].shape)}, expected "
                    f"{entry.shape}: pass a model of the same architecture"
                )
        return [found[entry.name] for entry in self.entries]

    def _walk(self, model: nn.Module) -> list[nn.Parameter] | None:
        """The same straight along the names, one look-up a module; None where anything is unusual."""
        found: list[nn.Parameter] = []
        modules: dict[str, nn.Module] = {"": model}
        try:
            for owner, leaf in self._places:
                if owner not in modules:
                    module = model
                    for part in owner.split("."):
                        module = cast(nn.Module, module._modules[part])
                    modules[owner] = module
                found.append(cast(nn.Parameter, modules[owner]._parameters[leaf]))
            fits = [tuple(parameter.shape) for parameter in found] == self._shapes
        except (KeyError, AttributeError, RuntimeError):  # a wrapper in between, a lazy module, …
            return None
        return found if fits else None

    def flatten(self, model: nn.Module, *, dtype: torch.dtype | None = None) -> Tensor:
        """θ (D,): a copy of the model's parameters, in `dtype` or the statistics dtype."""
        tensors = self.tensors(model)
        theta = torch.empty(self.size, dtype=dtype or self.statistics_dtype, device=tensors[0].device)
        with torch.no_grad():
            for entry, tensor in zip(self.entries, tensors, strict=True):
                theta[entry.start : entry.stop].view(entry.shape).copy_(tensor)
        return theta

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of θ (D,) or of (S, D) by name, shaped as the parameters (with S in front)."""
        self.check_theta(theta)
        lead = theta.shape[:-1]
        return {e.name: theta[..., e.start : e.stop].reshape((*lead, *e.shape)) for e in self.entries}

    def write_(self, model: nn.Module, theta: Tensor) -> None:
        """Copies θ (D,) into the model's parameters, in place, cast to each parameter's dtype."""
        if theta.ndim != 1:
            raise InputError(
                f"theta: expected shape ({self.size},), got {tuple(theta.shape)}: pass one sample"
            )
        self.check_theta(theta)
        with torch.no_grad():
            for entry, tensor in zip(self.entries, self.tensors(model), strict=True):
                tensor.copy_(theta[entry.start : entry.stop].view(entry.shape))

    def check_theta(self, theta: Tensor) -> None:
        """Raises InputError where the last dimension is not D."""
        if theta.ndim < 1 or theta.shape[-1] != self.size:
            raise InputError(f"theta: expected last dimension D={self.size}, got shape {tuple(theta.shape)}")

    def to_list(self) -> list[dict[str, Any]]:
        """Plain data for a file header or a state_dict."""
        return [entry.to_dict() for entry in self.entries]

    @classmethod
    def from_list(cls, entries: Sequence[Mapping[str, Any]]) -> Layout:
        """The inverse of `to_list`."""
        try:
            specs = [(str(e["name"]), [int(s) for s in e["shape"]], _dtype(e["dtype"])) for e in entries]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"layout: an entry lacks name, shape or dtype ({error!r})") from error
        if any(side < 0 for _, shape, _ in specs for side in shape):
            raise InputError("layout: a shape has a negative side")
        return cls(specs)

    def first_difference(self, other: Layout) -> str | None:
        """What first tells two layouts apart, in words; None where names, order and shapes agree."""
        for mine, theirs in zip(self.entries, other.entries, strict=False):
            if (mine.name, mine.shape) != (theirs.name, theirs.shape):
                return f"'{mine.name}' {mine.shape} against '{theirs.name}' {theirs.shape}"
        if len(self.entries) != len(other.entries):
            return f"{len(self.entries)} parameters against {len(other.entries)}"
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return f"Layout({len(self.entries)} parameters, D={self.size:,})"


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{name!r} is no floating-point dtype")
    return dtype
