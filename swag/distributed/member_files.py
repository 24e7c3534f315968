"""The folder of a MultiSWAG training: what every member has done so far, and what it ended with.

seed-3.pt             where the run goes on after a stop (`swag.training.train`'s checkpoint)
seed-3.json           how far it is, for people and for the other ranks
seed-3.safetensors    its posterior, once it is finished
mixture.safetensors   all of them, in the order of the seeds
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from swag.atomic import write_text
from swag.collector import Collector
from swag.errors import FileError
from swag.files import load, save
from swag.posterior import Mixture, Posterior
from swag.training import Callback, Epoch

ReadOut = Callable[[Collector], Posterior]


@final
@dataclass(frozen=True)
class MemberFiles:
    """The members of a finished training, read from their files when they are asked for.

    Attributes:
        folder: where they lie.
        seeds: one a member, in the order of the mixture.
        call: how many trainings in this folder this launch had before; their files prove nothing.
    """

    folder: Path
    seeds: tuple[int, ...]
    call: int = 0

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def path(self) -> Path:
        """The mixture's file, for `swag.load` and for the command `swag`."""
        return self.folder / "mixture.safetensors"

    def posterior(self, seed: int) -> Posterior:
        """One member's posterior; its tensors stay in the file until they are touched.

        Raises:
            FileError: there is no such file, or it is damaged.
        """
        return load(self.of(seed, ".safetensors"), mapped=True)

    def mixture(self) -> Mixture:
        """Equal mass on every member: MultiSWAG [Wilson & Izmailov 2020]; the tensors stay in the files."""
        return Mixture([self.posterior(seed) for seed in self.seeds])

    def of(self, seed: int, suffix: str) -> Path:
        """A member's file."""
        return self.folder / f"seed-{seed}{suffix}"

    def progress(self, seed: int) -> dict[str, Any]:
        """What a member last said: launch, seed, epoch, of, loss, finished; empty before its first epoch."""
        try:
            return dict(json.loads(self.of(seed, ".json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise FileError(
                f"{self.of(seed, '.json')}: cannot be read ({error}); delete it, it only tells how far "
                "the run is"
            ) from error

    def teller(self, seed: int) -> Callback:
        """A callback that writes a member's progress after every epoch."""

        def tell(epoch: Epoch) -> None:
            self.tell(seed, epoch=epoch.number, of=epoch.of, loss=epoch.loss, finished=False)

        return tell

    def tell(self, seed: int, **said: Any) -> None:
        """Writes a member's progress."""
        told = {"launch": launch(), "call": self.call, "seed": seed, **said}
        write_text(self.of(seed, ".json"), json.dumps(told) + "\n")

    def finish(self, seed: int, collector: Collector, read_out: ReadOut, epochs: int) -> None:
        """Writes a member's posterior, and that it is there."""
        save(self.of(seed, ".safetensors"), read_out(collector), provenance={"seed": seed, "epochs": epochs})
        self.tell(seed, epoch=epochs, of=epochs, finished=True)

    def unfinished(self) -> list[int]:
        """The members that have not been finished in this launch."""
        return [seed for seed in self.seeds if not self._is_finished(self.progress(seed))]

    def merge(self) -> None:
        """Writes the mixture's file, tensor by tensor from the members'."""
        names = ", ".join(map(str, self.seeds))
        save(self.path, self.mixture(), provenance={"seeds": names})
        write_text(self._merged, f"{launch()}\n{self.call}\n")

    def is_merged(self) -> bool:
        """Whether the mixture was written in this launch."""
        try:
            name, call = self._merged.read_text(encoding="utf-8").splitlines()
            return name == launch() and int(call) >= self.call
        except (OSError, ValueError):
            return False

    def _is_finished(self, said: dict[str, Any]) -> bool:
        if said.get("launch") != launch():
            return False
        call = said.get("call", 0)
        # A rank begins the next call when all members of this one are in the mixture: one that looks late
        # finds their files taken up again.
        return bool(call > self.call or (call == self.call and said.get("finished")))

    @property
    def _merged(self) -> Path:
        return self.folder / ".mixture.launch"


def launch() -> str:
    """What this attempt of torchrun is called on all its ranks: files of another one prove nothing."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    found = [os.environ.get(name, "-") for name in names]
    # Without --standalone or --rdzv-id every launch is called "none" and has the same port. On one machine
    # torchrun's folder of errors is made anew for each: …/attempt_0/RANK/error.json.
    errors = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return " ".join([*found, str(Path(errors).parents[1])] if errors and on_one_machine else found)
