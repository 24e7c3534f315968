"""What of a run has been asked about and collected so far: numbers that the checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from swag.errors import InputError
from swag.integrations.lightning.timing import Timing


@final
class Progress:
    """Sees to it that no step, epoch or weights count twice, whatever order hooks and restarts come in.

    Args:
        timing: of this run.
    """

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._looked_step = 0
        self._looked_epoch = -1
        self._collected_step = 0

    def new_steps(self, global_step: int) -> range:
        """The steps (from 0) since the last look; by manual optimisation a batch makes several, or none."""
        steps = range(self._looked_step, global_step)
        self._looked_step = global_step
        return steps

    def ends_epoch(self, epoch: int, *, last_batch: bool) -> bool:
        """Whether a whole epoch ends here that was not seen to its end before."""
        if not last_batch or epoch <= self._looked_epoch:
            return False
        self._looked_epoch = epoch
        return True

    def moved(self, global_step: int) -> bool:
        """Whether there was a step since the last snapshot; otherwise the weights are the same."""
        return global_step > self._collected_step

    def collected(self, global_step: int) -> None:
        """A snapshot was taken."""
        self._collected_step = global_step

    def state(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "began": None if self.timing.began is None else list(self.timing.began),
            "looked_step": self._looked_step,
            "looked_epoch": self._looked_epoch,
            "collected_step": self._collected_step,
        }

    @classmethod
    def from_state(cls, timing: Timing, state: Mapping[str, Any]) -> Progress:
        """Where `state()` was taken, in a run of this timing.

        Raises:
            InputError: no such state.
        """
        own = Timing(timing.start, timing.every, timing.anneal)
        progress = cls(own)
        try:
            began = state["began"]
            own.began = None if began is None else (int(began[0]), int(began[1]))
            progress._looked_step = int(state["looked_step"])
            progress._looked_epoch = int(state["looked_epoch"])
            progress._collected_step = int(state["collected_step"])
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(f"state: not what SWAGCallback saves, or damaged ({error!r})") from error
        return progress


def check_same(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raises InputError where a checkpoint's settings are not the callback's, and says which."""
    for key, value in mine.items():
        if saved.get(key) != value:
            raise InputError(
                f"{key}: the checkpoint was saved with {saved.get(key)!r} and this callback has {value!r}; "
                "resume with the same settings, or begin anew with a callback of another name="
            )
