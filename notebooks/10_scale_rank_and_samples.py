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
# # Choosing scale, rank and number of samples
#
# Three numbers belong to a SWAG posterior: how far it spreads (*scale*), how many directions it knows
# (*rank*), and how many weights are drawn from it (*n_samples*). The first two are tuned on held-out rows,
# the third is a question of time: it can be asked how much is left to gain.

# %%
import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

import swag
from swag.demo.data import digits
from swag.demo.network import convnet
from swag.demo.training import Batches

torch.set_num_threads(1)
torch.manual_seed(0)
plt.rcParams["svg.hashsalt"] = "swag"
task = digits(seed=0)

# %%
trained = swag.training.train(
    convnet((16, 32, 32), 10, strides=(1, 2, 1), seed=0),
    Batches(task.train, seed=0),
    F.cross_entropy,
    epochs=40,
    swa_start=0.5,
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4),
    schedule=lambda optimizer: swag.schedules.constant(optimizer, lr=0.1),
)
model, collector = trained.model, trained.collector
validation = [(task.validation.images, task.validation.labels)]
test, labels = task.test.images, task.test.labels
collector

# %% [markdown]
# ## Scale
#
# The covariance times a number: 0.5 is the paper's, 0 is SWA. `swag.tune` tries several with the SAME
# draws, stretched, so that little noise is left between them, and says how far each is behind the best,
# with a standard error of the paired difference.

# %%
tuned = swag.tune(
    collector.swag(),
    model,
    validation,
    scales=(0.03, 0.125, 0.5, 1, 2, 8),
    n_samples=12,
    bn_loader=task.bn_loader,
)
print(tuned)
curve = [point for point in tuned.curve if point.rank == tuned.rank]
assert tuned.scale == min(curve, key=lambda point: point.nll).scale

figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.errorbar([p.scale for p in curve], [p.behind for p in curve], [p.behind_error for p in curve], fmt="o-")
axis.set(xscale="log", xlabel="scale", ylabel="NLL behind the best")
assert curve[-1].behind > 2 * curve[-1].behind_error  # eight times is too much, and it shows

# %% [markdown]
# On 200 held-out rows the middle of the curve is flat: several scales are within an error of the best. Then
# take the paper's, and do not believe the third digit.
#
# ## Rank
#
# The last K deviations. Fewer are a shorter memory and a cheaper draw; `truncated` keeps the last ones. Two
# are too few here; ten are as good as twenty, in line with the few directions that matter.

# %%
ranks = (2, 5, 10, 20)
by_rank = swag.tune(
    collector.swag(), model, validation, scales=(0.5,), ranks=ranks, n_samples=12, bn_loader=task.bn_loader
)
print(by_rank)
diagnosis = collector.swag().diagnose()
print(f"directions that matter: {diagnosis.effective_rank:.1f} of {collector.swag().rank}")
assert [point.rank for point in by_rank.curve] == list(ranks)
two, _, ten, _ = by_rank.curve
assert two.behind > 2 * two.behind_error and ten.behind < 2 * ten.behind_error + 0.01
assert diagnosis.effective_rank < 10

# %% [markdown]
# ## Number of samples
#
# The error of an average of S members falls as 1/√S. The predictive knows its own: `monte_carlo_error` is
# the standard error of the averaged probabilities.

# %%
sizes, errors, losses = (2, 4, 8, 16, 32), [], []
for n in sizes:
    ensemble = swag.Ensemble(model, tuned.posterior, n, bn_loader=task.bn_loader, seed=0)
    predictive = ensemble.predict(test)
    errors.append(float(predictive.monte_carlo_error))
    losses.append(float(swag.metrics.nll(predictive.probs, labels)))
    print(f"{n:3d} samples: Monte-Carlo error {errors[-1]:.4f}, NLL {losses[-1]:.4f}")
swa = swag.Ensemble(model, collector.swa(), bn_loader=task.bn_loader).predict(test)
print(f"SWA, one point: NLL {swag.metrics.nll(swa.probs, labels):.4f}")
assert errors[-1] < errors[0] / 2
assert 0.5 < (errors[-1] * sizes[-1] ** 0.5) / (errors[2] * sizes[2] ** 0.5) < 2  # ∝ 1/√S

# %% [markdown]
# Or say what error you can live with, and let the ensemble draw as many as that takes. It reckons from the
# spread of a first few draws, so the error comes out near what was asked and not at it.

# %%
automatic = swag.Ensemble(
    model, tuned.posterior, n_samples="auto", tolerance=0.01, bn_loader=task.bn_loader, seed=0
)
predictive = automatic.predict(test)
print(f"{automatic.n_samples} samples, Monte-Carlo error {float(predictive.monte_carlo_error):.4f}")
assert float(predictive.monte_carlo_error) < 0.015

# %% [markdown]
# ## Batch norm: the price of a sample
#
# Most of a sample's cost can be its pass over the training rows. `ControlVariateBatchNorm` reads a few rows
# for each and corrects them by a single full pass; `bn_error_estimate` says what that costs in probability.

# %%
cheap = swag.Ensemble(
    model,
    tuned.posterior,
    8,
    bn_loader=task.bn_loader,
    batchnorm=swag.ControlVariateBatchNorm(rows=256),
    seed=0,
)
exact = swag.Ensemble(model, tuned.posterior, 8, bn_loader=task.bn_loader, seed=0)
apart = (cheap.predict(test).probs - exact.predict(test).probs).abs().mean()
between = float(exact.predict(test).monte_carlo_error)
print(f"mean difference {apart:.4f}; Monte-Carlo error of eight samples {between:.4f}")
assert float(apart) < between
