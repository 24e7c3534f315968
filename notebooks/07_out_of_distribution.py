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
# # Out of distribution, and when to say nothing
#
# A classifier gives a digit for anything. Can its uncertainty tell that the picture was no digit, or that
# the digit is too noisy to read? Here: photographs, and digits with more and more noise; scores that tell
# them apart; and how many errors are left if the unsure answers are withheld.

# %%
import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

import swag
from swag.demo.data import digits
from swag.demo.network import convnet
from swag.demo.training import Batches
from swag.metrics import auroc, fpr_at_tpr, risk_coverage_from_scores

torch.set_num_threads(1)
plt.rcParams["svg.hashsalt"] = "swag"
task = digits(seed=0)
labels = task.test.labels

# %% [markdown]
# Three runs at a constant rate, from three seeds. The last network of the first run stands for "one network".

# %%
members = swag.training.train_multi(
    lambda seed: convnet((16, 32, 32), 10, strides=(1, 2, 1), seed=seed),
    [0, 1, 2],
    Batches(task.train, seed=0),
    F.cross_entropy,
    epochs=24,
    swa_start=0.5,
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4),
    schedule=lambda optimizer: swag.schedules.constant(optimizer, lr=0.1),
)
one, mixture = members[0], members.multiswag()
ensembles = {
    "one network": swag.Ensemble.from_models([one.model]),
    "SWA": swag.Ensemble(one.model, one.swa(), bn_loader=task.bn_loader),
    "SWAG": swag.Ensemble(one.model, one.swag(), 18, bn_loader=task.bn_loader, seed=0),
    "MultiSWAG": swag.Ensemble(one.model, mixture, 18, bn_loader=task.bn_loader, seed=0),
}
digits_seen = {name: e.predict(task.test.images) for name, e in ensembles.items()}
photographs = {name: e.predict(task.ood) for name, e in ensembles.items()}

# %% [markdown]
# ## Which score?
#
# *Entropy* is all the uncertainty; *mutual information* is what the members disagree about (one network: 0).
# AUROC: the chance that a photograph is scored above a digit. FPR at 95 %: of the digits, how many are
# refused when 95 % of the photographs are. A value needs its error: here one from resampling both sets.


# %%
def with_error(inside, outside, n_resamples=200):
    """AUROC and its standard deviation over resampled rows."""
    generator = torch.Generator().manual_seed(0)
    draws = [
        auroc(
            inside[torch.randint(len(inside), (len(inside),), generator=generator)],
            outside[torch.randint(len(outside), (len(outside),), generator=generator)],
        )
        for _ in range(n_resamples)
    ]
    return float(auroc(inside, outside)), float(torch.tensor(draws).std())


found, by_disagreement = {}, {}
print(f"{'':14}{'AUROC by entropy':>20}{'by mutual information':>24}{'FPR at 95 %':>14}")
for name in ensembles:
    known, strange = digits_seen[name], photographs[name]
    entropy, error = with_error(known.entropy, strange.entropy)
    mutual, mutual_error = with_error(known.mutual_information, strange.mutual_information)
    found[name], by_disagreement[name] = (entropy, error), (mutual, mutual_error)
    fpr = fpr_at_tpr(known.entropy, strange.entropy)
    print(f"{name:14}{entropy:13.3f} ± {error:.3f}{mutual:17.3f} ± {mutual_error:.3f}{fpr:14.2f}")
values = [found[name][0] for name in ("one network", "SWA", "SWAG", "MultiSWAG")]
assert values == sorted(values) and values[0] < 0.6 < values[1]
for name in ("SWAG", "MultiSWAG"):
    assert by_disagreement[name][0] > found[name][0] + 3 * (found[name][1] + by_disagreement[name][1])

# %% [markdown]
# One network at a constant rate hardly tells them apart. Averaging weights helps, averaging predictions
# helps again, and what the members *disagree* about is the best sign by far: noise makes a digit unclear to
# all of them alike.

# %%
figure, axes = plt.subplots(1, 4, figsize=(14, 2.6), sharey=True, layout="constrained")
for axis, name in zip(axes, ensembles, strict=True):
    both = [digits_seen[name].entropy.numpy(), photographs[name].entropy.numpy()]
    axis.hist(both, bins=20, density=True, label=["digits", "photographs"])
    axis.set(title=name, xlabel="entropy, nats")
_ = axes[0].legend()

# %% [markdown]
# ## A shift by degrees
#
# The same digits with more noise. Accuracy falls for every method; what matters is whether confidence falls
# with it.

# %%
generator = torch.Generator().manual_seed(1)
noise = torch.randn(task.test.images.shape, generator=generator)
levels = [0.0, 0.15, 0.3, 0.45, 0.6]
shifted = {
    name: [e.predict(task.test.images + level * noise) for level in levels] for name, e in ensembles.items()
}
figure, axes = plt.subplots(1, 3, figsize=(13, 3), layout="constrained")
for name, predictives in shifted.items():
    right = [float(swag.metrics.accuracy(p.probs, labels)) for p in predictives]
    sure = [float(p.probs.max(1).values.mean()) for p in predictives]
    axes[0].plot(levels, right, "o-", label=name)
    axes[1].plot(levels, [s - r for s, r in zip(sure, right, strict=True)], "o-")
    axes[2].plot(levels, [float(swag.metrics.nll(p.probs, labels)) for p in predictives], "o-")
for axis, title in zip(axes, ("accuracy", "confidence − accuracy", "NLL"), strict=True):
    axis.set(xlabel="added noise", title=title)
axes[0].legend()
worst = {name: float(swag.metrics.nll(p[-1].probs, labels)) for name, p in shifted.items()}
gap = {
    name: float(p[-1].probs.max(1).values.mean() - swag.metrics.accuracy(p[-1].probs, labels))
    for name, p in shifted.items()
}
print("NLL at the worst noise:", {name: round(value, 2) for name, value in worst.items()})
print("confidence − accuracy:", {name: round(value, 2) for name, value in gap.items()})
assert worst["MultiSWAG"] < worst["SWA"] and worst["MultiSWAG"] < worst["one network"]
assert min(gap.values()) > 0.05 and max(gap["SWAG"], gap["MultiSWAG"]) < gap["one network"]
assert all(
    swag.metrics.accuracy(p[-1].probs, labels) < swag.metrics.accuracy(p[0].probs, labels)
    for p in shifted.values()
)

# %% [markdown]
# None is calibrated under the worst noise: all are surer than right, an average over draws less so than one
# network.
#
# ## Saying nothing
#
# Digits and photographs together; every answer about a photograph is an error. If only the surest share is
# answered, how many errors are left?

# %%
figure, axis = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
areas = {}
for name in ensembles:
    known, strange = digits_seen[name], photographs[name]
    wrong = (known.probs.argmax(1) != labels).double()
    errors = torch.cat([wrong, torch.ones(len(strange.probs), dtype=torch.double)])
    curve = risk_coverage_from_scores(-torch.cat([known.entropy, strange.entropy]), errors)
    areas[name] = curve.aurc
    axis.plot(curve.coverage, curve.risk, label=f"{name}: area {curve.aurc:.3f}")
axis.set(xlabel="share answered", ylabel="share of errors among the answers")
axis.legend()
assert areas["MultiSWAG"] < areas["one network"]

# %% [markdown]
# What to take along: report the score you use, its error, and what it was compared with; which score is the
# best depends on the task (here disagreement, by far; it needs members, entropy does not); and test on a
# shift of your own, because a detector of photographs says little about noisy digits.
