"""The units of work: settings tried, networks trained, methods scored; each kept as soon as it is there."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import swag
from experiments import record
from experiments.uncertainty.methods import Group
from experiments.uncertainty.recipes import Recipe
from experiments.uncertainty.scores import score
from experiments.uncertainty.tasks import Task
from experiments.uncertainty.training import averaged, cyclical_mcmc, sgd
from experiments.uncertainty.variational import mean_field
from swag import metrics

KIND = "uncertainty"
TUNED, SECONDS = f"{KIND} tuning", f"{KIND} seconds"


class Study:
    """A recipe with its tasks. Results lie in `out`, trained networks in `out`/weights."""

    def __init__(self, recipe: Recipe, tasks: dict[str, Task], out: Path, device: str) -> None:
        self.recipe, self.tasks, self.out, self.device = recipe, tasks, out, device
        self.settings = dataclasses.asdict(recipe)
        self._began = time.perf_counter()
        self._inner = 0.0  # CPU seconds of units inside the unit under way: they have entries of their own
        if not record.done(out / "settings.json", f"{KIND} settings", self.settings):
            record.write(
                out / "settings.json", f"{KIND} settings", {"settings": self.settings}, device=device
            )

    def run(self, seeds: Sequence[int], names: Sequence[str]) -> None:
        """Scores all methods of all tasks: all of one group of seeds, then all of the next."""
        for index in seeds:
            for name in names:
                group = Group(self, self.tasks[name], self.members(index))
                for method, make in group.methods().items():
                    self.score(group, index, method, make)

    def members(self, index: int) -> list[int]:
        """The seeds of a group; no two groups share any."""
        return [100 * index + member for member in range(self.recipe.members)]

    def score(self, group: Group, index: int, method: str, make: Callable[[], Any]) -> None:
        task = group.task
        path = self.out / f"{task.name}-{index}-{slug(method)}.json"
        settings = self.settings | {"task": task.name, "group": index, "method": method}
        if record.done(path, KIND, settings):
            return
        with self.timed(f"score {path.stem}") as clock:
            found = score(task, make())
        content = {"settings": settings, "members": group.seeds, "scores": found, "cpu_seconds": clock["cpu"]}
        if method in group.chosen:
            content["chosen"] = group.chosen[method]
        record.write(path, KIND, content, device=self.device)
        test = found["test"]
        self.say(
            f"{path.stem}: accuracy {100 * test['accuracy']:.2f} %, NLL {test['nll']:.4f} "
            f"(scaled {test['nll scaled']:.4f}), ECE {100 * test['ece']:.2f} %"
        )

    # Networks, trained or read. What is given by name is tried, the rest is as it was chosen.

    def sgd(self, task: Task, seed: int, **tried: float) -> swag.PointMass:
        rate, decay = (self._value(what, tried) for what in ("rate", "decay"))
        p = tried.get("dropout", 0.0)
        return self.kept(
            f"{task.name}-{seed}-sgd-{rate:g}-{decay:g}" + (f"-dropout-{p:g}" if p else ""),
            lambda: sgd(self.recipe, task, seed, rate=rate, decay=decay, dropout=p),
        )

    def collector(self, task: Task, seed: int, **tried: float) -> swag.Collector:
        rate, decay, part = (self._value(what, tried) for what in ("rate", "decay", "part"))
        return self.kept(
            f"{task.name}-{seed}-swag-{part:g}",
            lambda: averaged(self.recipe, task, seed, rate=rate, decay=decay, part=part).collector,
        )

    def mcmc(self, task: Task, seed: int, **tried: float) -> swag.Empirical:
        rate, decay, heat = (self._value(what, tried) for what in ("rate", "decay", "temperature"))
        return self.kept(
            f"{task.name}-{seed}-mcmc-{heat:g}",
            lambda: cyclical_mcmc(self.recipe, task, seed, rate=rate, decay=decay, temperature=heat),
        )

    def vi(self, task: Task, seed: int, **tried: float) -> swag.LowRankGaussian:
        decay, kl = (self._value(what, tried) for what in ("decay", "kl"))
        start = self.sgd(task, seed)
        return self.kept(
            f"{task.name}-{seed}-vi-{kl:g}",
            lambda: mean_field(self.recipe, task, start, seed, decay=decay, kl=kl),
        )

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        path = self.out / "weights" / f"{name}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with self.timed(f"train {name}") as clock:
                made = make()
            swag.save(path, made)
            self.say(f"trained {name} in {clock['cpu']:.0f} CPU s")
        return swag.load(path, device=self.device)

    # Settings by validation NLL, with a seed that is used for nothing else, on the ten classes.

    def tuned(self, what: str) -> float:
        """The best value; tried where that has not been done."""
        tried = self.tries().get(what, [])
        values = self._values(what)
        for value in values[len(tried) :]:
            with self.timed(f"tune {what} {value:g}") as clock:
                nll = self._try(what, value)
            tried.append({"value": value, "nll": nll})
            everything = self.tries() | {what: tried}
            content = {"settings": self.settings, "tried": everything}
            record.write(self.out / "tuning.json", TUNED, content, device=self.device)
            self.say(f"{what} {value:g}: validation NLL {nll:.4f}, {clock['cpu']:.0f} CPU s")
        return min(tried, key=lambda row: row["nll"])["value"]

    def tries(self) -> dict[str, list[dict[str, float]]]:
        path = self.out / "tuning.json"
        if not record.done(path, TUNED, self.settings):
            return {}
        found: dict[str, list[dict[str, float]]] = record.read(path, TUNED)["tried"]
        return found

    def _values(self, what: str) -> tuple[float, ...]:
        recipe = self.recipe
        return {
            "rate": recipe.rates,
            "decay": recipe.decays,
            "part": recipe.swa_lr,
            "scale": recipe.scales,
            "diagonal scale": recipe.scales,
            "dropout": recipe.dropout,
            "temperature": recipe.mcmc_temperature,
            "kl": recipe.vi_kl,
        }[what]

    def _value(self, what: str, tried: dict[str, float]) -> float:
        return tried[what] if what in tried else self.tuned(what)

    def _try(self, what: str, value: float) -> float:
        recipe, task, seed = self.recipe, self.tasks["ten"], self.recipe.seed
        group = Group(self, task, [seed])
        match what:
            case "rate":
                predict = group.ensemble(self.sgd(task, seed, rate=value, decay=recipe.decays[0]), 1)
            case "decay":
                predict = group.ensemble(self.sgd(task, seed, decay=value), 1)
            case "part":
                predict = group.ensemble(self.collector(task, seed, part=value).swa(), 1)
            case "scale":
                predict = group.ensemble(self.collector(task, seed).swag(value))
            case "diagonal scale":
                predict = group.ensemble(self.collector(task, seed).swag_diag(value))
            case "dropout":
                predict = group.dropout(value)
            case "temperature":
                chain = self.mcmc(task, seed, temperature=value)
                predict = group.ensemble(chain, len(chain.samples))
            case "kl":
                predict = group.ensemble(self.vi(task, seed, kl=value))
        return metrics.nll(predict(task.validation.images).probs, task.validation.labels)

    # Time.

    @contextmanager
    def timed(self, name: str) -> Any:
        """CPU seconds of a unit without those of the units within it, added to `seconds.json`."""
        outer, self._inner = self._inner, 0.0
        began, clock = time.process_time(), {"cpu": 0.0}
        try:
            yield clock
        finally:
            whole = time.process_time() - began
            clock["cpu"] = whole - self._inner
            self._inner = outer + whole
            path = self.out / "seconds.json"
            seconds = record.read(path, SECONDS)["seconds"] if record.done(path, SECONDS) else {}
            seconds[name] = round(seconds.get(name, 0.0) + clock["cpu"], 2)
            record.write(path, SECONDS, {"seconds": seconds}, device=self.device)

    def say(self, text: str) -> None:
        print(f"{time.perf_counter() - self._began:7.1f} s  {text}", file=sys.stderr, flush=True)


def slug(method: str) -> str:
    """A method's name in a file's."""
    return method.lower().replace(",", "").replace(" ", "-")
