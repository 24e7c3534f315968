"""The members of an ensemble: S weight vectors with their buffers, loaded one at a time into one module."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from swag.batches import device_of
from swag.parameters import Layout, clean_name
from swag.shadow import Shadow
from swag.weights import Weights


@final
class MemberStack:
    """S weight vectors θ (S, D), each with buffers of its own, and one module to run them in.

    Args:
        shadow: the private copy of the model.
        weights: the members' θ (D,).
        centres: points (D,) that members were drawn around.
        centre_of: for each member, its centre's index.
    """

    def __init__(
        self, shadow: Shadow, weights: Weights, centres: Sequence[Tensor] = (), centre_of: Sequence[int] = ()
    ) -> None:
        self.shadow = shadow
        device = device_of(shadow.module)
        self.weights = weights
        self._centres = [centre.to(device) for centre in centres]
        self.centre_of = list(centre_of)
        self.buffers: list[dict[str, Tensor]] = [{} for _ in range(len(weights))]
        self._base = shadow.buffers
        self._scratch: dict[str, Tensor] = {}
        # By clean name; of a compiled module and the module inside it, the inner one, which owns the buffers.
        self._modules = {
            clean_name(name): module for name, module in shadow.module.named_modules(remove_duplicate=False)
        }

    @property
    def module(self) -> nn.Module:
        """The module that members are loaded into."""
        return self.shadow.module

    @property
    def layout(self) -> Layout:
        """The parameters that differ between members."""
        return self.shadow.layout

    @property
    def n_centres(self) -> int:
        """How many centres there are."""
        return len(self._centres)

    @property
    def at_once(self) -> int:
        """How many members' weights are in memory together."""
        return self.weights.at_once

    @property
    def thetas(self) -> Tensor:
        """The weights of all members (S, D)."""
        return self.weights.block(0, len(self))

    def __len__(self) -> int:
        return len(self.weights)

    def load_(self, index: int) -> None:
        """Makes member `index` the module's weights and buffers, without copying them."""
        self.shadow.load_(self.weights[index])
        self._point_to(self._scratch or self.buffers[index] or self._base)

    def load_centre_(self, index: int) -> None:
        """Makes the centre `index` the module's weights."""
        self.shadow.load_(self._centres[index])
        self._point_to(self._scratch or self._base)

    @contextmanager
    def scratch_buffers(self) -> Iterator[None]:
        """Inside the block the module's buffers are throw-away copies, whoever is loaded."""
        self._scratch = {name: value.clone() for name, value in self._base.items()}
        try:
            yield
        finally:
            self._scratch = {}

    def _point_to(self, buffers: dict[str, Tensor]) -> None:
        for name, value in buffers.items():
            owner, _, leaf = name.rpartition(".")
            self._modules[owner]._buffers[leaf] = value

    def stacked_weights(self, start: int, stop: int) -> Iterator[tuple[str, Tensor]]:
        """Names in the module and the weights of members start … stop − 1, (stop − start, …), its dtypes."""
        names = {id(p): name for name, p in self.module.named_parameters()}
        stacked = self.layout.unflatten(self.weights.block(start, stop))
        for entry, parameter in zip(self.layout.entries, self.layout.tensors(self.module), strict=True):
            yield names[id(parameter)], stacked[entry.name].to(parameter.dtype)

    def stacked_buffers(self, start: int, stop: int) -> Iterator[tuple[str, Tensor]]:
        """Names in the module and the members' own buffers, (stop − start, …)."""
        for name in self.buffers[start]:
            yield name, torch.stack([own[name] for own in self.buffers[start:stop]])

    def extend_(self, longer: MemberStack) -> None:
        """Takes in the members by which a stack over the same module is longer than this one."""
        self.buffers = [*self.buffers, *longer.buffers[len(self) :]]
        self.weights = longer.weights
        self._centres, self.centre_of = longer._centres, longer.centre_of

    def part(self, start: int, stop: int) -> MemberStack:
        """Members start … stop − 1 as a stack over the same module, without their buffers."""
        weights = self.weights.part(start, stop)
        return MemberStack(self.shadow, weights, self._centres, self.centre_of[start:stop])

    def apart(self) -> MemberStack:
        """The same members over a module of their own."""
        self.load_(0)
        stack = MemberStack(Shadow(self.module, self.layout), self.weights, self._centres, self.centre_of)
        stack.buffers = self.buffers
        return stack

    def copy_of(self, index: int) -> nn.Module:
        """Member `index` as a module of its own, in eval mode."""
        self.load_(index)
        return copy.deepcopy(self.module)
