"""How far the members of a MultiSWAG training are, wherever they are trained, read from their files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any, final

from swag.distributed.member_files import MemberFiles
from swag.errors import StateError
from swag.progress import track

POLL = 0.2  # seconds between two looks


@final
class Watch:
    """One bar over the epochs of all members, wherever they are trained; waits for those elsewhere."""

    def __init__(self, members: MemberFiles, shown: bool) -> None:
        self._members, self._shown = members, shown
        self._bar: Iterator[int] | None = None
        self._done = 0
        # Looks come from inside trainings, whose own bars are silenced; this one is not among them.
        self._outside = copy_context()

    def look(self) -> dict[int, dict[str, Any]]:
        """Reads how far all are, and moves the bar."""
        said = {seed: self._members.progress(seed) for seed in self._members.seeds}
        known = [one["of"] for one in said.values() if one]
        if self._shown and known:
            total = sum(known) + max(known) * (len(said) - len(known))
            if self._bar is None:
                self._bar = track(range(total), f"{len(said)} members, epochs", total=total)
            self._outside.run(self._move_to, sum(one["epoch"] for one in said.values() if one))
        return said

    def _move_to(self, epochs: int) -> None:
        while self._bar is not None and self._done < epochs and next(self._bar, None) is not None:
            self._done += 1

    def wait(self, done: Callable[[], bool], patience: float, what: str) -> None:
        """Looks until `done()`.

        Raises:
            StateError: nothing was said for `patience` seconds.
        """
        heard, last = time.monotonic(), self.look()
        while not done():
            if time.monotonic() - heard > patience:
                missing = self._members.unfinished() or list(self._members.seeds)
                raise StateError(
                    f"seeds {', '.join(map(str, missing))} {what}, and nothing was heard for {patience:g} s; "
                    f"look at the other ranks' errors, see that all ranks share {self._members.folder}, "
                    "or raise patience"
                )
            time.sleep(POLL)
            said = self.look()
            if said != last:
                heard, last = time.monotonic(), said

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()  # type: ignore[attr-defined]
