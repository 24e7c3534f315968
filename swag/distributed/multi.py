"""MultiSWA and MultiSWAG with the members spread over the processes of torchrun.

The members need nothing of each other, so nothing is sent: every member has its files in one folder that all
ranks see, and the ranks read there how far the others are. No rank can hang in a collective, whatever dies.
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swag.collector import Collector
from swag.distributed.member_files import MemberFiles, ReadOut
from swag.distributed.place import own_device, place
from swag.distributed.watch import Watch
from swag.errors import FileError, InputError
from swag.noise import checked_seed
from swag.posterior import Posterior
from swag.progress import silent
from swag.training import train
from swag.training.objective import Loss
from swag.training.random_states import generators_of, lent_to

# make_run(seed) → arguments of `swag.training.train` by name: model, train_loader, loss, epochs, …
MakeRun = Callable[[int], Mapping[str, Any]]

_NOT_YOURS = {
    "checkpoint": "every member writes its own into the folder",
    "device": "pass it to the call, or as --device, so that every rank takes its own",
}


# Trainings so far in a folder. All ranks begin each, so that the number is the same on all.
_calls: Counter[Path] = Counter()


def swag_of(collector: Collector) -> Posterior:
    """SWAG with scale ½, as `Collector.swag`."""
    return collector.swag()


def train_multi(
    make_model: Callable[[int], nn.Module],
    seeds: Sequence[int],
    train_loader: Iterable[Any],
    loss: Loss,
    *,
    epochs: int,
    folder: str | os.PathLike[str],
    device: torch.device | str | None = None,
    read_out: ReadOut = swag_of,
    patience: float = 3600.0,
    **arguments: Any,
) -> MemberFiles:
    r"""`swag.training.train_multi` with the members dealt out to the ranks of torchrun.

    Call it on every rank with the same arguments. A member does not depend on where it was trained: on equal
    CPUs with equally many threads its bits are those of the sequential call. Alone, without torchrun, it
    trains all members one after the other.

    Args:
        make_model: make_model(seed) → a network with fresh weights.
        seeds: one a member, all different.
        train_loader: as in `swag.training.train`; it shuffles by torch's global generator, which every member
            has for itself, started from its seed.
        loss: as in `swag.training.train`.
        epochs: of every member.
        folder: for the files of `MemberFiles`, seen by all ranks; made where missing. A call that was stopped
            goes on where it was: members that are finished are read, not trained.
        device: None for where make_model puts the model; "cuda" for the device of the rank's own number.
        read_out: from a member's collector to its posterior; `lambda collector: collector.swa()` gives
            MultiSWA.
        patience: seconds without a word from any member after which a rank that waits gives up.
        arguments: the other arguments of `swag.training.train`, except checkpoint.

    Returns:
        The members' files; `.mixture()`, `.path`.

    Raises:
        InputError: as `swag.training.train_multi`; also a loader with a generator of its own, whose state a
            sequential call would hand from member to member.
        StateError: the other ranks' members did not finish; says which.
        DivergedError, FileError: as `swag.training.train`.

    Source: Wilson & Izmailov 2020, arXiv:2002.08791.

    >>> import tempfile
    >>> from torch.nn import functional as F
    >>> x = torch.randn(32, 4)
    >>> loader = [(x, (x[:, 0] > 0).long())]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     members = train_multi(
    ...         lambda seed: nn.Linear(4, 2), [0, 1], loader, F.cross_entropy, epochs=8, folder=folder
    ...     )
    ...     members.mixture()
    Mixture(2 components, D=10)
    """
    for name in ("optimizer", "schedule"):
        given = arguments.get(name)
        if hasattr(given, "state_dict") and not isinstance(given, type):
            raise InputError(
                f"{name}: got an instance, which belongs to one network; pass a function that makes one"
            )
    if any(hasattr(callback, "load_state_dict") for callback in arguments.get("callbacks", ())):
        raise InputError("callbacks: one with a state would carry it from member to member; use train_runs")
    if generators_of(train_loader):
        raise InputError(
            "train_loader: has a generator of its own, so a member would depend on those trained before it; "
            "leave the generator out (members are seeded), or use train_runs, where each has its own loader"
        )

    def make_run(seed: int) -> dict[str, Any]:
        model = make_model(seed)
        if not isinstance(model, nn.Module):
            raise InputError(f"make_model: returned a {type(model).__name__}, not a torch.nn.Module")
        return {"model": model, "train_loader": train_loader, "loss": loss, "epochs": epochs, **arguments}

    return train_runs(make_run, seeds, folder, device=device, read_out=read_out, patience=patience)


def train_runs(
    make_run: MakeRun,
    seeds: Sequence[int],
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    read_out: ReadOut = swag_of,
    patience: float = 3600.0,
) -> MemberFiles:
    r"""`train_multi` for members with loaders, losses or settings of their own; what `swag.multi` calls.

    Args:
        make_run: make_run(seed) → the arguments of `swag.training.train` by name: model, train_loader, loss,
            epochs, and what else is wanted. Called with torch's, Python's and NumPy's global generators
            started from the seed, which go on into the training.
        seeds: as in `train_multi`.
        folder: as in `train_multi`.
        device: as in `train_multi`.
        read_out: as in `train_multi`.
        patience: as in `train_multi`.

    Returns:
        The members' files.

    Raises:
        InputError, StateError, DivergedError, FileError: as `train_multi`.
    """
    seeds = _checked(seeds)
    if not patience > 0:
        raise InputError(f"patience: got {patience!r}; pass a positive number of seconds")
    made = _made(Path(folder))
    members = MemberFiles(made, seeds, _calls[made.resolve()])
    _calls[made.resolve()] += 1
    rank, n_ranks = place()
    where = own_device(device)
    watch = Watch(members, shown=rank == 0)
    try:
        for seed in members.seeds[rank::n_ranks]:
            with lent_to(seed, where or torch.device("cpu")), silent():
                run = _checked_run(make_run(seed))
                run["callbacks"] = [*run.get("callbacks", ()), members.teller(seed), lambda _: watch.look()]
                result = train(**run, checkpoint=members.of(seed, ".pt"), device=where)
            members.finish(seed, result.collector, read_out, len(result.history))
            del result
            watch.look()
        watch.wait(lambda: not members.unfinished(), patience, "did not finish")
        if rank == 0:
            members.merge()
        watch.wait(members.is_merged, patience, "are finished, but rank 0 has not written their mixture")
    finally:
        watch.close()
    return members


def _checked(seeds: Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int | str) or not isinstance(seeds, Iterable):
        raise InputError(f"seeds: got {seeds!r}; pass a list of integers, such as [0, 1, 2]")
    found = tuple(checked_seed(seed) for seed in seeds)
    if not found or len(set(found)) < len(found):
        raise InputError(f"seeds: got {list(found)}; pass at least one, and none of them twice")
    return found


def _checked_run(run: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(run, Mapping):
        raise InputError(
            f"make_run: returned a {type(run).__name__}; return the arguments of swag.training.train by "
            "name, such as dict(model=..., train_loader=..., loss=..., epochs=...)"
        )
    known = inspect.signature(train).parameters
    for name, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and name not in run:
            raise InputError(f"make_run: returned no {name!r}; swag.training.train needs it")
    for name in run:
        if name in _NOT_YOURS:
            raise InputError(f"make_run: returned {name!r}; leave it out, {_NOT_YOURS[name]}")
        if name not in known:
            raise InputError(f"make_run: returned {name!r}, which swag.training.train does not know")
    return dict(run)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made ({error.strerror}); pass a writable folder") from error
    return folder
