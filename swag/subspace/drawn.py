"""Points of a subspace as the members that a batch-norm policy gives statistics to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from torch import Tensor, nn

from swag.parameters import clean_name
from swag.shadow import Shadow


@final
class Drawn:
    """Weights θ (n, D) around one centre, loaded one at a time into the shadow.

    Args:
        shadow: the private copy of the model.
        thetas: (n, D).
        centre: the offset (D,).
    """

    def __init__(self, shadow: Shadow, thetas: Tensor, centre: Tensor) -> None:
        self._shadow, self._thetas, self._centre = shadow, thetas, centre
        self.centre_of = [0] * len(thetas)
        self.n_centres = 1
        self.at_once = len(thetas)

    @property
    def module(self) -> nn.Module:
        """The module they are loaded into."""
        return self._shadow.module

    def __len__(self) -> int:
        return len(self._thetas)

    def load_(self, index: int) -> None:
        """Makes point `index` the module's weights."""
        self._shadow.load_(self._thetas[index])

    def load_centre_(self, index: int) -> None:
        """Makes the centre the module's weights."""
        self._shadow.load_(self._centre)

    @contextmanager
    def scratch_buffers(self) -> Iterator[None]:
        """Inside the block the module's buffers are throw-away copies."""
        modules = {clean_name(name): m for name, m in self.module.named_modules(remove_duplicate=False)}
        places = [
            (modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in self._shadow.buffers
        ]
        kept = [owner._buffers[leaf] for owner, leaf in places]
        try:
            for (owner, leaf), value in zip(places, kept, strict=True):
                owner._buffers[leaf] = None if value is None else value.clone()
            yield
        finally:
            for (owner, leaf), value in zip(places, kept, strict=True):
                owner._buffers[leaf] = value
