"""How members are run on a batch: the plain way, or a faster one that was seen to give the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from swag.batches import Forward, device_of, feed
from swag.errors import InputError
from swag.folding import Folding, may_fold
from swag.members import MemberStack

_log = logging.getLogger(__name__)

# The fast ways reorder sums: outputs may differ by this share of the largest. They are tried in the
# model's own precision, so that autocast's error does not hide a wrong one.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@final
class Forwarding:
    """Runs members on batches.

    On the CPU, images go through convolutional nets in channels_last memory and batch norm is folded
    into the convolutions before it, each only where the first batch shows that outputs agree with the
    plain way to rounding; a model that cannot be run so (a `view` of a channels_last tensor, an output
    that is used before and after batch norm) is run plainly.

    Args:
        members: who is run.
        forward: forward(model, batch) → outputs, or None for the default feeding.
        autocast: the dtype for `torch.autocast`, or None.
        fast: whether to try the fast ways.
    """

    def __init__(
        self, members: MemberStack, forward: Forward | None, *, autocast: torch.dtype | None, fast: bool
    ) -> None:
        self._members = members
        self._forward = forward or feed
        self._device = device_of(members.module)
        self._autocast = autocast
        self._fast = fast
        self._folding: Folding | None = None
        self._layout_tried = self._folding_tried = not fast

    def run(self, module: nn.Module, batch: Any) -> Any:
        """forward(module, batch) under autocast where that is on: for passes that are not predictions."""
        with self._casting():
            return self._forward(module, batch)

    def each(self, batch: Any, consume: Callable[[Tensor], None]) -> None:
        """Calls `consume` with every member's outputs for a batch, one after the other."""
        # Outside of inference mode: its tensors could not be parameters here.
        with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
            self.try_memory_format(batch)
            self._try_folding(batch)
            if self._folding is not None:
                stack.enter_context(self._folding.active())
            for index in range(len(self._members)):
                self._members.load_(index)
                if self._folding is not None:
                    self._folding.fold_()
                with self._casting():
                    outputs = as_tensor(self._forward(self._members.module, batch))
                consume(outputs)

    def try_memory_format(self, batch: Any) -> None:
        """Decides, once, whether images go through in channels_last memory."""
        if self._layout_tried:
            return
        module = self._members.module
        if self._device.type == "cpu" and any(isinstance(m, nn.Conv2d) for m in module.modules()):
            self._members.load_(0)
            with torch.no_grad():
                plain = as_tensor(self._forward(module, batch))
                handle = module.register_forward_pre_hook(_to_channels_last, with_kwargs=True)
                agrees = False
                try:
                    agrees = self._agrees(batch, plain, "channels_last")
                finally:
                    if not agrees:
                        handle.remove()
        self._layout_tried = True

    def _try_folding(self, batch: Any) -> None:
        if self._folding_tried:
            return
        module = self._members.module
        if self._device.type == "cpu" and may_fold(module):
            self._folding = self._folded(batch)
        self._folding_tried = True

    def _folded(self, batch: Any) -> Folding | None:
        module = self._members.module
        self._members.load_(0)
        plain: list[Tensor] = []
        folding = Folding(
            module,
            lambda: plain.append(as_tensor(self._forward(module, batch))),
            self._members.layout.tensors(module),
        )
        if len(folding) == 0:
            return None
        with folding.active():
            folding.fold_()
            return folding if self._agrees(batch, plain[0], "folding batch norm") else None

    def _agrees(self, batch: Any, plain: Tensor, what: str) -> bool:
        try:
            fast = as_tensor(self._forward(self._members.module, batch))
        except RuntimeError as error:
            _log.info("%s is not possible for this model, it runs plainly: %s", what, error)
            return False
        tolerance = _TOLERANCE.get(plain.dtype, 1e-4) * plain.abs().max()
        agrees = fast.shape == plain.shape and bool(((fast - plain).abs() <= tolerance).all())
        if not agrees:
            _log.info("%s changes this model's outputs, it runs plainly", what)
        return agrees

    def _casting(self) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._autocast)


def peeked(loader: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first batch, and an iterable of all of them that reads the loader once.

    Raises:
        InputError: the loader gave nothing.
    """
    iterator = iter(loader)
    for first in iterator:
        return first, _Again(first, iterator, loader)
    raise InputError("bn_loader: gave no batch; pass a loader with at least one batch of training data")


class _Again:
    """A loader after its first batch was looked at; keeps the loader's length for progress bars."""

    def __init__(self, first: Any, rest: Iterator[Any], loader: Iterable[Any]) -> None:
        self._first, self._rest, self._loader = first, rest, loader

    def __iter__(self) -> Iterator[Any]:
        yield self._first
        yield from self._rest

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]


def as_tensor(result: Any) -> Tensor:
    """A model's outputs: a tensor, or the `logits` of an output object of transformers.

    Raises:
        InputError: neither.
    """
    if isinstance(result, Tensor):
        return result
    if isinstance(getattr(result, "logits", None), Tensor):
        return result.logits
    raise InputError(
        f"model: its forward returned a {type(result).__name__}, not a tensor; pass "
        "forward=lambda model, batch: ... that returns the outputs"
    )


def _to_channels_last(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(_relaid(value) for value in args), {key: _relaid(value) for key, value in kwargs.items()}


def _relaid(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
