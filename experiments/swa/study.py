"""One unit of work: all the methods of one family of optimizers, from one seed."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import swag
from experiments import record
from experiments.swa import choices
from experiments.swa.loaders import Split
from experiments.swa.methods import Methods, as_it_is, score
from experiments.swa.recipes import Choice, Recipe, Search

KIND = "swa"
NAMES = {"sgd": "SGD", "adam": "AdamW"}


class Study:
    """A recipe with its data, and where its results go."""

    def __init__(self, name: str, recipe: Recipe, split: Split, out: Path, device: str) -> None:
        self.name, self.recipe, self.split, self.out, self.device = name, recipe, split, out, device
        self.methods = Methods(recipe, split, device)

    def run(self, family: str, seed: int) -> None:
        """Trains and scores every method of a family; nothing where the file is there."""
        path = self.out / f"{self.name}-{family}-{seed}.json"
        settings = self.settings(family) | {"seed": seed}
        if record.done(path, KIND, settings):
            return
        choice = self.baseline_choice(family)
        swa_lr, fge_lr = self.averaging_choice(family, choice)
        wall, cpu = time.perf_counter(), time.process_time()
        rows = [
            {"method": method, "epochs": epochs, **score(ensemble, self.split.test)}
            for methods in (
                self.baseline(family, seed, choice),
                self.averaging(family, seed, choice, swa_lr, fge_lr),
            )
            for method, epochs, ensemble in methods
        ]
        content = {
            "settings": settings,
            "chosen": {
                "rate": choice[0],
                "weight_decay": choice[1],
                "swa_lr": swa_lr * choice[0],
                "fge_lr": fge_lr * choice[0],
            },
            "rows": rows,
            "seconds": {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu},
        }
        record.write(path, KIND, content, device=self.device)
        for left in self.out.glob(f".{self.name}-{family}-{seed}-*.pt"):
            left.unlink()
        print(f"{path.name}: {content['seconds']['cpu']:.0f} CPU s", file=sys.stderr, flush=True)

    def baseline_choice(self, family: str) -> Choice:
        """Rate and weight decay for no averaging; averaging takes them over."""
        search: Search = getattr(self.recipe, family)
        if len(search.rates) == len(search.decays) == 1:
            return search.rates[0], search.decays[0]
        tried = self.tried(f"{family}-choice", family, lambda: choices.baseline(self.methods, family, search))
        best = choices.best(tried)
        return best["rate"], best["weight_decay"]

    def averaging_choice(self, family: str, choice: Choice) -> tuple[float, float]:
        """SWA's rate and FGE's highest rate as parts of the chosen rate."""
        if len(self.recipe.swa_lr) == len(self.recipe.fge_lr) == 1:
            return self.recipe.swa_lr[0], self.recipe.fge_lr[0]
        tried = self.tried(
            f"{family}-averaging", family, lambda: choices.averages(self.methods, family, choice)
        )
        with_fge = any(row["method"] == "fge" for row in tried)
        fge = choices.best(tried, "fge")["part"] if with_fge else self.recipe.fge_lr[0]
        return choices.best(tried, "swa")["part"], fge

    def tried(self, name: str, family: str, make: Callable[[], list[choices.Try]]) -> list[choices.Try]:
        """The tries of one choice, from its file where it is there."""
        path = self.out / f"{self.name}-{name}.json"
        settings = self.settings(family)
        if not record.done(path, KIND, settings):
            cpu = time.process_time()
            tried = make()
            content = {"settings": settings, "tried": tried, "cpu_seconds": time.process_time() - cpu}
            record.write(path, KIND, content, device=self.device)
        rows: list[choices.Try] = record.read(path, KIND)["tried"]
        return rows

    def baseline(self, family: str, seed: int, choice: Choice) -> Iterator[tuple[str, int, swag.Ensemble]]:
        """No averaging, with the baseline's epochs and, where averaging has more, with as many."""
        recipe = self.recipe
        lengths = {NAMES[family]: recipe.epochs}
        if recipe.averaging_epochs != recipe.epochs:
            lengths[f"{NAMES[family]}, as long as SWA"] = recipe.averaging_epochs
        for method, epochs in lengths.items():
            path = self.hidden(family, seed, f"cosine-{epochs}")
            model = self.methods.cosine(family, seed, choice, epochs, path)
            if any(isinstance(layer, _BatchNorm) for layer in model.modules()):
                yield f"{method}, running statistics", epochs, as_it_is(model)
            yield method, epochs, self.methods.refreshed(model)

    def averaging(
        self, family: str, seed: int, choice: Choice, swa_lr: float, fge_lr: float
    ) -> Iterator[tuple[str, int, swag.Ensemble]]:
        """SWA from the same seed, what lies around it, and FGE from where averaging began."""
        recipe, name, epochs = self.recipe, NAMES[family], self.recipe.averaging_epochs
        path = self.hidden(family, seed, "swa")
        result, began = self.methods.averaging(family, seed, choice, swa_lr, path)
        yield f"{name} + SWA", epochs, self.methods.swa(result, seed)
        if recipe.n_samples:
            for label, posterior in (("SWAG-diag", result.swag_diag()), ("SWAG", result.swag())):
                yield (
                    f"{name} + {label}",
                    epochs,
                    result.ensemble(posterior, recipe.n_samples, bn_loader=self.methods.still(), seed=seed),
                )
        last: nn.Module = result.model
        yield f"{name}, SWA's schedule, last step", epochs, self.methods.refreshed(last)
        if recipe.fge_cycle and family == "sgd":
            yield "FGE", epochs, self.methods.fge(seed, choice, began, fge_lr)

    def settings(self, family: str) -> dict[str, Any]:
        """The recipe without what only the other family is chosen from."""
        recipe = dataclasses.asdict(self.recipe)
        search = {name: recipe.pop(name) for name in NAMES}[family]
        return {"recipe": recipe | {"search": search}, "family": family}

    def hidden(self, family: str, seed: int, training: str) -> Path:
        """The checkpoint of a training that is under way."""
        return self.out / f".{self.name}-{family}-{seed}-{training}.pt"
