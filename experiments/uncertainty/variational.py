"""Mean-field variational inference over all the weights, begun at SGD's (Blundell et al. 2015)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

import swag
from experiments.uncertainty.recipes import Recipe
from experiments.uncertainty.tasks import Shuffled, Task
from experiments.uncertainty.training import network

START = 1e-2  # standard deviation of every weight at the beginning


def mean_field(
    recipe: Recipe, task: Task, start: swag.PointMass, seed: int, *, decay: float, kl: float
) -> swag.LowRankGaussian:
    r"""The Gaussian with a diagonal covariance that maximises the tempered bound.

        mean loss(μ + σ ⊙ ε) + (kl/N)·KL(N(μ, σ²) ‖ N(0, 1/(N·decay))),   one ε a batch

    The prior is the one whose mode weight decay finds. Adam at 1e-3, falling to 0 along half a cosine.
    """
    model = network(recipe, task, seed).train()
    layout, n = start.layout, len(task.train)
    assert layout is not None
    mean = start.mean.clone().requires_grad_()
    log_std = torch.full_like(mean, math.log(START)).requires_grad_()
    loader = Shuffled(task.train, recipe.batch, seed)
    optimizer = torch.optim.Adam([{"params": [mean], "lr": 1e-3}, {"params": [log_std], "lr": 1e-2}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.vi_epochs * len(loader))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(recipe.vi_epochs):
        for images, labels in loader:
            noise = torch.randn(layout.size, generator=generator).to(mean)
            weights = layout.unflatten(mean + log_std.exp() * noise)
            loss = F.cross_entropy(functional_call(model, weights, (images,)), labels)
            divergence = divergence_from(mean, log_std, 1 / (n * decay))
            optimizer.zero_grad(set_to_none=True)
            (loss + kl / n * divergence).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return swag.LowRankGaussian(
            mean.detach(), (2 * log_std).exp(), mean.new_zeros(layout.size, 0), layout=layout
        )


def divergence_from(mean: Tensor, log_std: Tensor, variance: float) -> Tensor:
    """KL(N(mean, std²) ‖ N(0, variance)), summed, in nats."""
    ratio = (2 * log_std).exp() / variance
    return 0.5 * (ratio + mean.square() / variance - 1 - ratio.log()).sum()
