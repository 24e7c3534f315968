"""What is written down of a method: scores on test, corrupted and foreign images, out of its predictive."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import swag
from experiments.uncertainty.tasks import Task
from swag import metrics
from swag.calibrators import TemperatureScaling

Predict = Callable[[Tensor], swag.CategoricalPredictive]
BINS = 25  # of the entropy histograms


def score(task: Task, predict: Predict) -> dict[str, Any]:
    """Everything of one method on one task; the temperature comes from the validation rows."""
    scaling = TemperatureScaling.fit(predict(task.validation.images), task.validation.labels)
    test = predict(task.test.images)
    found: dict[str, Any] = {
        "temperature": scaling.temperature,
        "test": both(test, task.test.labels, scaling),
        "shift": {},
        "ood": {name: foreign(task, test, predict(images)) for name, images in task.ood.items()},
    }
    if task.grey is not None:
        n = len(task.grey)
        found["unshifted"] = both(test, task.test.labels, scaling, n)
        for name, levels in task.shifted.items():
            predictive = predict(levels.flatten(0, 1))
            found["shift"][name] = [
                rows(part, scaling.temperature, task.grey.labels) for part in predictive.probs.split(n)
            ]
    return found


def both(
    predictive: swag.CategoricalPredictive, labels: Tensor, scaling: TemperatureScaling, n: int | None = None
) -> dict[str, float]:
    return rows(predictive.probs[:n], scaling.temperature, labels[:n])


def rows(probs: Tensor, temperature: float, labels: Tensor) -> dict[str, float]:
    """Accuracy and ECE as fractions, NLL in nats, Brier summed over classes; the last three scaled, too."""
    probs = probs.double().clamp(min=1e-30)
    probs = probs / probs.sum(1, keepdim=True)
    scaled = TemperatureScaling(temperature)(probs)
    found = {"accuracy": metrics.accuracy(probs, labels)}
    for ending, of in (("", probs), (" scaled", scaled)):
        found[f"nll{ending}"] = metrics.nll(of, labels)
        found[f"ece{ending}"] = metrics.ece(of, labels)
        found[f"brier{ending}"] = metrics.brier(of, labels)
    return found


def foreign(
    task: Task, inside: swag.CategoricalPredictive, outside: swag.CategoricalPredictive
) -> dict[str, Any]:
    """AUROC by three scores, and for the entropy AUPR, FPR at 95 % TPR, symmetrised KL and histograms."""
    largest = math.log(task.n_classes)
    entropies = [p.entropy.clamp(0, largest) for p in (inside, outside)]
    found: dict[str, Any] = {
        "auroc entropy": metrics.auroc(*entropies),
        "auroc max probability": metrics.auroc(
            *(metrics.max_probability_score(p.probs) for p in (inside, outside))
        ),
        "aupr entropy": metrics.aupr(*entropies),
        "fpr entropy": metrics.fpr_at_tpr(*entropies),
        "symmetrised kl": metrics.symmetrised_kl(*entropies, upper=largest),
        "mean entropy": [float(e.mean()) for e in entropies],
        "histograms": [torch.histc(e.float().cpu(), BINS, 0, largest).long().tolist() for e in entropies],
    }
    if inside.n_samples > 1:
        found["auroc mutual information"] = metrics.auroc(
            inside.mutual_information, outside.mutual_information
        )
    return found
