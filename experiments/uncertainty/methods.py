"""The methods: how each is read out of the trained networks of a group of seeds, as a function of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import swag
from experiments.uncertainty.laplace import CURVATURES, Curvature, sampled_logits, with_one
from experiments.uncertainty.scores import Predict
from experiments.uncertainty.tasks import Task
from experiments.uncertainty.training import network
from swag.predictive import CategoricalAccumulator

if TYPE_CHECKING:
    from experiments.uncertainty.study import Study

PRECISIONS = tuple(10.0**power for power in range(-2, 6))  # of Laplace's prior, tried for every network


class Group:
    """The networks of one group of seeds on one task. Methods of one network have the group's first seed."""

    def __init__(self, study: Study, task: Task, seeds: list[int]) -> None:
        self.study, self.task, self.seeds, self.recipe = study, task, seeds, study.recipe
        self.chosen: dict[str, float] = {}  # what was chosen on validation rows for one network alone

    def methods(self) -> dict[str, Callable[[], Predict]]:
        """By name, in the order of the tables; the predictor is made when it is asked for."""
        found: dict[str, Callable[[], Predict]] = {
            "SGD": lambda: self.ensemble(self.sgd(0), 1),
            "SWA": lambda: self.ensemble(self.collector(0).swa(), 1),
            "SWAG-diag": lambda: self.ensemble(self.swag_diag(0)),
            "SWAG": lambda: self.ensemble(self.swag(0)),
            "MC dropout": lambda: self.dropout(self.study.tuned("dropout")),
        }
        for name in CURVATURES:
            found[f"last-layer Laplace, {name}"] = lambda name=name: self.laplace(name)
        found["mean-field VI"] = lambda: self.ensemble(self.vi())
        if self.task.name == "ten":
            found["cyclical SG-MCMC"] = lambda: self.ensemble(self.mcmc(), len(self.mcmc().samples))
        members = range(len(self.seeds))
        found |= {
            "deep ensemble": lambda: self.mixture([self.sgd(m) for m in members], len(members)),
            "MultiSWA": lambda: self.mixture([self.collector(m).swa() for m in members], len(members)),
            "MultiSWAG": lambda: self.mixture([self.swag(m) for m in members]),
        }
        return found

    def sgd(self, member: int) -> swag.PointMass:
        return self.study.sgd(self.task, self.seeds[member])

    def collector(self, member: int) -> swag.Collector:
        return self.study.collector(self.task, self.seeds[member])

    def swag(self, member: int) -> swag.LowRankGaussian:
        return self.collector(member).swag(self.study.tuned("scale"))

    def swag_diag(self, member: int) -> swag.LowRankGaussian:
        return self.collector(member).swag_diag(self.study.tuned("diagonal scale"))

    def mcmc(self) -> swag.Empirical:
        return self.study.mcmc(self.task, self.seeds[0])

    def vi(self) -> swag.LowRankGaussian:
        return self.study.vi(self.task, self.seeds[0])

    def mixture(self, posteriors: list[swag.Posterior], n_samples: int | None = None) -> Predict:
        return self.ensemble(swag.Mixture(posteriors), n_samples)

    def ensemble(self, posterior: swag.Posterior, n_samples: int | None = None) -> Predict:
        return predict_with(
            swag.Ensemble(
                self.model,
                posterior,
                n_samples or self.recipe.n_samples,
                bn_loader=self.task.train.batches(),
                seed=self.seeds[0],
            )
        )

    @cached_property
    def model(self) -> nn.Module:
        """Gives the architecture."""
        return network(self.recipe, self.task, 0)

    def dropout(self, p: float) -> Predict:
        """Dropout on, batch norm with statistics gathered without it; the same seed for all images."""
        posterior = self.study.sgd(self.task, self.seeds[0], dropout=p)
        model = self.fitted(network(self.recipe, self.task, 0, dropout=p), posterior)
        return dropout_predictor(model, self.recipe.n_samples, self.seeds[0])

    def fitted(self, model: nn.Module, posterior: swag.PointMass) -> nn.Module:
        """A network at a point, with batch-norm statistics, in eval mode."""
        return swag.Ensemble(model, posterior, 1, bn_loader=self.task.train.batches(), seed=0).member(0)

    def laplace(self, name: str) -> Predict:
        """Of the last layer of SGD's network; the prior's precision by the NLL of the validation rows."""
        curvature = self.curvatures[name]
        validation = self.task.validation
        tried = {
            precision: swag.metrics.nll(
                self.last_layer(curvature, precision)(validation.images).probs, validation.labels
            )
            for precision in PRECISIONS
        }
        best = min(tried, key=tried.__getitem__)
        self.chosen[f"last-layer Laplace, {name}"] = best
        return self.last_layer(curvature, best)

    def last_layer(self, curvature: Curvature, precision: float) -> Predict:
        def predict(images: Tensor) -> swag.CategoricalPredictive:
            parts = []
            with torch.no_grad():
                for batch in images.split(1000):
                    features = with_one(self.features(batch))
                    n_samples = self.recipe.laplace_samples
                    logits = sampled_logits(
                        self.last, curvature, precision, features, n_samples, self.seeds[0]
                    )
                    parts.append(swag.CategoricalPredictive.from_logits(logits))
            return swag.CategoricalPredictive.concatenate(parts)

        return predict

    @cached_property
    def curvatures(self) -> dict[str, Curvature]:
        with torch.no_grad():
            features = torch.cat([with_one(self.features(x)) for x, _ in self.task.train.batches()])
            probs = torch.softmax(features @ self.last.T, 1)
            return {name: kind.of(features, probs) for name, kind in CURVATURES.items()}

    @cached_property
    def features(self) -> nn.Module:
        """SGD's network without its last layer."""
        return self._whole[:-1]

    @cached_property
    def last(self) -> Tensor:
        """Its last layer, (C, F + 1), the bias at the end."""
        layer = self._whole[-1]
        return torch.cat([layer.weight, layer.bias[:, None]], 1).detach().double()

    @cached_property
    def _whole(self) -> nn.Sequential:
        return self.fitted(self.model, self.sgd(0))


def predict_with(ensemble: swag.Ensemble) -> Predict:
    return lambda images: ensemble.predict(images.split(1000))


def dropout_predictor(model: nn.Module, n_samples: int, seed: int) -> Predict:
    """S passes with dropout layers in train mode and all others in eval mode."""
    for module in model.modules():
        module.train(isinstance(module, nn.Dropout))

    def predict(images: Tensor) -> swag.CategoricalPredictive:
        return swag.CategoricalPredictive.concatenate(list(parts(images)))

    def parts(images: Tensor) -> Iterator[swag.CategoricalPredictive]:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for batch in images.split(1000):
                accumulator = CategoricalAccumulator()
                for _ in range(n_samples):
                    accumulator.update(model(batch))
                yield accumulator.compute()

    return predict
