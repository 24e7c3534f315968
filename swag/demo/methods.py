"""The seven methods, read out of the trained networks and collectors through the public interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

import swag
from swag.demo.data import Task

SINGLE = ("SGD", "SWA", "SWAG-diag", "SWAG")
ENSEMBLES = ("Deep ensemble", "MultiSWA", "MultiSWAG")


@dataclass(frozen=True)
class Predictions:
    """What one method says about the validation, test and out-of-distribution images."""

    validation: swag.CategoricalPredictive
    test: swag.CategoricalPredictive
    ood: swag.CategoricalPredictive


def predict(
    task: Task,
    networks: Sequence[nn.Module],
    collectors: Sequence[swag.Collector],
    *,
    samples: int,
    seed: int,
) -> Iterator[tuple[str, Predictions]]:
    """Each method's name and predictions: the single ones once a member, the ensembles once.

    MultiSWAG has as many samples as one SWAG, shared among its members: both cost the same to predict with.
    """
    model = networks[0]  # gives the architecture; the weights come from the posteriors

    def ensemble(posterior: swag.Posterior, n_samples: int = samples) -> swag.Ensemble:
        return swag.Ensemble(model, posterior, n_samples, bn_loader=task.bn_loader, seed=seed)

    for network, collector in zip(networks, collectors, strict=True):
        yield "SGD", _ask(swag.Ensemble.from_models([network]), task)
        yield "SWA", _ask(ensemble(collector.swa(), 1), task)
        yield "SWAG-diag", _ask(ensemble(collector.swag_diag()), task)
        yield "SWAG", _ask(ensemble(collector.swag()), task)
    yield "Deep ensemble", _ask(swag.Ensemble.from_models(networks), task)
    yield "MultiSWA", _ask(ensemble(swag.Mixture([c.swa() for c in collectors]), len(collectors)), task)
    yield "MultiSWAG", _ask(ensemble(swag.Mixture([c.swag() for c in collectors])), task)


def _ask(ensemble: swag.Ensemble, task: Task) -> Predictions:
    validation, test, ood = (
        ensemble.predict(images.split(1000))
        for images in (task.validation.images, task.test.images, task.ood)
    )
    return Predictions(validation, test, ood)
