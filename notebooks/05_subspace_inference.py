# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bayesian inference in five dimensions of a network's weights
#
# A network has thousands of weights; a posterior over all of them is out of a sampler's reach. But along the
# path of SGD the weights move mostly in a few directions. So keep those, θ = ŵ + P z with z of five numbers,
# and do Bayesian inference there [Izmailov et al. 2019, arXiv:1907.07504]. All it needs is the log-likelihood
# of the training data at a z, many times.
#
# The data is the paper's one-dimensional regression: clusters with gaps between them. A good posterior is
# sure of the function where there is data, and unsure in the gaps.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.func import functional_call

import swag
import swag.subspace as sub

torch.set_num_threads(1)
torch.manual_seed(0)


def toy_regression() -> tuple[torch.Tensor, torch.Tensor, str]:
    """The published rows where SWAG_DATA names their folder, else a substitute of the same shape."""
    path = Path(os.environ.get("SWAG_DATA", "data")) / "toy_regression" / "data.npy"
    if path.exists():
        table = torch.from_numpy(np.load(path)).float()
        return table[:, 0], table[:, 1], "the published data"
    generator = torch.Generator().manual_seed(1)
    starts = torch.tensor([-7.2, -1.1, 4.9]).repeat_interleave(torch.tensor([133, 134, 133]))
    x = starts + 2.2 * torch.rand(400, generator=generator)
    y = 0.45 * torch.sin(x) + 0.04 * x + 0.05 * torch.randn(400, generator=generator)
    return x, y, "a generated substitute of the published shape (set SWAG_DATA for the original)"


x, y, source = toy_regression()
print(f"{len(x)} rows: {source}")


# %% [markdown]
# ## A trajectory, and the subspace it spans
#
# The network sees x and x² (scaled), as in the paper. After it has fitted the data, SGD goes on at a constant
# rate, and a collector takes a snapshot every ten steps: their mean is ŵ, the principal directions of their
# deviations are P.


# %%
def features(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x / 4, (x / 4) ** 2], dim=1)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


NOISE = 0.05  # the standard deviation of y around the function, in y's units
likelihood = swag.HomoscedasticGaussian(NOISE**2)
inputs = features(x)


def train(seed: int, steps: int = 1600, first_snapshot: int = 800) -> tuple[nn.Module, swag.Collector]:
    model = network(seed)
    collector = swag.Collector(model, rank=40)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(x), (50,), generator=generator)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs[rows])[:, 0], y[rows]).backward()
        optimizer.step()
        if step >= first_snapshot and step % 10 == 0:
            collector.collect(model)
    return model, collector


model, collector = train(seed=0)
pca = collector.subspace(5)
print(pca, "lengths of its directions:", [round(value, 3) for value in pca.norms.tolist()])
assert pca.k == 5 and bool((pca.norms[:-1] >= pca.norms[1:]).all())

# %% [markdown]
# Two other subspaces to compare with: **random** directions of the same average length, and the plane of a
# **curve** of low loss between two independently trained networks (a quadratic Bezier curve whose bend is
# trained, so that every point on it fits the data).

# %%
random = pca.random_twin(generator=torch.Generator().manual_seed(0))
assert abs(random.mean_norm - pca.mean_norm) < 1e-4 * pca.mean_norm

layout = collector.layout
w0 = collector.mean
w2 = train(seed=1)[1].mean
bend = ((w0 + w2) / 2).requires_grad_()
optimizer = torch.optim.Adam([bend], lr=0.02)
generator = torch.Generator().manual_seed(2)
for _ in range(600):
    t = torch.rand((), generator=generator)
    theta = (1 - t) ** 2 * w0 + 2 * t * (1 - t) * bend + t**2 * w2
    optimizer.zero_grad()
    nn.functional.mse_loss(functional_call(model, layout.unflatten(theta), (inputs,))[:, 0], y).backward()
    optimizer.step()
