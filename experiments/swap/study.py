"""One unit of work: one method from one seed."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from experiments import record
from experiments.swap.images import Moved, Rows
from experiments.swap.networks import seeded
from experiments.swap.recipes import Recipe
from swag.batchnorm import eval_mode
from swag.training import Epoch, EveryStep, LargeBatch, SmallBatch, SwapResult, swap, train
from swag.training.swap_rows import small_batches
from swag.training.swap_workers import Workers

KIND = "swap"
METHODS = ("small", "short", "large", "swap")
ON_ONE_WORKER = ("small", "short")


class Study:
    """A recipe with its data, and where its results go."""

    def __init__(
        self, name: str, recipe: Recipe, parts: tuple[Rows, Rows, int], out: Path, device: str
    ) -> None:
        self.name, self.recipe, self.out, self.device = name, recipe, out, device
        self.rows, self.test, self.n_classes = parts

    def settings(self, method: str, seed: int, how: str) -> dict[str, Any]:
        return {"recipe": dataclasses.asdict(self.recipe), "method": method, "seed": seed, "workers": how}

    def path(self, method: str, seed: int) -> Path:
        return self.out / f"{self.name}-{method}-{seed}.json"

    def run(self, method: str, seed: int, workers: int | Workers) -> None:
        """Trains and scores; the first worker's process writes the result."""
        model = self.network(seed)
        self.warm_up(model)
        run: Callable[[nn.Module, int, int | Workers], dict[str, Any]] = getattr(self, method)
        found = run(model, seed, workers)
        if found:
            path = self.path(method, seed)
            how = "in turn" if isinstance(workers, int) else "processes"
            content = {"settings": self.settings(method, seed, how), **found}
            record.write(path, KIND, content, device=self.device)
            summary = f"{path.name}: {found['accuracy']:.4f} in {found['elapsed']:.1f} s"
            print(summary, file=sys.stderr, flush=True)

    def small(self, model: nn.Module, seed: int, workers: int | Workers) -> dict[str, Any]:
        """Small batches from the start, on one worker."""
        return self.on_one_worker(model, seed, self.recipe.small_epochs)

    def short(self, model: nn.Module, seed: int, workers: int | Workers) -> dict[str, Any]:
        """The same for about as long as SWAP takes, at rates planned for that."""
        return self.on_one_worker(model, seed, self.recipe.short_epochs)

    def on_one_worker(self, model: nn.Module, seed: int, epochs: int) -> dict[str, Any]:
        recipe = self.recipe
        curve = Curve(self.test, self.device)
        torch.manual_seed(seed)
        loader = self.loader(self.rows, small_batches(len(self.rows), recipe.small, seed))
        n_steps = -(-len(self.rows) // recipe.small)
        curve.start()
        train(
            model,
            loader,
            self.loss,
            epochs=epochs,
            swa_start=0,
            rank=0,
            optimizer=self.sgd,
            schedule=triangle(recipe.small_peak, recipe.warm_up, n_steps * epochs),
            autocast=self.autocast,
            callbacks=[curve],
        )
        return curve.result(1, 1)

    def large(self, model: nn.Module, seed: int, workers: int | Workers) -> dict[str, Any]:
        """Large batches alone: SWAP's first phase, to the end of its schedule."""
        curve = Curve(self.test, self.device, on=is_first(workers))
        curve.start()
        self.swapped(model, seed, workers, stop=2.0, alone_epochs=0, callbacks=[curve])
        return curve.result(*self.hands(workers)) if curve.on else {}

    def swap(self, model: nn.Module, seed: int, workers: int | Workers) -> dict[str, Any]:
        """All of it; then, off the clock, the workers one by one and as an ensemble."""
        result = self.swapped(model, seed, workers, self.recipe.stop, self.recipe.alone_epochs)
        if not is_first(workers):
            return {}
        seconds, (divided, times) = result.seconds, self.hands(workers)
        elapsed = seconds["large"] / divided + max(seconds["small"]) + seconds["average"]
        single = [
            score_of(self.one(model, swag.PointMass(theta, layout=result.workers.layout)), self.test)
            for theta in result.workers.samples
        ]
        epochs = [row for row in result.history if row["phase"] == "large"]
        return {
            "accuracy": accuracy(model, self.test),
            "elapsed": elapsed,
            "busy": times * (seconds["large"] + seconds["average"]) + sum(seconds["small"]),
            "seconds": seconds,
            "large_epochs": len(epochs),
            "training_accuracy": [row["accuracy"] for row in epochs],
            "workers": single,
            "ensemble": score_of(self.one(model, result.workers), self.test),
            "curve": [[elapsed, accuracy(model, self.test)]],
        }

    def hands(self, workers: int | Workers) -> tuple[int, int]:
        """By what the seconds of phase 1 are divided for workers side by side, and times for their work."""
        return (self.recipe.workers, 1) if isinstance(workers, int) else (1, self.recipe.workers)

    def one(self, model: nn.Module, posterior: swag.Posterior) -> swag.Ensemble:
        n = 1 if isinstance(posterior, swag.PointMass) else self.recipe.workers
        return swag.Ensemble(model, posterior, n, bn_loader=self.rows.batches(), seed=0)

    def swapped(
        self,
        model: nn.Module,
        seed: int,
        workers: int | Workers,
        stop: float,
        alone_epochs: int,
        callbacks: Iterable[Any] = (),
    ) -> SwapResult:
        recipe = self.recipe
        whole, rest = divmod(len(self.rows), recipe.large)
        n_large = whole + (rest >= 2 * recipe.workers)
        n_small = -(-len(self.rows) // recipe.small)
        return swap(
            model,
            self.rows,
            self.loss,
            large=LargeBatch(
                recipe.large,
                recipe.large_epochs,
                stop,
                optimizer=self.sgd,
                schedule=triangle(recipe.large_peak, recipe.warm_up, n_large * recipe.large_epochs),
            ),
            small=SmallBatch(
                recipe.small,
                alone_epochs,
                optimizer=self.sgd,
                schedule=triangle(recipe.alone_peak, 0, n_small * alone_epochs),
            ),
            workers=workers,
            seed=seed,
            make_loader=self.loader,
            autocast=self.autocast,
            bn_loader=self.rows.batches(),
            callbacks=list(callbacks),
        )

    def warm_up(self, model: nn.Module) -> None:
        """Two steps of a copy, off the clock: a GPU's libraries choose their kernels at first sight."""
        copy = self.network(0)
        for size in {self.recipe.small, self.recipe.large // self.recipe.workers}:
            rows = list(range(min(size, len(self.rows))))
            train(
                copy,
                [next(iter(self.loader(self.rows, [rows])))],
                self.loss,
                epochs=2,
                swa_start=0,
                rank=0,
                autocast=self.autocast,
            )

    def network(self, seed: int) -> nn.Module:
        network = seeded(self.recipe.network, self.n_classes, seed).to(self.device)
        return network.to(memory_format=torch.channels_last) if self.device != "cpu" else network

    def loader(self, rows: Rows, batches: Collection[list[int]]) -> Moved:
        return Moved(rows, batches, shift=self.recipe.shift, mirrored=self.recipe.mirrored)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.recipe.smoothing)

    def sgd(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=1.0, momentum=0.9, nesterov=True, weight_decay=self.recipe.decay
        )

    @property
    def autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.recipe.bfloat16 else None


def triangle(peak: float, warm_up: float, n_steps: int) -> Callable[[torch.optim.Optimizer], EveryStep]:
    """Up to `peak` over a part of the steps and down to 0, in straight lines; for an optimizer of rate 1."""
    up = warm_up * n_steps

    def rate(step: int) -> float:
        rising = (step + 1) / up if up else 1.0
        falling = max(n_steps - step, 0) / max(n_steps - up, 1)
        return peak * min(1.0, rising, falling)

    return lambda optimizer: EveryStep(torch.optim.lr_scheduler.LambdaLR(optimizer, rate))


class Curve:
    """A callback that scores the network after every epoch, and takes the time of that off the clock."""

    def __init__(self, rows: Rows, device: str, on: bool = True) -> None:
        self.rows, self.device, self.on = rows, device, on
        self.points: list[list[float]] = []

    def start(self) -> None:
        self.paused, self.started = 0.0, self.now()

    def __call__(self, epoch: Epoch) -> None:
        if self.on:
            reached = self.now()
            found = accuracy(epoch.model, self.rows)
            self.points.append([reached - self.started - self.paused, found])
            self.paused += self.now() - reached

    def now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def result(self, divided: int, times: int) -> dict[str, Any]:
        (seconds, found), points = self.points[-1], [[at / divided, value] for at, value in self.points]
        return {"accuracy": found, "elapsed": seconds / divided, "busy": seconds * times, "curve": points}


def is_first(workers: int | Workers) -> bool:
    """Whether this process speaks for all."""
    return isinstance(workers, int) or 0 in workers.mine


@torch.no_grad()
def accuracy(model: nn.Module, rows: Rows) -> float:
    with eval_mode(model):
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in rows.batches())
    return right / len(rows)


def score_of(ensemble: swag.Ensemble, rows: Rows) -> float:
    return float(swag.metrics.accuracy(ensemble.predict(rows.batches()).probs, rows.labels))
