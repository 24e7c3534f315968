"""A posterior over a small network that is known: 1-D regression with HMC, and approximations beside it.

The network is 1-10-10-1 with tanh (141 weights), the prior standard normal, the noise's standard deviation
known. All networks of a method are run at once: θ is (M, D) here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import swag

NOISE = 0.1
HIDDEN = 10
RATES = (2e-6, 5e-6, 1e-5, 2e-5)  # of SWAG's SGD, tried


@dataclass(frozen=True)
class Effort:
    """How much is done: chains, their length, steps of the optimizers, networks of each approximation."""

    chains: int = 40
    warm_up: int = 300
    draws: int = 50
    thinning: int = 4
    leapfrog: int = 40
    steps: int = 4000
    networks: int = 20
    per_network: int = 20


QUICK = Effort(chains=4, warm_up=10, draws=4, thinning=1, leapfrog=5, steps=50, networks=4, per_network=3)


def model() -> nn.Sequential:
    """Gives names and shapes."""
    return nn.Sequential(
        nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)
    )


def outputs(theta: Tensor, x: Tensor) -> Tensor:
    """f(x) (M, N) of networks θ (M, D)."""
    sizes = [HIDDEN, HIDDEN, HIDDEN * HIDDEN, HIDDEN, HIDDEN, 1]
    w1, b1, w2, b2, w3, b3 = theta.split(sizes, dim=1)
    h = torch.tanh(w1[:, None] * x[:, None] + b1[:, None])
    h = torch.tanh(h @ w2.view(-1, HIDDEN, HIDDEN).transpose(1, 2) + b2[:, None])
    return (h @ w3[..., None])[..., 0] + b3


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two clusters of inputs with a gap between them, and what a wave gives there with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.linspace(-2.2, -0.8, 20), torch.linspace(0.9, 2.1, 20)])
    return x, torch.sin(2.5 * x) + NOISE * torch.randn(len(x), generator=generator)


def log_joint(theta: Tensor, x: Tensor, y: Tensor, *, weight: float = 1.0) -> Tensor:
    """log p(y|θ) + log p(θ) (M,), up to constants; `weight` scales the likelihood of a part of the rows."""
    fit = (outputs(theta, x) - y).square().sum(1) / (2 * NOISE**2)
    return -weight * fit - 0.5 * theta.square().sum(1)


def hmc(x: Tensor, y: Tensor, effort: Effort, seed: int) -> tuple[Tensor, float]:
    """Draws (chains, draws, D) and the rate of acceptance; one step size for all, adapted in the warm-up."""
    generator = torch.Generator().manual_seed(seed)
    theta = map_networks(x, y, effort.chains, effort.steps // 4, seed + 1)
    value, gradient = _value_and_gradient(theta, x, y)
    step, kept, accepted = 0.005, [], []
    for iteration in range(effort.warm_up + effort.draws * effort.thinning):
        momentum = torch.randn(theta.shape, generator=generator)
        length = step * (0.8 + 0.4 * float(torch.rand((), generator=generator)))
        new, speed, slope = theta, momentum, gradient
        for _ in range(effort.leapfrog):
            speed = speed + 0.5 * length * slope
            new = new + length * speed
            new_value, slope = _value_and_gradient(new, x, y)
            speed = speed + 0.5 * length * slope
        gain = new_value - value + 0.5 * (momentum.square().sum(1) - speed.square().sum(1))
        chance = gain.clamp(max=0).exp().nan_to_num(0.0)
        taken = torch.rand(len(theta), generator=generator) < chance
        theta = torch.where(taken[:, None], new, theta)
        gradient = torch.where(taken[:, None], slope, gradient)
        value = torch.where(taken, new_value, value)
        if iteration < effort.warm_up:
            step *= 1.05 if float(chance.mean()) > 0.8 else 0.95
        else:
            accepted.append(float(chance.mean()))
            if (iteration - effort.warm_up + 1) % effort.thinning == 0:
                kept.append(theta)
    return torch.stack(kept, 1), sum(accepted) / len(accepted)


def map_networks(x: Tensor, y: Tensor, n: int, steps: int, seed: int) -> Tensor:
    """Modes θ (n, D), each found by Adam from a start of its own."""
    theta = starts(n, seed).requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-log_joint(theta, x, y).sum()).backward()
        optimizer.step()
        schedule.step()
    return theta.detach()


def starts(n: int, seed: int) -> Tensor:
    """Draws from the prior, halved."""
    size = swag.Layout.of(model()).size
    return 0.5 * torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


def mean_field(x: Tensor, y: Tensor, effort: Effort, seed: int) -> swag.LowRankGaussian:
    """The best Gaussian with a diagonal covariance, from one start; eight draws a step."""
    generator = torch.Generator().manual_seed(seed)
    mean = map_networks(x, y, 1, effort.steps // 4, seed)[0].requires_grad_()
    log_std = torch.full_like(mean, -3.0).requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, effort.steps)
    for _ in range(effort.steps):
        theta = mean + log_std.exp() * torch.randn(8, len(mean), generator=generator)
        optimizer.zero_grad()
        (-log_joint(theta, x, y).mean() - log_std.sum()).backward()
        optimizer.step()
        schedule.step()
    variance = (2 * log_std.detach()).exp()
    return swag.LowRankGaussian(
        mean.detach(), variance, variance.new_zeros(len(mean), 0), layout=swag.Layout.of(model())
    )


def swag_posteriors(
    x: Tensor, y: Tensor, modes: Tensor, effort: Effort, rate: float, seed: int
) -> list[swag.LowRankGaussian]:
    """SWAG around each mode: SGD with batches of ten at a constant rate, 40 snapshots."""
    generator = torch.Generator().manual_seed(seed)
    layout = swag.Layout.of(model())
    collectors = [swag.Collector.for_layout(layout, rank=20) for _ in modes]
    theta = modes.clone().requires_grad_()
    optimizer = torch.optim.SGD([theta], lr=rate, momentum=0.9)
    every = max(1, effort.steps // 40)
    for step in range(1, 40 * every + 1):
        rows = torch.randperm(len(x), generator=generator)[:10]
        optimizer.zero_grad()
        (-log_joint(theta, x[rows], y[rows], weight=len(x) / 10).sum()).backward()
        optimizer.step()
        if step % every == 0:
            for collector, weights in zip(collectors, theta.detach(), strict=True):
                collector.collect_pieces([(0, layout.size, weights)])
    return [collector.swag() for collector in collectors]


def compare(effort: Effort, *, grid: int = 81, repeats: int = 10, seed: int = 0) -> dict[str, Any]:
    """Bands of every method, and its distance to HMC's by the number of networks averaged."""
    x, y = data()
    at = torch.linspace(-3, 3, grid)
    draws, accepted = hmc(x, y, effort, seed)
    half = effort.chains // 2
    truth = outputs(draws[:half].flatten(0, 1), at)
    modes = map_networks(x, y, effort.networks, effort.steps, seed + 50)
    n = effort.networks * effort.per_network
    generator = torch.Generator().manual_seed(seed + 70)
    held_out = data(seed=1)
    tried = {rate: swag_posteriors(x, y, modes, effort, rate, seed + 60) for rate in RATES}
    heights = {
        rate: log_predictive(swag.Mixture(posteriors).sample(n, generator=generator), *held_out)
        for rate, posteriors in tried.items()
    }
    posteriors = tried[max(heights, key=heights.__getitem__)]
    vi = mean_field(x, y, effort, seed + 80)
    sets: dict[str, tuple[Tensor, str]] = {
        "HMC": (draws[half:].transpose(0, 1).flatten(0, 1), "chains of their own"),
        "mean-field VI": (vi.sample(n, generator=generator), "one basin"),
        "SWAG": (posteriors[0].sample(n, generator=generator), "one basin"),
        "deep ensemble": (modes, "several basins"),
        "MultiSWAG": (swag.Mixture(posteriors).sample(n, generator=generator), "several basins"),
    }
    rows = []
    for name, (theta, basins) in sets.items():
        functions = outputs(theta, at)
        rows.append(
            {
                "method": name,
                "basins": basins,
                "networks": len(functions),
                "quantiles": torch.quantile(functions, torch.tensor([0.05, 0.5, 0.95]), dim=0).tolist(),
                "some": functions[:5].tolist(),
                "distances": distances(functions, truth, repeats, generator),
                "gap": float((functions[:, at.abs() < 0.7]).std(0).mean()) if len(functions) > 1 else 0.0,
            }
        )
    return {
        "x": x.tolist(), "y": y.tolist(), "grid": at.tolist(), "acceptance": accepted,
        "truth quantiles": torch.quantile(truth, torch.tensor([0.05, 0.5, 0.95]), dim=0).tolist(),
        "truth networks": len(truth), "rows": rows,
        "SWAG rates": [{"rate": rate, "held-out log density": height} for rate, height in heights.items()],
    }  # fmt: skip


