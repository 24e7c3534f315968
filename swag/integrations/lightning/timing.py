"""When averaging begins, when a snapshot is due, and how far the rate is on its way, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, final

from swag.arguments import part_of
from swag.errors import InputError


@final
@dataclass(frozen=True)
class Steps:
    """A length in optimizer steps, where a plain number would mean epochs.

    Steps are what `trainer.global_step` counts: with gradient accumulation fewer than batches, with several
    optimizers under manual optimisation more.

    >>> Steps(500)
    Steps(n=500)
    """

    n: int

    def __post_init__(self) -> None:
        _check_whole("Steps", self.n, 0)


Length = int | Steps


@final
class Timing:
    """From `start` on a snapshot `every` so often; the rate's way there takes `anneal` before it.

    Args:
        start: epochs (or `Steps`) before averaging begins.
        every: epochs (or `Steps`) from snapshot to snapshot, the first that long after the beginning.
        anneal: epochs (or `Steps`, as `start`).

    >>> timing = Timing(start=3, every=2, anneal=0)
    >>> for epoch in range(8):
    ...     timing.look(epoch, step=10 * epoch)
    ...     if timing.due_after_epoch(epoch):
    ...         print(epoch)
    4
    6
    """

    def __init__(self, start: Length, every: Length, anneal: Length) -> None:
        self.start, self.every, self.anneal = start, every, anneal
        self.began: tuple[int, int] | None = None

    def look(self, epoch: int, step: int) -> None:
        """Notes where averaging begins; to be called before every batch."""
        here = step if isinstance(self.start, Steps) else epoch
        if self.began is None and here >= _n(self.start):
            self.began = (epoch, step)

    def due_after_step(self, step_idx: int) -> bool:
        """Whether a snapshot is due after this step (from 0)."""
        if self.began is None or not isinstance(self.every, Steps):
            return False
        since = step_idx + 1 - self.began[1]
        return since > 0 and since % self.every.n == 0

    def due_after_epoch(self, epoch_idx: int) -> bool:
        """Whether a snapshot is due at the end of this epoch (from 0)."""
        if self.began is None or isinstance(self.every, Steps):
            return False
        since = epoch_idx + 1 - self.began[0]
        return since > 0 and since % self.every == 0

    def share(self, epochs: float, step: int) -> float:
        """How much of the way to `swa_lr` the rate has behind it, 0 to 1, before a batch at this place.

        All of it once averaging has begun, also in a run that goes on for longer, where `start` lies later.
        """
        if self.began is not None:
            return 1.0
        left = _n(self.start) - (step if isinstance(self.start, Steps) else epochs)
        if left <= 0:
            return 1.0
        length = _n(self.anneal)
        return 0.0 if length == 0 else max(0.0, 1.0 - left / length)


def check_lengths(start: Any, every: Any, anneal: Any) -> None:
    """Raises InputError for what is no length; `start` may be a fraction of the run, too."""
    fraction = isinstance(start, Real) and not isinstance(start, Integral)
    if fraction and not 0 < start < 1:
        raise InputError(
            f"swa_start: got {start!r}; pass whole epochs, a fraction of the run between 0 and 1 such as "
            "0.75, or Steps(n)"
        )
    if not fraction and not isinstance(start, Steps):
        _check_whole("swa_start", start, 0)
    if isinstance(every, Steps) and every.n == 0:
        raise InputError("every: got Steps(0); pass Steps(1) or more")
    if not isinstance(every, Steps):
        _check_whole("every", every, 1)
    if not isinstance(anneal, Steps):
        _check_whole("anneal", anneal, 0)


def timing_of(start: float | Steps, every: Length, anneal: Length, epochs: int | None, steps: int) -> Timing:
    """The timing in a run of so many epochs (None, −1: no end) or steps (−1: no end).

    Raises:
        InputError: a fraction of a run without end, or an `anneal` of another unit than the start's.
    """
    begin: Length
    if isinstance(start, Steps):
        begin = start
    elif isinstance(start, Integral):
        begin = int(start)
    elif steps is not None and steps >= 0 and (epochs is None or epochs < 0):
        begin = Steps(part_of(start, steps))
    elif epochs is not None and epochs >= 0:
        begin = part_of(start, epochs)
    else:
        raise InputError(
            f"swa_start: {start!r} is a fraction of a run without end; set max_epochs or max_steps of the "
            "Trainer, or pass whole epochs or Steps(n)"
        )
    if isinstance(begin, Steps) != isinstance(anneal, Steps) and _n(anneal):
        raise InputError(
            f"anneal: got {anneal!r} and averaging starts at {begin!r}; pass both in epochs or both in Steps"
        )
    return Timing(begin, every, anneal)


def plain(length: float | Steps | None) -> Any:
    """A length as plain data, for a checkpoint."""
    return {"steps": length.n} if isinstance(length, Steps) else length


def _n(length: Length) -> int:
    return length.n if isinstance(length, Steps) else length


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: got {value!r}; pass a whole number, {least} or more, or Steps(n)")
