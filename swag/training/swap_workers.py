"""Who the workers of SWAP are: W of them in this process, one after the other, or one a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar, final

from torch import Tensor

from swag.errors import InputError

T = TypeVar("T")


class Workers(Protocol):
    """W workers, some of which are this process's; the others' results come by messages.

    Sums over workers are taken in the order of their numbers, so that they do not depend on how the
    workers are spread over processes.
    """

    @property
    def n(self) -> int:
        """W."""

    @property
    def mine(self) -> Sequence[int]:
        """The numbers of those that run here."""

    def share_(self, tensors: Iterable[Tensor]) -> None:
        """Makes everyone's tensors those of worker 0, in place."""

    def total_(self, part: Tensor) -> None:
        """Makes the sum over the workers here the sum over all, in place."""

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all workers (W, …), from those of the workers here (len(mine), …)."""

    def alike(self, what: str, make: Callable[[], T], describe: Callable[[T], list[str]]) -> T:
        """`make()`, with an error on every process where it failed on one, or where descriptions differ."""


@final
class SimulatedWorkers:
    """All W workers in this process, one after the other: nothing has to be sent.

    Args:
        n: W.

    Raises:
        InputError: W is no whole number of 1 or more.
    """

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(
                f"workers: got {n!r}; pass how many to simulate, 1 or more, or the ranks of a process group "
                "(with swag.distributed.joined() as ranks: ...)"
            )
        self._n = n

    @property
    def n(self) -> int:
        return self._n

    @property
    def mine(self) -> range:
        return range(self._n)

    def share_(self, tensors: Iterable[Tensor]) -> None:
        """Nothing: there is one copy."""

    def total_(self, part: Tensor) -> None:
        """Nothing: the sum is complete."""

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows

    def alike(self, what: str, make: Callable[[], T], describe: Callable[[T], list[str]]) -> T:
        """`make()`: one process agrees with itself."""
        return make()

    def __repr__(self) -> str:
        return f"SimulatedWorkers({self._n})"
