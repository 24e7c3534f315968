"""How ranks talk: agreement, exchange of tensors, one seed for all; failures are errors that say what to do.

Without an initialised process group there is one rank, which talks to nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, final

import torch
import torch.distributed as dist
from safetensors.torch import load as unpack_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor

from swag.errors import InputError, StateError, SwagError
from swag.noise import take_seed

T = TypeVar("T")


@final
class Ranks:
    """The processes of one group.

    Args:
        group: None for all of them.

    Raises:
        InputError: this process is not in the group.

    >>> ranks = Ranks()
    >>> ranks.index, ranks.size, ranks.numbers(7)
    (0, 1, [7])
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        there = dist.is_available() and dist.is_initialized()
        self.group = group
        self.size: int = dist.get_world_size(group) if there else 1
        self.index: int = dist.get_rank(group) if there else 0
        if self.index < 0:
            raise InputError("group: this process is not in it; pass a group that holds every caller")
        on_device = there and dist.get_backend(group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_device else torch.device("cpu")

    def alike(
        self,
        what: str,
        make: Callable[[], T],
        describe: Callable[[T], list[str]] = lambda made: [],
        error: type[SwagError] = InputError,
    ) -> T:
        """`make()` on every rank, then one collective that compares what came out, and what went wrong.

        Args:
            what: the argument's name, for the message.
            make: this rank's work; collectives in it must be made, and come to an end, on every rank.
            describe: what must be the same on all ranks, line by line.
            error: raised on EVERY rank where a line differs, or where `make` failed on some ranks only.
        """
        failure: Exception | None = None
        try:
            made = make()
            lines = describe(made)
        except Exception as caught:
            failure, lines = caught, [f"{type(caught).__name__}: {caught}"]
        text = "\n".join(lines).encode()
        # Whether it failed belongs to what is compared.
        digest = hashlib.sha256((b"1" if failure else b"0") + text).digest()
        found = self._gathered(torch.frombuffer(bytearray(digest), dtype=torch.uint8), what)
        others = [rank for rank, theirs in enumerate(found) if not torch.equal(theirs, found[0])]
        if not others:
            if failure is not None:
                raise failure
            return made
        # All know now, so all come to this one, too.
        said = torch.frombuffer(bytearray(text or b" "), dtype=torch.uint8)
        answers = self.exchange({"text": said, "failed": torch.tensor(failure is not None, device="cpu")})
        if isinstance(failure, SwagError):
            raise failure
        texts = [bytes(theirs["text"].numpy()).decode() for theirs in answers]
        failed = [rank for rank, theirs in enumerate(answers) if theirs["failed"]]
        if failed:
            raise error(f"{what}: failed on rank {failed[0]} ({texts[failed[0]]:.500})") from failure
        raise error(
            f"{what}: rank{'s' if len(others) > 1 else ''} {', '.join(map(str, others))} differ"
            f"{'' if len(others) > 1 else 's'} from rank 0 ({_first_difference(texts, others[0])}); "
            "call this with the same model and arguments on every rank"
        )

    def exchange(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Every rank's tensors on the CPU, in rank order; names, shapes and dtypes may differ."""
        if self.size == 1:
            return [{name: tensor.detach().cpu() for name, tensor in tensors.items()}]
        data = pack_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        sizes = self.numbers(len(data))
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device="cpu")
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        gathered = self._gathered(padded, "exchange")
        return [
            unpack_tensors(part[:size].numpy().tobytes()) for part, size in zip(gathered, sizes, strict=True)
        ]

    def numbers(self, mine: int) -> list[int]:
        """Every rank's whole number, in rank order."""
        return [int(number) for number in self._gathered(torch.tensor([mine], device="cpu"), "numbers")]

    def sum_(self, values: Tensor) -> Tensor:
        """The sum over the ranks, written into `values`; the same bits on each."""
        if self.size > 1:
            shared = values.to(self.device)
            with guarded("sum"):
                dist.all_reduce(shared, group=self.group)
            values.copy_(shared)
        return values

    def seed(self, generator: torch.Generator | None) -> int:
        """One seed from `generator` (torch's global one for None): rank 0's, on all ranks."""
        seed = torch.tensor([take_seed(generator)], device=self.device)
        if self.size > 1:
            with guarded("sample"):
                dist.broadcast(seed, group=self.group, group_src=0)
        return int(seed)

    def send(self, values: Tensor, to: int) -> None:
        """Sends contiguous values as bytes."""
        with guarded("send"):
            dist.send(values.view(torch.uint8).to(self.device), group=self.group, group_dst=to)

    def receive(self, length: int, dtype: torch.dtype, of: int) -> Tensor:
        """What rank `of` sends: (length,) on the CPU."""
        data = torch.empty(length * dtype.itemsize, dtype=torch.uint8, device=self.device)
        with guarded("receive"):
            dist.recv(data, group=self.group, group_src=of)
        return data.cpu().view(dtype)

    def _gathered(self, mine: Tensor, what: str) -> list[Tensor]:
        if self.size == 1:
            return [mine]
        mine = mine.to(self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with guarded(what):
            dist.all_gather(found, mine, group=self.group)
        return [theirs.cpu() for theirs in found]


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turns the failure of a collective into a StateError that says where to look.

    Raises:
        StateError: a rank died, did not come within the group's timeout, or made another call.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StateError(
            f"{what}: this rank lost the others ({reason:.200}). One has died, or did not make this call "
            "within the timeout of init_process_group(timeout=…): look at the other ranks' errors first, and "
            "make collective calls (constructor, swag(), sample, save, load, …) on every rank"
        ) from error


def _first_difference(texts: list[str], other: int) -> str:
    """Rank 0's and the other's first lines that are not the same."""
    mine, theirs = texts[0].split("\n"), texts[other].split("\n")
    length = max(len(mine), len(theirs))
    pairs = zip(mine + ["nothing"] * length, theirs + ["nothing"] * length, strict=False)
    first, second = next((a, b) for a, b in pairs if a != b)
    return f"rank 0: {first.strip():.300}; rank {other}: {second.strip():.300}"
