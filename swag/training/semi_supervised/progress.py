"""What a method remembers between steps: how far the run is, and what its augmentation draws from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from swag.errors import InputError
from swag.training.semi_supervised.augmentation import Augment


@final
class Progress:
    """The epochs that are over, an augmentation and its generator.

    Args:
        kind: the method's name, for its state.
        augment: augment(x, generator) → x, or None.
        generator: what it is given; None for torch's global one.
    """

    def __init__(self, kind: str, augment: Augment | None, generator: torch.Generator | None) -> None:
        if augment is not None and (isinstance(augment, type) or not callable(augment)):
            raise InputError(
                f"augment: got a {augment!r:.80}; pass a function of (x, generator), such as "
                "lambda x, generator: shifted(x, 2, generator=generator)"
            )
        if generator is not None and not isinstance(generator, torch.Generator):
            raise InputError(
                f"generator: got a {type(generator).__name__}; pass torch.Generator().manual_seed(0)"
            )
        self.kind, self.augment, self.generator = kind, augment, generator
        self.epoch = 0.0

    def augmented(self, x: Tensor) -> Tensor:
        """x changed at random."""
        if self.augment is None:
            return x
        changed = self.augment(x, self.generator)
        if not isinstance(changed, Tensor) or len(changed) != len(x):
            came = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise InputError(f"augment: gave {came} for inputs {tuple(x.shape)}; it must keep the rows")
        return changed

    def state(self) -> dict[str, Any]:
        """Tensors and plain data."""
        generator = None if self.generator is None else self.generator.get_state()
        return {"kind": self.kind, "epoch": float(self.epoch), "generator": generator}

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises InputError where a state is another method's."""
        if not isinstance(state, Mapping) or state.get("kind") != self.kind:
            found = state.get("kind") if isinstance(state, Mapping) else type(state).__name__
            raise InputError(
                f"state: is that of {found!r}, this method is {self.kind!r}; train by the same one"
            )
        if (state["generator"] is None) != (self.generator is None):
            raise InputError("state: was written with a generator, and here is none, or the other way about")

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state()` was taken."""
        self.check(state)
        self.epoch = state["epoch"]
        if self.generator is not None:
            self.generator.set_state(state["generator"])
