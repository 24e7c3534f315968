# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # SWAG step by step, beside the exact posterior
#
# A straight line has two weights. So everything can be drawn: the path of SGD, its mean, its Gaussian, and
# the exact posterior, which for a line is known in closed form. And it can be seen what SWAG is **not**.

# %%
import math

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Ellipse
from torch import nn

import swag

torch.set_num_threads(1)
torch.manual_seed(0)
plt.rcParams["svg.hashsalt"] = "swag"

# %% [markdown]
# ## The task, and its exact posterior
#
# y = w₁x₁ + w₂x₂ + noise, σ = 0.5. The two features are correlated, so the data pin one direction of the
# weights down better than the other: with a flat prior the posterior is N(w*, σ²(XᵀX)⁻¹).

# %%
N, NOISE = 200, 0.5
generator = torch.Generator().manual_seed(0)
mix = torch.tensor([[1.0, 0.8], [0.0, 0.6]])
x = torch.randn(N, 2, generator=generator) @ mix
y = x @ torch.tensor([1.0, -0.5]) + NOISE * torch.randn(N, generator=generator)

exact_mean = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
exact_covariance = NOISE**2 * torch.linalg.inv(x.T @ x)
print("exact mean", [round(v, 3) for v in exact_mean.tolist()])
print("exact standard deviations", [round(v, 3) for v in exact_covariance.diag().sqrt().tolist()])

# %% [markdown]
# ## 1. SGD at a constant rate never stands still
#
# A batch of ten rows has a gradient of its own. Around the best weights the steps add up to a cloud.

# %%
RATE, BATCH, EPOCHS = 0.1, 10, 300


