"""How members are run on a batch: the plain way, or a faster one that was seen to give the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from swag.batches import Forward, as_tensor, device_of, feed
from swag.errors import InputError
from swag.folding import Folding, may_fold
from swag.members import MemberStack
from swag.strategy import Compiled, Loop, Strategy, Vmapped, usual
from swag.vectorised import CannotVmap, each_vmapped

_log = logging.getLogger(__name__)

# The fast ways reorder sums: outputs may differ by this share of the largest. They are tried in the
# model's own precision, so that autocast's error does not hide a wrong one.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@final
class Forwarding:
    """Runs members on batches by a strategy, and falls back to the plain loop where that fails.

    Args:
        members: who is run.
        forward: forward(model, batch) → outputs, or None for the default feeding.
        autocast: the dtype for `torch.autocast`, or None.
        strategy: how; None for the usual way.
    """

    def __init__(
        self,
        members: MemberStack,
        forward: Forward | None,
        *,
        autocast: torch.dtype | None,
        strategy: Strategy | None,
    ) -> None:
        self.members = members
        if strategy is not None and not isinstance(strategy, Strategy):
            raise InputError(
                f"strategy: got {strategy!r}; pass swag.Loop(), swag.Vmapped(chunk) or swag.Compiled()"
            )
        if autocast is not None and not isinstance(autocast, torch.dtype):
            raise InputError(f"autocast: got {autocast!r}; pass a dtype such as torch.bfloat16, or None")
        self.strategy: Strategy = strategy or usual(device_of(members.module), members.module)
        self.autocast = autocast
        self._forward = forward or feed
        self._device = device_of(members.module)
        self._folding: Folding | None = None
        self._layout_tried = self._folding_tried = self._relaid = False
        self._compiled: nn.Module | None = None

    def of(self, members: MemberStack, **changed: Any) -> Forwarding:
        """The same way of running for other members; `autocast` may be changed."""
        settings = {"autocast": self.autocast, "strategy": self.strategy, **changed}
        return Forwarding(members, self._forward, **settings)

    def with_strategy(self, strategy: Strategy) -> Forwarding:
        """The same members run another way, in a module of their own."""
        return self.of(self.members.apart(), strategy=strategy)

    def run(self, module: nn.Module, batch: Any) -> Any:
        """forward(module, batch), under autocast and in channels_last memory where those are on."""
        handle = (
            module.register_forward_pre_hook(_to_channels_last, with_kwargs=True) if self._relaid else None
        )
        try:
            with self._casting():
                return self._forward(module, batch)
        finally:
            if handle is not None:
                handle.remove()

    def each(self, batch: Any, consume: Callable[[Tensor], None], chosen: range | None = None) -> None:
        """Calls `consume` with every member's outputs, or every chosen one's, for a batch."""
        members = range(len(self.members)) if chosen is None else chosen
        # Outside of inference mode: its tensors could not be parameters here.
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(self.strategy, Vmapped) and self._each_vmapped(
                self.strategy, batch, consume, members
            ):
                return
            if isinstance(self.strategy, Compiled):
                self._try_compiling(batch)
            self._each_in_turn(batch, consume, members)

    def _each_in_turn(self, batch: Any, consume: Callable[[Tensor], None], chosen: range) -> None:
        with ExitStack() as stack:
            self.try_memory_format(batch)
            self._try_folding(batch)
            if self._folding is not None:
                stack.enter_context(self._folding.active())
            module = self.members.module if self._compiled is None else self._compiled
            for index in chosen:
                self.members.load_(index)
                if self._folding is not None:
                    self._folding.fold_()
                consume(as_tensor(self.run(module, batch)))

    def _each_vmapped(
        self, strategy: Vmapped, batch: Any, consume: Callable[[Tensor], None], chosen: range
    ) -> bool:
        """Whether it could be done so; when not, nothing was consumed."""
        try:
            chunk = each_vmapped(self.members, self._tensor_of, batch, consume, strategy.chunk, chosen)
        except CannotVmap as error:
            _log.warning("vmap cannot run this model (%s); its members run one after the other", error)
            self.strategy = Loop()
            return False
        if chunk < strategy.chunk:
            _log.warning("out of memory with %d members at once; %d fit", strategy.chunk, chunk)
            self.strategy = Vmapped(chunk)
        return True

    def _try_compiling(self, batch: Any) -> None:
        if self._compiled is not None:
            return
        self.members.load_(0)
        compiled = cast(nn.Module, torch.compile(self.members.module))
        try:
            self.run(compiled, batch)
        except Exception as error:  # the compiler's failures have many classes
            _log.warning("torch.compile cannot run this model (%s); it runs plainly", error)
            self.strategy = Loop()
        else:
            self._compiled = compiled

    def _tensor_of(self, module: nn.Module, batch: Any) -> Tensor:
        return as_tensor(self.run(module, batch))

    def _is_fast_loop(self) -> bool:
        return isinstance(self.strategy, Loop) and self.strategy.fast and self._device.type == "cpu"

    def try_memory_format(self, batch: Any) -> None:
        """Decides, once, whether images go through in channels_last memory."""
        if self._layout_tried or not self._is_fast_loop():
            return
        module = self.members.module
        if any(isinstance(m, nn.Conv2d) for m in module.modules()):
            self.members.load_(0)
            with torch.no_grad():
                plain = as_tensor(self._forward(module, batch))
                if plain.numel() == 0:  # says nothing
                    return
                self._relaid = True
                agrees = False
                try:
                    agrees = self._agrees(batch, plain, "channels_last")
                finally:
                    self._relaid = agrees
        self._layout_tried = True

    def _try_folding(self, batch: Any) -> None:
        if self._folding_tried or not self._is_fast_loop():
            return
        self._folding_tried = not may_fold(self.members.module) or self._decide_folding(batch)

    def _decide_folding(self, batch: Any) -> bool:
        """Whether the batch had rows to decide by."""
        module = self.members.module
        self.members.load_(0)
        plain: list[Tensor] = []
        folding = Folding(
            module,
            lambda: plain.append(as_tensor(self._forward(module, batch))),
            self.members.layout.tensors(module),
        )
        if plain[0].numel() == 0:
            return False
        if len(folding) > 0:
            with folding.active():
                folding.fold_()
                agrees = self._agrees(batch, plain[0], "folding batch norm")
            self._folding = folding if agrees else None
        return True

    def _agrees(self, batch: Any, plain: Tensor, what: str) -> bool:
        try:
            with self._uncast():
                fast = as_tensor(self.run(self.members.module, batch))
        except RuntimeError as error:
            _log.info("%s is not possible for this model, it runs plainly: %s", what, error)
            return False
        tolerance = _TOLERANCE.get(plain.dtype, 1e-4) * plain.abs().max()
        agrees = fast.shape == plain.shape and bool(((fast - plain).abs() <= tolerance).all())
        if not agrees:
            _log.info("%s changes this model's outputs, it runs plainly", what)
        return agrees

    @contextmanager
    def _uncast(self) -> Iterator[None]:
        """Without autocast, whose error would hide a wrong way."""
        self.autocast, dtype = None, self.autocast
        try:
            yield
        finally:
            self.autocast = dtype

    def _casting(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.autocast)


def _to_channels_last(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(_relaid(value) for value in args), {key: _relaid(value) for key, value in kwargs.items()}


def _relaid(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
