"""Whether weights are finite before they join an average: a NaN would stay in it for good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn, final

from torch import Tensor

from swag import moments
from swag.errors import InputError


@final
class Finiteness:
    """Looks at snapshots: at once on the CPU, on an accelerator at the next look, without waiting.

    A snapshot that is looked at later must be taken in under the mask that `look` returns; `undo` then
    takes back its counting.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, list[str], Callable[[], None]] | None = None

    def settle(self) -> None:
        """Reads the flags of the last snapshot.

        Raises:
            InputError: it was not finite; it has changed nothing.
        """
        if self._pending is None:
            return
        (flags, names, undo), self._pending = self._pending, None
        found = flags.tolist()
        if any(found):
            undo()
            _refuse(names[found.index(True)], "at the snapshot before")

    def look(
        self, tensors: Sequence[Tensor], names: Sequence[str], undo: Callable[[], None]
    ) -> Tensor | None:
        """Checks a snapshot; a mask to take it in under where the answer must be waited for.

        Raises:
            InputError: not finite; names the parameter.
        """
        self.settle()
        pairs = [(t.detach(), name) for t, name in zip(tensors, names, strict=True) if t.numel()]
        values = [t for t, _ in pairs]
        devices = {t.device for t in values}
        if len(devices) == 1 and values[0].device.type != "cpu":
            flags = moments.non_finite_flags(values)
            self._pending = flags, [name for _, name in pairs], undo
            return ~flags.any()
        if not moments.all_finite(values):
            bad = moments.first_non_finite(values)
            assert bad is not None
            _refuse(pairs[bad][1], "now")
        return None


def check_finite_now(tensors: Sequence[Tensor], names: Sequence[str]) -> None:
    """The same at once on any device.

    Raises:
        InputError: not finite; names the parameter.
    """
    bad = None if moments.all_finite(tensors) else moments.first_non_finite(list(tensors))
    if bad is not None:
        _refuse(names[bad], "now")


def _refuse(name: str, when: str) -> NoReturn:
    raise InputError(
        f"model: parameter '{name}' holds NaN or infinite values, {when}; nothing was averaged: lower the "
        "learning rate or skip this step"
    )
