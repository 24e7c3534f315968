"""One run of the demo without its files: train, tune, predict and score."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

import swag
from swag.demo import fashion
from swag.demo.data import Task, digits
from swag.demo.methods import SINGLE, Predictions, predict
from swag.demo.settings import Settings
from swag.demo.training import averaging, sgd
from swag.demo.words import notes
from swag.progress import silent

T = TypeVar("T")
Say = Callable[[str], None]
Figures = dict[str, dict[str, list[float]]]

# Tried on the validation rows, for SGD and for averaging alike.
WEIGHT_DECAYS = (1e-4, 5e-4, 2e-3, 5e-3)


@dataclass(frozen=True)
class Study:
    """What a run found.

    Attributes:
        task: the data.
        weight_decays: chosen on the validation rows, for "SGD" and for "averaging".
        report: the first member of each method and the ensembles, with intervals over the test rows.
        figures: figures[method][metric], one a member, or one in all for an ensemble.
        posteriors: the members' SWAG posteriors.
    """

    task: Task
    weight_decays: dict[str, float]
    report: swag.Report
    figures: Figures
    posteriors: list[swag.LowRankGaussian]


def load(settings: Settings) -> Task:
    """The data that the settings name."""
    if settings.data == "digits":
        return digits(settings.seed)
    return fashion.fashion_mnist(settings.seed, settings.folder, settings.n_train)


def conduct(settings: Settings, say: Say = lambda text: None) -> Study:
    """Does all the work; writes nothing, and leaves torch's global state as it was.

    Args:
        settings: see there; the same settings give the same figures on the same machine.
        say: takes a line at every milestone.
    """
    with one_thread(), silent() if settings.quiet else contextlib.nullcontext():
        task = load(settings)
        say(
            f"{task.name}: {len(task.train):,} training, {len(task.validation):,} validation, "
            f"{len(task.test):,} test and {len(task.ood):,} out-of-distribution images ({task.ood_name})"
        )
        networks, for_sgd = train_networks(task, settings, say)
        collectors, for_averaging = train_collectors(task, settings, networks[0], say)
        predictions: dict[str, list[Predictions]] = {}
        for method, answer in predict(
            task, networks, collectors, samples=settings.samples, seed=settings.seed
        ):
            predictions.setdefault(method, []).append(answer)
        say(f"predicted, with {settings.samples} samples of each posterior")
        weight_decays = {"SGD": for_sgd, "averaging": for_averaging}
        report, figures = score(task, predictions, weight_decays, settings)
        return Study(task, weight_decays, report, figures, [c.swag() for c in collectors])


def train_networks(task: Task, settings: Settings, say: Say) -> tuple[list[nn.Module], float]:
    """The SGD members, with the weight decay that serves the first of them best on the validation rows."""

    def fit(weight_decay: float, member: int = 0) -> nn.Module:
        name = f"SGD {member + 1}/{settings.members}, weight decay {weight_decay:g}"
        return sgd(
            task, seed=_seed(settings, member), epochs=settings.epochs, weight_decay=weight_decay, name=name
        )

    def validation_nll(network: nn.Module) -> float:
        return _validation_nll(swag.Ensemble.from_models([network]), task)

    first, chosen = tuned(fit, validation_nll)
    networks = [first, *(fit(chosen, member) for member in range(1, settings.members))]
    say(f"SGD: {len(networks)} trained; weight decay {chosen:g}, {_TRIED}")
    return networks, chosen


def train_collectors(
    task: Task, settings: Settings, model: nn.Module, say: Say
) -> tuple[list[swag.Collector], float]:
    """The averaging members, with the weight decay that serves the first one's SWA best, likewise."""

    def fit(weight_decay: float, member: int = 0) -> swag.Collector:
        name = f"averaging {member + 1}/{settings.members}, weight decay {weight_decay:g}"
        return averaging(
            task, seed=_seed(settings, member), epochs=settings.epochs, weight_decay=weight_decay, name=name
        )

    def validation_nll(collector: swag.Collector) -> float:
        swa = swag.Ensemble(model, collector.swa(), 1, bn_loader=task.bn_loader, seed=settings.seed)
        return _validation_nll(swa, task)

    first, chosen = tuned(fit, validation_nll)
    collectors = [first, *(fit(chosen, member) for member in range(1, settings.members))]
    say(
        f"averaging: {len(collectors)} trained at a constant rate, {first.n_collected} snapshots each; "
        f"weight decay {chosen:g}, {_TRIED}"
    )
    return collectors, chosen


def tuned(fit: Callable[[float], T], validation_nll: Callable[[T], float]) -> tuple[T, float]:
    """The result with the lowest validation NLL among those of all weight decays, and its weight decay."""
    tried = {weight_decay: fit(weight_decay) for weight_decay in WEIGHT_DECAYS}
    best = min(tried, key=lambda weight_decay: validation_nll(tried[weight_decay]))
    return tried[best], best


def score(
    task: Task,
    predictions: dict[str, list[Predictions]],
    weight_decays: dict[str, float],
    settings: Settings,
) -> tuple[swag.Report, Figures]:
    """The report on the first member of each method, and every member's figures."""

    def report(member: int, n_bootstrap: int) -> swag.Report:
        shown = {method: answers[min(member, len(answers) - 1)] for method, answers in predictions.items()}
        return swag.Report(
            {method: answer.test for method, answer in shown.items()},
            task.test.labels,
            ood={task.ood_name: {method: answer.ood for method, answer in shown.items()}},
            baseline="SGD",
            validation={method: answer.validation for method, answer in shown.items()},
            validation_labels=task.validation.labels,
            n_bootstrap=n_bootstrap,
            class_names=task.classes,
            images=task.test.images,
            title=f"swag demo: {task.name}",
            provenance=_provenance(task, weight_decays, settings),
        )

    figures: Figures = {method: {} for method in predictions}
    for member in range(settings.members):
        # Two resamples: only the figures themselves are wanted here, by the same definitions.
        for method, row in report(member, n_bootstrap=2).results.scores.items():
            if member == 0 or method in SINGLE:
                for metric, estimate in row.items():
                    assert estimate.value is not None
                    figures[method].setdefault(metric, []).append(estimate.value)
    results = report(0, n_bootstrap=1000).results
    return swag.Report.from_results(
        dataclasses.replace(results, notes=(*notes(results, figures), *results.notes))
    ), figures


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch use one thread inside the block.

    Sums depend on the number of threads, and on one thread of a CPU every kernel used here gives the same
    bits each time. A second thread gains nothing on layers this small.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


_TRIED = f"the best of {', '.join(f'{value:g}' for value in WEIGHT_DECAYS)} on the validation images"


def _validation_nll(ensemble: swag.Ensemble, task: Task) -> float:
    predictive = ensemble.predict(task.validation.images.split(1000))
    return float(swag.metrics.nll(predictive.probs, task.validation.labels))


def _seed(settings: Settings, member: int) -> int:
    return settings.seed * 1000 + member + 1


def _provenance(task: Task, weight_decays: dict[str, float], settings: Settings) -> dict[str, str]:
    return {
        "data": f"{task.description}: {len(task.train):,} for training, {len(task.validation):,} for "
        f"validation, {len(task.test):,} for testing; out of distribution: {len(task.ood):,} images "
        f"({task.ood_name})",
        "seed": str(settings.seed),
        "members": str(settings.members),
        "epochs": str(settings.epochs),
        "samples": str(settings.samples),
        "weight decay": ", ".join(f"{family} {value:g}" for family, value in weight_decays.items()),
    }
