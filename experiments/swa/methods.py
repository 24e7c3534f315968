"""The trainings that are compared, each from a seed and the settings of one family of optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import swag
from experiments.swa.loaders import Rows, Shuffled, Split
from experiments.swa.networks import seeded
from experiments.swa.recipes import Choice, Recipe
from swag import schedules
from swag.training import Epoch, Trained, fge, train

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


class Methods:
    """What can be done with a recipe and its data."""

    def __init__(self, recipe: Recipe, split: Split, device: str) -> None:
        self.recipe, self.split, self.device = recipe, split, device

    def cosine(
        self, family: str, seed: int, choice: Choice, epochs: int, checkpoint: Path | None = None
    ) -> nn.Module:
        """One network, trained at a rate that falls to 0 along half a cosine; without averaging."""
        model = self.network(seed)
        train(
            model,
            self.loader(seed),
            F.cross_entropy,
            epochs=epochs,
            swa_start=1,
            optimizer=optimizers(family, choice),
            schedule=lambda optimizer: schedules.cosine(optimizer, epochs=epochs),
            checkpoint=checkpoint,
            checkpoint_every=5,
        )
        return model

    def averaging(
        self, family: str, seed: int, choice: Choice, swa_lr: float, checkpoint: Path | None = None
    ) -> tuple[Trained, dict[str, Any]]:
        """A run with the paper's schedule, and the weights with which its averaging began."""
        recipe = self.recipe
        keep = WeightsAfter(recipe.start)
        result = train(
            self.network(seed),
            self.loader(seed),
            F.cross_entropy,
            epochs=recipe.averaging_epochs,
            swa_start=recipe.start / recipe.averaging_epochs,
            swa_lr=swa_lr * choice[0],
            rank=recipe.rank,
            collect_every=recipe.collect_every,
            optimizer=optimizers(family, choice),
            callbacks=[keep],
            checkpoint=checkpoint,
            checkpoint_every=5,
        )
        return result, keep.weights

    def fge(self, seed: int, choice: Choice, weights: dict[str, Any], fge_lr: float) -> swag.Ensemble:
        """FGE from some weights, with what is left of the budget after the start."""
        recipe, model = self.recipe, self.network(seed)
        model.load_state_dict(weights)
        run = fge(
            model,
            self.loader(seed + 1_000_000),
            F.cross_entropy,
            lr_max=fge_lr * choice[0],
            lr_min=fge_lr * choice[0] / 100,
            cycle=recipe.fge_cycle,
            n_snapshots=int((recipe.averaging_epochs - recipe.start) / recipe.fge_cycle),
            optimizer=optimizers("sgd", choice),
        )
        return run.ensemble(bn_loader=self.still())

    def swa(self, result: Trained, seed: int) -> swag.Ensemble:
        return result.ensemble(result.swa(), 1, bn_loader=self.still(), seed=seed)

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

    def refreshed(self, model: nn.Module) -> swag.Ensemble:
        """One network with batch-norm statistics from the same images as those of averages and FGE."""
        swag.refresh_batchnorm_(model, self.still())
        return as_it_is(model)


def as_it_is(model: nn.Module) -> swag.Ensemble:
    """One network with the batch-norm statistics of its training."""
    return swag.Ensemble.from_models([model])


def optimizers(family: str, choice: Choice) -> Optimizers:
    rate, decay = choice
    if family == "adam":
        return lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)


def score(ensemble: swag.Ensemble, rows: Rows) -> dict[str, float]:
    """Test error and ECE as fractions, NLL in nats."""
    probs = ensemble.predict(rows.batches(500)).probs
    return {
        "error": 1 - float(swag.metrics.accuracy(probs, rows.labels)),
        "nll": float(swag.metrics.nll(probs, rows.labels)),
        "ece": float(swag.metrics.ece(probs, rows.labels)),
    }