class Batches:
    """Ten rows at a time, in another order every epoch."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        for rows in torch.randperm(N, generator=self.generator).split(BATCH):
            yield x[rows], y[rows]


model = nn.Linear(2, 1, bias=False)
nn.init.zeros_(model.weight)
optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
collector = swag.Collector(model, rank=20)
snapshots = []
for epoch in range(EPOCHS):
    for inputs, targets in Batches(seed=epoch):
        optimizer.zero_grad()
        (0.5 * (model(inputs)[:, 0] - targets).square().mean()).backward()
        optimizer.step()
    if epoch >= 10:
        collector.collect(model)
        snapshots.append(model.weight.detach().flatten().clone())
snapshots = torch.stack(snapshots)
collector

# %% [markdown]
# ## 2. What the collector keeps
#
# Of n snapshots: their mean, the sum of squared deviations of every weight, and the last K deviations from
# the mean *as it was then*. By hand:

# %%
mean = snapshots.mean(0)
variance = (snapshots - mean).square().mean(0)
running_mean = snapshots.cumsum(0) / torch.arange(1, len(snapshots) + 1)[:, None]
deviations = (snapshots - running_mean)[-20:]

assert torch.allclose(collector.mean, mean, atol=1e-6)
assert torch.allclose(collector.sq_dev / collector.n_collected, variance, rtol=1e-4)
assert torch.allclose(collector.deviations, deviations, atol=1e-5)  # the oldest first

# %% [markdown]
# ## 3. The Gaussian
#
# SWAG: N(θ̄, ½(Σ_diag + D̂D̂ᵀ/(K−1))), half from the variances, half from the deviations. A draw is
#
# θ = θ̄ + (1/√2)·Σ_diag^½ z₁ + (1/√(2(K−1)))·D̂ z₂,  z₁ ~ N(0, I_D), z₂ ~ N(0, I_K)
#
# with ONE z₂ for all weights: that is what makes them move together. Since the first half is diagonal, the
# correlations are about half of the path's. A hundred thousand draws show it.

# %%
posterior = collector.swag()  # scale 0.5, the paper's
expected = 0.5 * (torch.diag(variance) + deviations.T @ deviations / 19)
draws = posterior.sample(100_000, generator=torch.Generator().manual_seed(0))

# the standard error of a variance from n draws is √(2/n) of it
tolerance = 5 * math.sqrt(2 / len(draws)) * float(expected.diag().max())
assert torch.allclose(draws.T.cov(), expected, atol=tolerance)
assert torch.allclose(posterior.covariance_matrix(), expected, rtol=1e-3, atol=1e-8)

gaussian = torch.distributions.MultivariateNormal(posterior.mean, posterior.covariance_matrix())
assert torch.allclose(
    posterior.log_prob(draws[:5]).double(), gaussian.log_prob(draws[:5]).double(), atol=1e-2
)

# %% [markdown]
# ## 4. Beside the exact posterior


# %%
def ellipse(axis, mean, covariance, **style):
    """Two standard deviations."""
    lengths, directions = torch.linalg.eigh(covariance)
    angle = math.degrees(math.atan2(float(directions[1, 1]), float(directions[0, 1])))
    width, height = 4 * lengths[1].sqrt(), 4 * lengths[0].sqrt()
    axis.add_patch(Ellipse(mean.tolist(), float(width), float(height), angle=angle, fill=False, **style))


figure, axis = plt.subplots(figsize=(5.5, 5))
axis.plot(*snapshots.T, ".", color="gray", markersize=3, alpha=0.6, label="snapshots")
ellipse(axis, exact_mean, exact_covariance, color="black", linewidth=2, label="exact posterior")
ellipse(axis, mean, posterior.covariance_matrix(), color="C0", linewidth=2, label="SWAG")
diagonal = collector.swag_diag()
ellipse(axis, mean, diagonal.covariance_matrix(), color="C1", linestyle="--", label="SWAG-diag")
axis.plot(*exact_mean, "k+", markersize=12)
axis.plot(*mean, "x", color="C0", markersize=9, label="SWA")
axis.set(xlabel="w₁", ylabel="w₂")
axis.set_aspect("equal")
_ = axis.legend(loc="upper left", bbox_to_anchor=(1, 1))

# %% [markdown]
# The mean is right: SWA lies on the exact mean, within a hundredth or so of the posterior's width, where a
# snapshot is most of a width away.

# %%
whiten = torch.linalg.inv(torch.linalg.cholesky(exact_covariance))
off = (whiten @ (mean - exact_mean)).norm()
typical = ((snapshots - exact_mean) @ whiten.T).norm(dim=1).mean()
print(f"SWA is {off:.2f} posterior standard deviations off, a snapshot {typical:.2f} on average")
assert off < 0.1 and typical > 0.5

# %% [markdown]
# The spread is another matter. It is a property of the *path*, and so of the learning rate: twice the rate,
# about twice the variance, while the posterior knows of no rate. For small rates theory says the same
# [Mandt, Hoffman & Blei 2017, arXiv:1704.04289]: here the cloud of SGD has covariance ≈ (rate·σ²/2B)·I,
# round, whatever the data's shape. (That is for rows drawn anew at every step, as below. Above, every epoch
# took each row once, and what one batch pulls away the others pull back: such a cloud is narrower still,
# and not round.)


# %%
def spread(rate):
    """The variances of SGD's cloud along the exact posterior's two axes."""
    w, seen, order = torch.zeros(2), [], torch.Generator().manual_seed(1)
    for step in range(10_000):
        rows = torch.randint(N, (BATCH,), generator=order)
        w = w - rate * x[rows].T @ (x[rows] @ w - y[rows]) / BATCH
        if step >= 1000:
            seen.append(w)
    directions = torch.linalg.eigh(exact_covariance).eigenvectors
    return (torch.stack(seen) @ directions).var(0)


narrow, wide = spread(0.025), spread(0.05)
theory = 0.05 * NOISE**2 / (2 * BATCH)
print("variance at rate 0.025", [f"{v:.2e}" for v in narrow.tolist()])
print("variance at rate 0.05 ", [f"{v:.2e}" for v in wide.tolist()], f"theory {theory:.2e}")
exact = torch.linalg.eigvalsh(exact_covariance)
print("exact posterior       ", [f"{v:.2e}" for v in exact.tolist()])

ratio = wide / narrow
assert bool((ratio > 1.4).all() and (ratio < 2.8).all())  # the rate doubles, the variance follows
assert bool((wide / theory > 0.6).all() and (wide / theory < 1.7).all())
assert wide.max() / wide.min() < 2 < exact.max() / exact.min()  # round, where the posterior is not

# %% [markdown]
# ## 5. So the scale is yours to choose
#
# What one wants from a posterior is a good prediction. `swag.tune` tries scales on held-out rows, with the
# same draws stretched, and says how far each is behind the best, with a standard error.

# %%
generator = torch.Generator().manual_seed(7)
held_out = torch.randn(2000, 2, generator=generator) @ mix
answers = held_out @ torch.tensor([1.0, -0.5]) + NOISE * torch.randn(2000, generator=generator)
likelihood = swag.HomoscedasticGaussian(NOISE**2)
tuned = swag.tune(
    posterior, model, [(held_out, answers)], scales=(0.01, 0.1, 0.5, 2, 10, 50), likelihood=likelihood
)
print(tuned)
assert all(point.behind < 0.005 for point in tuned.curve if point.scale <= 2)
assert tuned.curve[-1].behind > 3 * tuned.curve[-1].behind_error  # far too wide is seen

# %% [markdown]
# With two weights and 200 rows every scale up to 2 predicts alike, to a thousandth of a nat: the noise of y
# is most of the uncertainty, and the mean alone would do. In a network with more weights than rows that is
# different, and the choice matters; see
# [choosing scale, rank and number of samples](10_scale_rank_and_samples.ipynb).
#
# What to take along:
#
# * SWA finds the centre, better than a typical point of the path;
# * SWAG's Gaussian is the path's, with its correlations halved, and cheap;
# * its size comes from the rate and the batch, not from Bayes' rule: tune `scale` on held-out rows.
