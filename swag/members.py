"""The members of an ensemble: S weight vectors with their buffers, loaded one at a time into one module."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from swag.batches import device_of
from swag.parameters import Layout, clean_name
from swag.posterior import Mixture, Posterior
from swag.shadow import Shadow

_log = logging.getLogger(__name__)


@final
class MemberStack:
    """S weight vectors θ (S, D), each with buffers of its own, and one module to run them in.

    Args:
        shadow: the private copy of the model.
        thetas: (S, D).
        centres: mean weights (D,) that members were drawn around.
        centre_of: for each member, its centre's index.
    """

    def __init__(
        self, shadow: Shadow, thetas: Tensor, centres: Sequence[Tensor], centre_of: list[int]
    ) -> None:
        self.shadow = shadow
        device = device_of(shadow.module)
        self.thetas = thetas.to(device)
        self._centres = [centre.to(device) for centre in centres]
        self.centre_of = centre_of
        self.buffers: list[dict[str, Tensor]] = [{} for _ in range(len(thetas))]
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

    def __len__(self) -> int:
        return len(self.thetas)

    def load_(self, index: int) -> None:
        """Makes member `index` the module's weights and buffers, without copying them."""
        self.shadow.load_(self.thetas[index])
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
        stacked = self.layout.unflatten(self.thetas[start:stop])
        for entry, parameter in zip(self.layout.entries, self.layout.tensors(self.module), strict=True):
            yield names[id(parameter)], stacked[entry.name].to(parameter.dtype)

    def stacked_buffers(self, start: int, stop: int) -> Iterator[tuple[str, Tensor]]:
        """Names in the module and the members' own buffers, (stop − start, …)."""
        for name in self.buffers[start]:
            yield name, torch.stack([own[name] for own in self.buffers[start:stop]])

    def append_(self, more: MemberStack) -> None:
        """Takes in the members of another stack over the same module."""
        self.thetas = torch.cat([self.thetas, more.thetas])
        self.buffers = [*self.buffers, *more.buffers]
        self.centre_of = [*self.centre_of, *more.centre_of]

    def part(self, start: int, stop: int) -> MemberStack:
        """Members start … stop − 1 as a stack over the same module, without their buffers."""
        return MemberStack(self.shadow, self.thetas[start:stop], self._centres, self.centre_of[start:stop])

    def apart(self) -> MemberStack:
        """The same members over a module of their own."""
        self.load_(0)
        stack = MemberStack(Shadow(self.module, self.layout), self.thetas, self._centres, self.centre_of)
        stack.buffers = self.buffers
        return stack

    def copy_of(self, index: int) -> nn.Module:
        """Member `index` as a module of its own, in eval mode."""
        self.load_(index)
        return copy.deepcopy(self.module)


def draw(posterior: Posterior, n_samples: int, seed: int) -> tuple[Tensor, list[Tensor], list[int]]:
    """(S, D) samples, the centres they were drawn around, and each sample's centre.

    A posterior of a few points of equal mass is taken once a point where n_samples is a multiple of
    their number: the average is the same.
    """
    atoms: Tensor | None = getattr(posterior, "atoms", None)
    if atoms is not None and n_samples % len(atoms) == 0:
        if len(atoms) < n_samples:
            _log.info("%r: each of its points is predicted once, not %d times", posterior, n_samples)
        # A copy: what the caller does to the posterior's tensors later changes no prediction.
        own = atoms.clone()
        return own, list(own), list(range(len(own)))
    generator = torch.Generator().manual_seed(seed)
    if isinstance(posterior, Mixture):
        thetas, chosen = posterior.sample_with_components(n_samples, generator=generator)
        return thetas, [component.mean for component in posterior.posteriors], chosen.tolist()
    return posterior.sample(n_samples, generator=generator), [posterior.mean], [0] * n_samples