curve = sub.Subspace.from_curve([w0, bend.detach(), w2], layout=layout)
curve

# %% [markdown]
# ## The log-likelihood over z
#
# All the training rows, for many z in one call. There are 400 rows against a prior of five numbers, and the
# noise is small, so the plain posterior is very narrow. The temperature T raises the likelihood to 1/T, which
# widens it; the paper tunes it on validation rows. Here T = 50, for every method alike. The prior's standard
# deviation is in units of the columns' lengths: five of the trajectory's standard deviations for PCA (and for
# the random directions, which are as long), a half for the curve, whose three points lie at z of about one.

# %%
spaces = {"PCA": pca, "random": random, "curve": curve}
log_likelihoods = {name: sub.LogLikelihood(model, s, [(inputs, y)], likelihood) for name, s in spaces.items()}
log_likelihood = log_likelihoods["PCA"]
print(log_likelihood, log_likelihood(torch.zeros(5)).item())
temperature = 50.0
prior_std = {"PCA": 5.0, "random": 5.0, "curve": 0.5}
settings = {"prior_std": prior_std["PCA"], "temperature": temperature}

# %% [markdown]
# ## Three subspaces, one sampler
#
# Elliptical slice sampling has no step size to tune. The picture shows the log-density in two coordinates
# (the others at zero), and the draws.

# %%
ess = sub.EllipticalSlice(n_samples=200, n_chains=8, burn_in=60)
draws = {
    name: ess.infer(
        log_likelihoods[name],
        prior_std=prior_std[name],
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )
    for name in spaces
}
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for ax, (name, chains) in zip(axes, draws.items(), strict=True):
    print(f"{name}: {chains}")
    z = chains.samples
    low, high = z.min(0).values - 0.5, z.max(0).values + 0.5
    span = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    plane = sub.evaluate_plane(
        log_likelihoods[name], prior_std=prior_std[name], temperature=temperature, span=span, n_points=16
    )
    sub.plot_plane(ax, plane, chains).set_title(name)

# %% [markdown]
# Whether the chains agree: R̂ near 1, and enough effective draws.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 2.8), layout="constrained")
sub.plot_trace(axes[0], draws["PCA"], coordinate=0)
sub.plot_trace(axes[1], draws["PCA"], coordinate=1)
assert float(draws["PCA"].rhat().max()) < 1.25
assert float(draws["PCA"].ess().min()) > 20

# %% [markdown]
# ## The band: narrow at the data, wide in the gaps
#
# The result of each method is a posterior over the *weights*, so `swag.Ensemble` takes it as any other. The
# band is two standard deviations of the function (epistemic alone).

# %%
grid = torch.linspace(-9, 9, 300)
ordered = x.sort().values
widths = ordered.diff()
first, second = widths.topk(2).indices.tolist()
in_gap = torch.zeros_like(grid, dtype=torch.bool)
for at in (first, second):  # the middle halves of the two widest gaps
    left, right = ordered[at], ordered[at + 1]
    in_gap |= (grid > left + (right - left) / 4) & (grid < right - (right - left) / 4)
at_data = torch.stack([(ordered - value).abs().min() for value in grid]) < 0.05


