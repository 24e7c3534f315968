"""One unit of work: all the methods of one family of optimizers, from one seed."""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import swag
from experiments import record
from experiments.swa.loaders import Rows, Shuffled, Split
from experiments.swa.networks import seeded
from experiments.swa.recipes import Choice, Recipe
from swag import schedules
from swag.training import Epoch, fge, train

KIND = "swa"
TUNING_SEED = 1_000
NAMES = {"sgd": "SGD", "adam": "AdamW"}
Optimizers = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class WeightsAfter:
    """A callback that keeps the weights as they were after an epoch, in checkpoints too."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.weights = epoch, {}

    def __call__(self, epoch: Epoch) -> None:
        if epoch.number == self.epoch:
            self.weights = copy.deepcopy(dict(epoch.model.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        return self.weights

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights = dict(state)


class Study:
    """A recipe with its data, and where its results go."""

    def __init__(self, name: str, recipe: Recipe, split: Split, out: Path, device: str) -> None:
        self.name, self.recipe, self.split, self.out, self.device = name, recipe, split, out, device

    def run(self, family: str, seed: int) -> None:
        """Trains and scores every method of a family; nothing where the file is there."""
        path = self.out / f"{self.name}-{family}-{seed}.json"
        settings = {"recipe": dataclasses.asdict(self.recipe), "family": family, "seed": seed}
        if record.done(path, KIND, settings):
            return
        rate, decay = self.choice(family)
        wall, cpu = time.perf_counter(), time.process_time()
        rows = [self.baseline(family, seed, rate, decay), *self.averaging(family, seed, rate, decay)]
        content = {
            "settings": settings,
            "chosen": {"rate": rate, "weight_decay": decay},
            "rows": rows,
            "seconds": {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu},
        }
        record.write(path, KIND, content, device=self.device)
        for left in self.out.glob(f".{self.name}-{family}-{seed}-*.pt"):
            left.unlink()
        print(f"{path.name}: {content['seconds']['wall']:.0f} s", file=sys.stderr, flush=True)

    def choice(self, family: str) -> Choice:
        """Rate and weight decay of the lowest validation NLL after a short cosine, without averaging."""
        choices: tuple[Choice, ...] = getattr(self.recipe, family)
        if len(choices) == 1:
            return choices[0]
        path = self.out / f"{self.name}-{family}-choice.json"
        settings = {"recipe": dataclasses.asdict(self.recipe), "family": family}
        if not record.done(path, KIND, settings):
            cpu = time.process_time()
            tried = []
            for rate, decay in choices:
                model = self.network(TUNING_SEED)
                self.cosine(model, family, TUNING_SEED, rate, decay, self.recipe.tuning_epochs)
                tried.append(
                    {"rate": rate, "weight_decay": decay, **score(as_it_is(model), self.split.validation)}
                )
            content = {"settings": settings, "tried": tried, "cpu_seconds": time.process_time() - cpu}
            record.write(path, KIND, content, device=self.device)
        best = min(record.read(path, KIND)["tried"], key=lambda row: row["nll"])
        return best["rate"], best["weight_decay"]

    def baseline(self, family: str, seed: int, rate: float, decay: float) -> dict[str, Any]:
        """One network at a cosine rate, without averaging."""
        model = self.network(seed)
        path = self.out / f".{self.name}-{family}-{seed}-cosine.pt"
        self.cosine(model, family, seed, rate, decay, self.recipe.epochs, path)
        return {
            "method": NAMES[family],
            "epochs": self.recipe.epochs,
            **score(as_it_is(model), self.split.test),
        }

    def averaging(self, family: str, seed: int, rate: float, decay: float) -> list[dict[str, Any]]:
        """SWA from the same seed, what lies around it, and FGE from where averaging began."""
        recipe, name, model = self.recipe, NAMES[family], self.network(seed)
        keep = WeightsAfter(recipe.start)
        result = train(
            model,
            self.loader(seed),
            F.cross_entropy,
            epochs=recipe.averaging_epochs,
            swa_start=recipe.start / recipe.averaging_epochs,
            swa_lr=recipe.swa_lr * rate,
            rank=recipe.rank,
            optimizer=optimizers(family, rate, decay),
            callbacks=[keep],
            checkpoint=self.out / f".{self.name}-{family}-{seed}-swa.pt",
            checkpoint_every=5,
        )
        ensembles = {
            f"{name}, constant rate, last step": as_it_is(model),
            f"{name} + SWA": result.ensemble(result.swa(), 1, bn_loader=self.still(), seed=seed),
        }
        if recipe.n_samples:
            for label, posterior in (("SWAG-diag", result.swag_diag()), ("SWAG", result.swag())):
                ensembles[f"{name} + {label}"] = result.ensemble(
                    posterior, recipe.n_samples, bn_loader=self.still(), seed=seed
                )
        if recipe.fge_cycle and family == "sgd":
            ensembles["FGE"] = self.fge(seed, keep, rate, decay)
        return [
            {"method": method, "epochs": recipe.averaging_epochs, **score(ensemble, self.split.test)}
            for method, ensemble in ensembles.items()
        ]

    def fge(self, seed: int, keep: WeightsAfter, rate: float, decay: float) -> swag.Ensemble:
        """FGE with what is left of the budget after the start."""
        recipe, model = self.recipe, self.network(seed)
        model.load_state_dict(keep.weights)
        high, low = (part * rate for part in recipe.fge_lr)
        run = fge(
            model,
            self.loader(seed + 1_000_000),
            F.cross_entropy,
            lr_max=high,
            lr_min=low,
            cycle=recipe.fge_cycle,
            n_snapshots=int((recipe.averaging_epochs - recipe.start) / recipe.fge_cycle),
            optimizer=optimizers("sgd", rate, decay),
        )
        return run.ensemble(bn_loader=self.still())

    def cosine(
        self,
        model: nn.Module,
        family: str,
        seed: int,
        rate: float,
        decay: float,
        epochs: int,
        checkpoint: Path | None = None,
    ) -> None:
        """Trains at a rate that falls to 0 along half a cosine."""
        train(
            model,
            self.loader(seed),
            F.cross_entropy,
            epochs=epochs,
            swa_start=(epochs - 1) / epochs,  # one snapshot, of the last epoch, which nobody looks at
            rank=0,
            optimizer=optimizers(family, rate, decay),
            schedule=lambda optimizer: schedules.cosine(optimizer, epochs=epochs),
            checkpoint=checkpoint,
            checkpoint_every=5,
        )

    def network(self, seed: int) -> nn.Module:
        network = seeded(self.recipe.network, self.split.n_classes, seed).to(self.device)
        return network.to(memory_format=torch.channels_last) if self.device != "cpu" else network

    def loader(self, seed: int) -> Shuffled:
        """Training batches; digits are not mirrored, they would be others."""
        return Shuffled(
            self.split.train,
            self.recipe.batch,
            shift=self.recipe.shift,
            mirrored=self.recipe.data != "digits",
            generator=torch.Generator().manual_seed(seed),
        )

    def still(self) -> list[Any]:
        """Training images as they are, for batch-norm statistics: test images are not moved either."""
        return self.split.train.batches()


def optimizers(family: str, rate: float, decay: float) -> Optimizers:
    if family == "adam":
        return lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)


def as_it_is(model: nn.Module) -> swag.Ensemble:
    """One network with the batch-norm statistics of its training."""
    return swag.Ensemble.from_models([model])


def score(ensemble: swag.Ensemble, rows: Rows) -> dict[str, float]:
    """Test error and ECE as fractions, NLL in nats."""
    probs = ensemble.predict(rows.batches(500)).probs
    return {
        "error": 1 - float(swag.metrics.accuracy(probs, rows.labels)),
        "nll": float(swag.metrics.nll(probs, rows.labels)),
        "ece": float(swag.metrics.ece(probs, rows.labels)),
    }