def log_predictive(theta: Tensor, x: Tensor, y: Tensor) -> float:
    """Mean log density of outcomes under the average of the networks, nats."""
    each = torch.distributions.Normal(outputs(theta, x), NOISE).log_prob(y)
    return float((each.logsumexp(0) - math.log(len(theta))).mean())


def distances(functions: Tensor, truth: Tensor, repeats: int, generator: torch.Generator) -> dict[str, Any]:
    """By the number of networks K: W₁ of the values f(x), mean over the grid; mean and sd over subsets."""
    counts = [k for k in (1, 2, 3, 5, 10, 20, 50, 100, 200, 400) if k <= len(functions)]
    means, spreads = [], []
    for k in counts:
        found = [
            wasserstein(functions[torch.randperm(len(functions), generator=generator)[:k]], truth)
            for _ in range(repeats)
        ]
        mean = sum(found) / repeats
        means.append(mean)
        spreads.append((sum((f - mean) ** 2 for f in found) / max(1, repeats - 1)) ** 0.5)
    return {"networks": counts, "mean": means, "sd": spreads}


def wasserstein(a: Tensor, b: Tensor, levels: int = 200) -> float:
    """W₁ of the columns' empirical distributions, (K, G) and (S, G): ∫|F⁻¹ − G⁻¹|, mean over columns."""
    at = (torch.arange(levels) + 0.5) / levels
    quantile: Callable[[Tensor], Tensor] = lambda rows: rows.sort(0).values[(at * len(rows)).long()]  # noqa: E731
    return float((quantile(a) - quantile(b)).abs().mean())


def _value_and_gradient(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    theta = theta.detach().requires_grad_()
    value = log_joint(theta, x, y)
    (gradient,) = torch.autograd.grad(value.sum(), theta)
    return value.detach(), gradient