def band(posterior: swag.Posterior, n_samples: int = 120) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mean and standard deviation of the function on the grid, and their ratio gap over data."""
    ensemble = swag.Ensemble(model, posterior, n_samples=n_samples, likelihood=likelihood, seed=0)
    predictive = ensemble(features(grid))
    spread = predictive.epistemic.sqrt()
    return predictive.mean, spread, float(spread[in_gap].mean() / spread[at_data].mean())


def show(ax: plt.Axes, posterior: swag.Posterior, title: str) -> float:
    mean, spread, ratio = band(posterior)
    ax.plot(x, y, ".", color="#6E6E6E", markersize=2, alpha=0.6)
    ax.plot(grid, mean, color=sub.plots.BLUE, linewidth=1.2)
    ax.fill_between(grid, mean - 2 * spread, mean + 2 * spread, color=sub.plots.BLUE, alpha=0.25, linewidth=0)
    ax.set(ylim=(-2, 2), title=f"{title}: {ratio:.1f} times wider in the gaps")
    return ratio


figure, axes = plt.subplots(1, 3, figsize=(13, 3.2), sharey=True, layout="constrained")
ratios = {
    name: show(ax, chains.posterior(120), f"{name} + ESS")
    for ax, (name, chains) in zip(axes, draws.items(), strict=True)
}
assert ratios["PCA"] > 1.3 and ratios["curve"] > 1.3, ratios

# %% [markdown]
# ## One subspace, every method
#
# One more sampler (two with pyro), and five approximations. Variational inference maximises the evidence
# lower bound (ELBO), and its methods can be compared by it: a richer family is at least as high. Laplace's
# Gaussian comes from the curvature at the mode; the projected SWAG Gaussian looks at no likelihood at all.

# %%
seed = torch.Generator().manual_seed(3)
methods = {
    "univariate slice": sub.UnivariateSlice(n_samples=50, n_chains=8, burn_in=15, width=0.4),
    "mean-field VI": sub.MeanFieldVI(n_steps=200),
    "full-covariance VI": sub.FullCovarianceVI(n_steps=200),
    "RealNVP flow VI": sub.FlowVI(n_samples=300, n_steps=200, n_draws=16),
    "Laplace": sub.Laplace(),
}
try:
    import pyro  # noqa: F401  (the extra [subspace])

    methods["NUTS"] = sub.NUTS(n_samples=60, n_chains=1, burn_in=40, max_tree_depth=5)
except ImportError:
    print("NUTS is left out: it needs pyro, pip install 'swag-torch[subspace]'")
results = {name: m.infer(log_likelihood, **settings, generator=seed) for name, m in methods.items()}
results["projected SWAG"] = sub.ProjectedGaussian(collector.swag(0.5)).infer(pca)
for name, result in results.items():
    if hasattr(result, "elbo") and bool(result.elbo.isfinite()):
        print(f"{name}: ELBO {float(result.elbo):.2f} ± {float(result.elbo_error):.2f} nats")
elbo = {name: float(result.elbo) for name, result in results.items() if "VI" in name}
assert elbo["full-covariance VI"] > elbo["mean-field VI"] - 0.3

# %%
figure, axes = plt.subplots(2, 4, figsize=(14, 6), sharey=True, layout="constrained")
for ax, (name, result) in zip(axes.flat, {"elliptical slice": draws["PCA"], **results}.items(), strict=False):
    posterior = result.posterior()
    ratios[name] = show(ax, posterior, name)
for ax in axes.flat[len(results) + 1 :]:
    ax.remove()
print({name: round(ratio, 2) for name, ratio in ratios.items()})
looked = {name: ratio for name, ratio in ratios.items() if name in results and name != "projected SWAG"}
assert all(ratio > 1.1 for ratio in looked.values()), looked

# %% [markdown]
# Every method that looks at the likelihood finds a band that is wider in the gaps. The projected SWAG
# Gaussian is read from the trajectory alone: here its band is wider there, too, and nothing promises that.

# %% [markdown]
# Two samplers see the same posterior: their means differ by no more than the draws' own errors explain.

# %%
one, other = draws["PCA"], results["univariate slice"]
error = (one.samples.var(0) / one.ess() + other.samples.var(0) / other.ess()).sqrt()
apart = ((one.mean - other.mean) / error).abs()
print("means apart, in standard errors:", [round(value, 1) for value in apart.tolist()])
assert float(apart.max()) < 5

# %% [markdown]
# ## Kept for later
#
# A posterior in a subspace is saved as any other, and loads without pickle.

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "posterior.swag"
    swag.save(path, draws["PCA"].posterior(60))
    loaded = swag.load(path)
assert torch.equal(loaded.samples, draws["PCA"].posterior(60).samples)
loaded
