"""MultiSWA and MultiSWAG: several trainings from seeds of their own, and the mixture of their posteriors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from swag.batchnorm import BatchNormPolicy
from swag.ensemble import Ensemble
from swag.errors import FileError, InputError
from swag.noise import checked_seed
from swag.posterior import Mixture, Posterior
from swag.predictive import Likelihood
from swag.progress import track
from swag.training.objective import Loss
from swag.training.random_states import lent_to
from swag.training.result import Trained
from swag.training.trainer import train


@final
@dataclass(frozen=True)
class TrainedMembers:
    """The finished runs of `train_multi`.

    Attributes:
        seeds: one a run.
        results: the runs, in the order of the seeds.
    """

    seeds: tuple[int, ...]
    results: tuple[Trained, ...]

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> Trained:
        return self.results[index]

    def multiswa(self) -> Mixture:
        """Equal mass on each run's average."""
        return Mixture([result.swa() for result in self.results])

    def multiswag(self, scale: float = 0.5) -> Mixture:
        """The mixture of the runs' SWAG posteriors, equally weighted [Wilson & Izmailov 2020]."""
        return Mixture([result.swag(scale) for result in self.results])

    def ensemble(
        self,
        posterior: Posterior | None = None,
        n_samples: int = 30,
        *,
        seed: int | None = None,
        bn_loader: Iterable[Any] | None = None,
        batchnorm: BatchNormPolicy | None = None,
        likelihood: Likelihood | None = None,
        keep_members: bool | None = None,
    ) -> Ensemble:
        """The model average over a posterior, by default `multiswag()`; as `Trained.ensemble`."""
        return self.results[0].ensemble(
            self.multiswag() if posterior is None else posterior,
            n_samples,
            seed=seed,
            bn_loader=bn_loader,
            batchnorm=batchnorm,
            likelihood=likelihood,
            keep_members=keep_members,
        )


def train_multi(
    make_model: Callable[[int], nn.Module],
    seeds: Sequence[int],
    train_loader: Iterable[Any],
    loss: Loss,
    *,
    epochs: int,
    checkpoint_folder: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    **arguments: Any,
) -> TrainedMembers:
    r"""Trains one network a seed, one after the other, for MultiSWA and MultiSWAG.

    Each run, from `make_model(seed)` on, has torch's, Python's and NumPy's global generators to itself,
    started from its seed; afterwards they are as they were. A loader without a generator of its own shuffles
    by torch's, so a run depends on its seed alone. A loader's own generator goes on from run to run.

    Args:
        make_model: make_model(seed) → a network with fresh weights.
        seeds: one a run, all different.
        train_loader: as in `train`.
        loss: as in `train`.
        epochs: of each run.
        checkpoint_folder: where every run writes its checkpoint, `seed-0.pt` and so on; made where missing.
            A call that was stopped goes on where it was: runs that are finished are read, not trained.
        device: as in `train`; None for where make_model puts the model. The generator of an accelerator is
            started from the seed where it is named here.
        arguments: the other arguments of `train`, except checkpoint. An optimizer or schedule must be a
            function here: every run needs its own.

    Returns:
        The runs; `.multiswag()`, `.multiswa()`, `.ensemble()`.

    Raises:
        InputError: no seed, one that occurs twice, an optimizer that is no function, or as `train`.
        DivergedError, FileError: as `train`.

    Source: Wilson & Izmailov 2020, arXiv:2002.08791.

    >>> from torch.nn import functional as F
    >>> x = torch.randn(32, 4)
    >>> loader = [(x, (x[:, 0] > 0).long())]
    >>> members = train_multi(
    ...     lambda seed: nn.Linear(4, 2), [0, 1], loader, F.cross_entropy, epochs=6, swa_start=0.5
    ... )
    >>> members.ensemble(n_samples=10, seed=0)
    Ensemble(10 members, D=10)
    """
    chosen = _checked_seeds(seeds)
    for name in ("optimizer", "schedule"):
        given = arguments.get(name)
        if hasattr(given, "state_dict") and not isinstance(given, type):
            raise InputError(
                f"{name}: got an instance, which belongs to one network; pass a function that makes one"
            )
    if "checkpoint" in arguments:
        raise InputError("checkpoint: every run writes its own; pass checkpoint_folder instead")
    if arguments.get("callbacks") and len(chosen) > 1 and any(map(_has_state, arguments["callbacks"])):
        raise InputError("callbacks: one with a state would carry it from run to run; call train once a seed")
    folder = None if checkpoint_folder is None else _made(Path(checkpoint_folder))
    results = []
    for seed in track(chosen, "members"):
        with lent_to(seed, torch.device(device) if device is not None else torch.device("cpu")):
            model = make_model(seed)
            if not isinstance(model, nn.Module):
                raise InputError(f"make_model: returned a {type(model).__name__}, not a torch.nn.Module")
            path = None if folder is None else folder / f"seed-{seed}.pt"
            results.append(
                train(model, train_loader, loss, epochs=epochs, checkpoint=path, device=device, **arguments)
            )
    return TrainedMembers(chosen, tuple(results))


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int | str) or not isinstance(seeds, Iterable):
        raise InputError(f"seeds: got {seeds!r}; pass a list of integers, such as [0, 1, 2]")
    found = tuple(checked_seed(seed) for seed in seeds)
    if not found or len(set(found)) < len(found):
        raise InputError(f"seeds: got {list(found)}; pass at least one, and none of them twice")
    return found


def _has_state(callback: Any) -> bool:
    return hasattr(callback, "load_state_dict")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made ({error.strerror}); pass a writable folder") from error
    return folder
