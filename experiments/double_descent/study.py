"""How networks are trained here, whatever they are, and what is read out of a group of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

import swag
from experiments.double_descent.rows import Rows
from swag.metrics import accuracy
from swag.scale_rank import Tuned
from swag.training import EveryStep, Trained, continue_training

KIND = "double_descent"
# Rows predicted at once.
_AT_ONCE = 500


@final
@dataclass(frozen=True)
class Recipe:
    """All that a result depends on besides the width.

    Attributes:
        data: "Fashion-MNIST, 14 × 14" or "digits".
        widths: channels of the first convolution.
        train_rows, held_rows, test_rows: of each group; held-out rows have noisy labels too.
        noise: the probability that a label is wrong.
        seeds: one group each, with rows, wrong labels and initial weights of its own.
        members: networks of a group.
        batch: rows of a step.
        epochs: in all; snapshots are taken in the last quarter.
        rate: of SGD with momentum 0.9.
        rank: of SWAG.
        n_samples: networks averaged by SWAG and by MultiSWAG alike.
        scale: SWAG's where it is not chosen.
        scales: tried on held-out rows.
    """

    data: str = "Fashion-MNIST, 14 × 14"
    widths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48)
    train_rows: int = 1_000
    held_rows: int = 500
    test_rows: int = 3_000
    noise: float = 0.2
    seeds: tuple[int, ...] = (0, 1, 2)
    members: int = 5
    batch: int = 50
    epochs: int = 200
    rate: float = 0.02
    rank: int = 20
    n_samples: int = 15
    scale: float = 0.5
    scales: tuple[float, ...] = (0.5, 4.0, 32.0, 256.0, 2048.0)


def two_ways(
    model: nn.Module,
    loaders: Sequence[Iterable[Any]],
    loss: Callable[[Tensor, Tensor], Tensor],
    recipe: Recipe,
    **arguments: Any,
) -> tuple[nn.Module, Trained]:
    """Three quarters at one rate; then it falls to zero in a copy, and stays in the model, collected.

    Args:
        model: trained in place.
        loaders: for the common part, for the copy, and for the model; the last two give the same batches.
        loss: as in `swag.training.train`.
        recipe: rate, epochs, rank.
        arguments: others of `train`.

    Returns:
        The copy, and what `train` gives for the model.
    """
    first = 3 * recipe.epochs // 4
    rest = recipe.epochs - first
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.rate, momentum=0.9)
    common = {"loss": loss, "optimizer": optimizer, "swa_lr": recipe.rate} | arguments
    continue_training(model, loaders[0], epochs=first, rank=0, **common)
    falling = copy.deepcopy(model)
    own = torch.optim.SGD(falling.parameters(), lr=recipe.rate, momentum=0.9)
    own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    swag.training.train(
        falling,
        loaders[1],
        loss,
        epochs=rest,
        swa_start=1,
        optimizer=own,
        schedule=EveryStep(swag.schedules.cosine(own, epochs=rest)),
        **arguments,
    )
    return falling, continue_training(model, loaders[2], epochs=rest, rank=recipe.rank, **common)


def score_group(
    net: nn.Module,
    group: Rows,
    points: list[swag.PointMass],
    averages: list[swag.PointMass],
    gaussians: list[swag.LowRankGaussian],
    recipe: Recipe,
    seed: int,
    bn_loader: list[Tensor] | None = None,
) -> list[dict[str, Any]]:
    """A row a method: of single networks' methods the mean over the members."""

    def scored(posterior: swag.Posterior, n_samples: int) -> dict[str, float]:
        ensemble = swag.Ensemble(net, posterior, n_samples, seed=seed, bn_loader=bn_loader)
        test, seen = (ensemble.predict(x.split(_AT_ONCE)) for x in (group.test_x, group.x))
        return {
            "error": 1 - accuracy(test.probs, group.test_y),
            "nll": -float(test.log_probs.double().gather(1, group.test_y[:, None]).mean()),
            "train_error": 1 - accuracy(seen.probs, group.y),
        }

    def tuned(posterior: swag.Posterior) -> Tuned:
        return swag.tune(
            posterior,
            net,
            list(zip(group.held_x.split(_AT_ONCE), group.held_y.split(_AT_ONCE), strict=True)),
            scales=recipe.scales,
            n_samples=recipe.n_samples,
            seed=seed,
            bn_loader=bn_loader,
        )

    def mean(found: list[dict[str, float]]) -> dict[str, float]:
        return {key: sum(each[key] for each in found) / len(found) for key in found[0]}

    m, s = len(points), recipe.n_samples
    chosen, together = [tuned(gaussian) for gaussian in gaussians], tuned(swag.Mixture(gaussians))
    found = {
        "SGD": mean([scored(point, 1) for point in points]),
        "SWA": mean([scored(point, 1) for point in averages]),
        "SWAG": mean([scored(gaussian, s) for gaussian in gaussians]),
        "SWAG, scale chosen": mean([scored(each.posterior, s) for each in chosen])
        | {"scale": sum(each.scale for each in chosen) / m},
        "deep ensemble": scored(swag.Mixture(points), m),
        "MultiSWA": scored(swag.Mixture(averages), m),
        "MultiSWAG": scored(swag.Mixture(gaussians), s),
        "MultiSWAG, scale chosen": scored(together.posterior, s) | {"scale": together.scale},
    }
    return [{"method": method, "seed": seed, **values} for method, values in found.items()]
