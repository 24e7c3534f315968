"""One optimizer from one seed: a common first half, then its rate falls to zero, or stays and is averaged."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

import swag
from experiments.language_model.network import LanguageModel, word_losses
from experiments.language_model.text import Corpus, Windows, held
from swag.training import EMA, CollectInto, EveryStep, NonMonotonicTrigger, RunningAverage

KIND = "language_model"
OPTIMIZERS: dict[str, Callable[[Iterable[Tensor], float], torch.optim.Optimizer]] = {
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate),
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
}


@final
@dataclass(frozen=True)
class Recipe:
    """All that a result depends on besides optimizer and seed.

    Attributes:
        data: "WikiText-2" or "made up".
        vocabulary: words that have a number.
        width: of the network.
        rows, length: windows in a batch, words predicted in each.
        steps: batches in an epoch, after which validation is looked at.
        epochs: of the common half; the second half has as many.
        rates: by optimizer.
        clip_norm: the largest norm of a gradient.
        decay: of the EMA, a step.
        patience: of NT-ASGD's trigger, in epochs.
        swa_start: the share of the second half after which SWA and SWAG begin.
        snapshots: of SWA and SWAG in an epoch.
        rank: of SWAG.
        n_samples: networks averaged by SWAG.
        scales: tried for SWAG on validation words.
        trigger_words, tune_words, test_words: how much of the validation text the trigger sees after every
            epoch, how much of the REST of it chooses the scale, and how much of the test text is scored.
    """

    data: str = "WikiText-2"
    vocabulary: int = 4_000
    width: int = 128
    rows: int = 12
    length: int = 35
    steps: int = 40
    epochs: int = 18
    rates: tuple[tuple[str, float], ...] = (("sgd", 10.0), ("adam", 0.008))
    clip_norm: float = 0.5
    decay: float = 0.995
    patience: int = 3
    swa_start: float = 0.5
    snapshots: int = 2
    rank: int = 20
    n_samples: int = 10
    scales: tuple[float, ...] = (0.03125, 0.125, 0.5, 2.0)
    trigger_words: int = 4_000
    tune_words: int = 8_000
    test_words: int = 40_000


QUICK = Recipe(
    data="made up",
    vocabulary=150,
    width=16,
    steps=10,
    epochs=2,
    swa_start=0.0,
    snapshots=2,
    n_samples=3,
    scales=(0.5, 1.0),
    trigger_words=400,
    tune_words=400,
    test_words=800,
)


def run(corpus: Corpus, recipe: Recipe, optimizer: str, seed: int) -> dict[str, Any]:
    """Trains, reads everything out, and scores it on the test words."""
    rate = dict(recipe.rates)[optimizer]
    make = OPTIMIZERS[optimizer]
    torch.manual_seed(seed)
    model = LanguageModel(corpus.vocabulary, recipe.width).to(corpus.train.device)
    moving = make(model.parameters(), rate)
    batch = {"rows": recipe.rows, "length": recipe.length, "steps": recipe.steps}
    cut = recipe.trigger_words
    scored = {"length": recipe.length, "rows": recipe.rows}
    common = {
        "loss": _mean,
        "forward": word_losses,
        "epochs": recipe.epochs,
        "clip_norm": recipe.clip_norm,
        "validation": held(corpus.valid[:cut], **scored),
    }
    ema = RunningAverage(model, EMA(recipe.decay, warmup=9))
    late = RunningAverage(model)
    trigger = NonMonotonicTrigger(recipe.patience)
    averages = [CollectInto(ema, every_steps=1), CollectInto(late, every_steps=1, trigger=trigger)]
    clock = _Clock(corpus.train.device)

    stem = swag.training.continue_training(
        model,
        Windows(corpus.train, **batch, seed=2 * seed),
        optimizer=moving,
        swa_lr=rate,
        rank=0,
        callbacks=averages,
        **common,
    )
    clock.lap("common half")
    decayed = copy.deepcopy(model)
    falling = make(decayed.parameters(), rate)
    falling.load_state_dict(copy.deepcopy(moving.state_dict()))
    fallen = swag.training.train(
        decayed,
        Windows(corpus.train, **batch, seed=2 * seed + 1),
        optimizer=falling,
        swa_start=1,
        schedule=EveryStep(swag.schedules.cosine(falling, epochs=recipe.epochs)),
        **common,
    )
    clock.lap("rate falls")
    kept = swag.training.train(
        model,
        Windows(corpus.train, **batch, seed=2 * seed + 1),
        optimizer=moving,
        schedule=swag.schedules.constant(moving, lr=rate),
        swa_start=recipe.swa_start,
        rank=recipe.rank,
        collect_every=1 / recipe.snapshots,
        callbacks=averages,
        **common,
    )
    clock.lap("rate stays, averages")

    tuned = swag.tune(
        kept.swag(),
        model,
        held(corpus.valid[cut : cut + recipe.tune_words], **scored),
        scales=recipe.scales,
        n_samples=recipe.n_samples,
        seed=seed,
        likelihood=swag.Pointwise(),
        forward=word_losses,
    )
    clock.lap("choice of the scale")
    test = held(corpus.test[: recipe.test_words], **scored)
    rows = []
    for method, network, posterior, n_samples in _methods(decayed, model, kept, ema, late, tuned, recipe):
        started = clock.now()
        ensemble = swag.Ensemble(
            network, posterior, n_samples, seed=seed, likelihood=swag.Pointwise(), forward=word_losses
        )
        found = ensemble.predict(test).log_density
        seconds = clock.now() - started
        row = {"method": method, "nll": -float(found.double().mean()), "words": len(found)}
        rows.append(row | {"networks": n_samples, "words_per_second": len(found) / seconds})
    clock.lap("scoring")
    trained = recipe.rows * recipe.length * recipe.steps * recipe.epochs
    return {
        "settings": {"recipe": asdict(recipe), "optimizer": optimizer, "seed": seed},
        "rows": rows,
        "parameters": kept.collector.layout.size,
        "unknown_share": corpus.unknown,
        "scale": tuned.scale,
        "tried": [{"scale": point.scale, "nll": point.nll} for point in tuned.curve],
        "averaged": {"SWA": kept.collector.n_collected, "NT-ASGD": late.n_collected},
        "validation": {
            "common": [row["validation_loss"] for row in stem.history],
            "falls": [row["validation_loss"] for row in fallen.history],
            "stays": [row["validation_loss"] for row in kept.history],
        },
        "train_words": trained,
        "seconds": clock.seconds,
    }


def _methods(
    decayed: nn.Module,
    model: nn.Module,
    kept: swag.training.Trained,
    ema: RunningAverage,
    late: RunningAverage,
    tuned: Any,
    recipe: Recipe,
) -> Iterator[tuple[str, nn.Module, swag.Posterior, int]]:
    """Name, architecture, posterior, and how many networks are averaged."""
    yield "rate falls to 0", decayed, swag.PointMass.of(decayed), 1
    yield "rate stays, last step", model, swag.PointMass.of(model), 1
    yield "SWA", model, kept.swa(), 1
    # Never triggered, NT-ASGD is what it is before it starts to average: the last step.
    yield "NT-ASGD", model, late.swa() if late.n_collected else swag.PointMass.of(model), 1
    yield "EMA", model, ema.swa(), 1
    yield "SWAG", model, tuned.posterior, recipe.n_samples


def _mean(losses: Tensor, words: Tensor) -> Tensor:
    return losses.mean()


@final
class _Clock:
    """Seconds since the lap before, by name: of work on a CPU's one thread, elapsed ones elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.now = time.process_time if device.type == "cpu" else time.perf_counter
        self._last = self.now()

    def lap(self, name: str) -> None:
        now = self.now()
        self.seconds[name] = now - self._last
        self._last = now
