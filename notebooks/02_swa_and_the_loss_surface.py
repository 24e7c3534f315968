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
# # SWA and the loss surface: from SGD to SWA to SWAG
#
# Train a small network on handwritten digits; then train it a little differently, and look at the weights
# on the way:
#
# 1. **SGD** ends at one point;
# 2. **SWA** is the average of many points;
# 3. **SWAG** is a Gaussian around that average, and predictions are averaged over it;
# 4. **FGE** averages the predictions of the points themselves.
#
# Every claim below is followed by an `assert` that holds it to account. It is a demonstration with one seed
# on a small task, not a comparison of methods; `experiments/swa` is one.

# %%
import copy

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import swag
from swag.demo.data import digits
from swag.demo.network import convnet
from swag.demo.training import shifted

torch.set_num_threads(1)
plt.rcParams["svg.hashsalt"] = "swag"

# %% [markdown]
# ## The task
#
# Scikit-learn's 8×8 digits with so much noise that a network can be neither always right nor always sure.

# %%
task = digits(seed=0)
test_batches = task.test.images.split(1000)
labels = task.test.labels

figure, axes = plt.subplots(1, 8, figsize=(10, 1.5))
for axis, image, label in zip(axes, task.test.images, labels, strict=False):
    axis.imshow(image[0], cmap="gray_r")
    axis.set_title(int(label))
    axis.axis("off")

# %% [markdown]
# Training batches come in random order, each image moved by up to a pixel. The loader owns its generator,
# so that what follows can be repeated exactly.


# %%
class Batches:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return len(task.train) // 50

    def __iter__(self):
        images = shifted(task.train.images, self.generator)
        for rows in torch.randperm(len(images), generator=self.generator).split(50):
            yield images[rows], task.train.labels[rows]


def new_network():
    return convnet((16, 32, 32), 10, strides=(1, 2, 1), seed=0)


def new_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)


# %% [markdown]
# Two numbers judge a prediction: how often it is wrong, and its negative log-likelihood (NLL, in nats),
# which also punishes being sure and wrong.

# %%
scores = {}


def judge(name, ensemble):
    probs = ensemble.predict(test_batches).probs
    nll, accuracy = float(swag.metrics.nll(probs, labels)), float(swag.metrics.accuracy(probs, labels))
    ece = float(swag.metrics.ece(probs, labels))
    scores[name] = {"NLL": nll, "accuracy, %": 100 * accuracy, "ECE, %": 100 * ece}
    return scores[name]


def as_it_is(model):
    return swag.Ensemble.from_models([model])


# %% [markdown]
# ## 1. SGD
#
# The usual way: the rate falls to zero, and the network settles.

# %%
sgd = new_network()
optimizer = new_optimizer(sgd.parameters())
schedule = swag.schedules.cosine(optimizer, epochs=40)
batches = Batches(seed=0)
for _ in range(40):
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(sgd(x), y).backward()
        optimizer.step()
    schedule.step()

judge("SGD", as_it_is(sgd))

# %% [markdown]
# ## 2. SWA
#
# Now the rate stays where it was. The weights never settle: they wander about. After every epoch of the
# second half the collector takes a snapshot.

# %%
model = new_network()
optimizer = new_optimizer(model.parameters())
collector = swag.Collector(model, rank=20)
batches = Batches(seed=0)
wandering, visited = [], []
for epoch in range(40):
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    if epoch == 19:
        halfway = copy.deepcopy(model)
    if epoch >= 20:
        collector.collect(model)
        visited.append(collector.layout.flatten(model))
        wandering.append(judge("constant rate, last epoch", as_it_is(model))["NLL"])

collector

# %% [markdown]
# Each snapshot alone is poor. Their average is not.

# %%
swa = swag.Ensemble(model, collector.swa(), bn_loader=task.bn_loader)
judge("SWA", swa)

# %%
plt.figure(figsize=(6, 3))
plt.xticks(range(20, 41, 5))
plt.plot(range(21, 41), wandering, "o-", label="each epoch's weights")
plt.axhline(scores["SGD"]["NLL"], color="gray", linestyle="--", label="SGD, falling rate")
plt.axhline(scores["SWA"]["NLL"], color="C1", label="SWA: the average of the weights")
plt.xlabel("epoch")
plt.ylabel("test NLL")
plt.legend(loc="upper left", bbox_to_anchor=(1, 1))

assert scores["SWA"]["NLL"] < min(wandering)
assert scores["SWA"]["NLL"] < scores["SGD"]["NLL"]

# %% [markdown]
# ### The average needs batch-norm statistics of its own
#
# The running averages in the model belong to the weights of the last steps. `Ensemble` reads the training
# data once to replace them. With the old statistics the same weights are worse than SGD:

# %%
stale = swag.Ensemble(model, collector.swa(), batchnorm=swag.KeepBatchNorm())
judge("SWA, stale batch norm", stale)

# %%
assert scores["SWA, stale batch norm"]["NLL"] > scores["SGD"]["NLL"] > scores["SWA"]["NLL"]

# %% [markdown]
# ### A line through the loss surface
#
# From the SWA point (0) to the SGD point (1) and beyond: θ(t) = (1 − t)·θ_SWA + t·θ_SGD, with fresh
# statistics at every t.

# %%
layout = collector.layout
start, end = collector.mean, layout.flatten(sgd)
point = new_network()
ts = torch.linspace(-0.75, 1.5, 19)
train_loss, test_nll = [], []
for t in ts:
    layout.write_(point, start + t * (end - start))
    swag.refresh_batchnorm_(point, task.bn_loader)
    with torch.no_grad():
        point.eval()
        train_loss.append(float(F.cross_entropy(point(task.train.images), task.train.labels)))
        test_nll.append(float(F.cross_entropy(point(task.test.images), labels)))

plt.figure(figsize=(6, 3))
plt.plot(ts, train_loss, label="training loss")
plt.plot(ts, test_nll, label="test NLL")
for place, name in ((0, "SWA"), (1, "SGD")):
    plt.axvline(place, color="gray", linewidth=0.5)
    plt.text(place, plt.ylim()[1], name, ha="center", va="bottom")
plt.xlabel("t")
_ = plt.legend()

# %% [markdown]
# Both runs began at the same point, and they end in the same valley: there is no barrier between them. SWA
# lies in its middle, SGD nearer to one side: going on past SGD the loss soon rises, past SWA it hardly
# moves. (On larger networks the SWA paper found SGD's training loss the lower one. Not here: SWA's is
# lower, too.)

# %%
at = {float(t): (train_loss[i], test_nll[i]) for i, t in enumerate(ts)}
assert max(loss for t, (loss, _) in at.items() if 0 <= t <= 1) <= max(at[0.0][0], at[1.0][0]) + 0.01
for which in (0, 1):
    past_sgd, past_swa = (at[t + step][which] - at[t][which] for t, step in ((1.0, 0.5), (0.0, -0.5)))
    assert past_sgd > 5 * abs(past_swa)
assert at[0.0][0] < at[1.0][0] and at[0.0][1] < at[1.0][1]

# %% [markdown]
# ### And a plane
#
# Through SGD's end, SWA and the last epoch of the constant rate, with the path of all the epochs projected
# on it.

# %%
from swag import geometry

data = [(task.train.images, task.train.labels)]
scorer = geometry.Scorer(
    new_network(), {"loss": geometry.Measure(F.cross_entropy, data)}, bn_loader=task.bn_loader
)
places = {"SGD": layout.flatten(sgd), "SWA": collector.mean, "last epoch": layout.flatten(model)}
plane = geometry.Plane.through(*places.values(), layout=layout)
grid = plane.grid(9, show=places.values())
surface = geometry.evaluate_plane(plane, scorer, grid, points=places, paths={"epochs": torch.stack(visited)})
figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
_ = geometry.plot_plane(axis, surface, "loss", colorbar="training loss")

# %% [markdown]
# Each of the epochs drawn on this plane has a higher training loss than their mean.

# %%
loss = scorer(torch.stack([places["SWA"], *visited]))["loss"]
assert float(loss[0]) < float(loss[1:].min())

# %% [markdown]
# ## 3. SWAG
#
# The collector kept more than the mean: the squared deviations of every weight, and the last 20 deviations
# as rows. They make a Gaussian, N(θ̄, ½(Σ_diag + D̂D̂ᵀ/(K−1))).

# %%
posterior = collector.swag()
sample = posterior.sample(1, generator=torch.Generator().manual_seed(0))[0]
distance = (collector.mean - layout.flatten(model)).norm()
print(posterior)
print(
    f"from the average to the last epoch {distance:.2f}, to a sample {(sample - collector.mean).norm():.2f}"
)

# %% [markdown]
# Thirty draws, each with its own batch-norm statistics; their predictions are averaged.

# %%
swag_ensemble = swag.Ensemble(model, posterior, n_samples=30, bn_loader=task.bn_loader, seed=0)
judge("SWAG", swag_ensemble)

# %%
assert scores["SWAG"]["NLL"] < scores["SWA"]["NLL"] < scores["SGD"]["NLL"]

# %% [markdown]
# ### What it does not know
#
# Patches of photographs are no digits. Where the draws disagree, the prediction is unsure: here its entropy
# tells the two apart better than that of the one SGD network.

# %%
strange = task.ood.split(1000)
entropies = {
    name: (ensemble.predict(test_batches).entropy, ensemble.predict(strange).entropy)
    for name, ensemble in (("SGD", as_it_is(sgd)), ("SWAG", swag_ensemble))
}
aurocs = {name: float(swag.metrics.auroc(known, other)) for name, (known, other) in entropies.items()}

figure, axes = plt.subplots(1, 2, figsize=(9, 2.5), sharey=True)
for axis, (name, (known, other)) in zip(axes, entropies.items(), strict=True):
    axis.hist([known.numpy(), other.numpy()], bins=20, label=["digits", "photographs"])
    axis.set_title(f"{name}: AUROC {aurocs[name]:.2f}")
    axis.set_xlabel("entropy of the prediction")
axes[0].legend()

assert aurocs["SWAG"] > aurocs["SGD"]

# %% [markdown]
# ## The same in one call
#
# `swag.training.train` is that loop, with a progress bar, checkpoints that resume exactly, mixed precision
# and more. With the same seeds it gives the same average, bit for bit.

# %%
result = swag.training.train(
    new_network(),
    Batches(seed=0),
    F.cross_entropy,
    epochs=40,
    swa_start=0.5,
    optimizer=new_optimizer,
    schedule=lambda optimizer: swag.schedules.constant(optimizer, lr=0.1),
)
assert torch.equal(result.collector.mean, collector.mean)
assert torch.equal(result.collector.deviations, collector.deviations)
result.collector

# %% [markdown]
# ## 4. FGE
#
# From the network half-way, the rate goes down and up in a triangle; a snapshot is taken at each low. Here
# the PREDICTIONS of the snapshots are averaged, not their weights: as many networks to keep and to run.

# %%
run = swag.training.fge(
    halfway,
    Batches(seed=1),
    F.cross_entropy,
    lr_max=0.1,
    lr_min=0.001,
    cycle=4,
    n_snapshots=5,
    optimizer=new_optimizer,
)
fge = run.ensemble(bn_loader=task.bn_loader)
judge("FGE", fge)

# %%
members = [judge(f"FGE {i}", as_it_is(fge.member(i)))["NLL"] for i in range(fge.n_samples)]

optimizer = new_optimizer([nn.Parameter(torch.zeros(1))])
triangle = swag.schedules.fge_triangle(optimizer, lr_max=0.1, lr_min=0.001, cycle=4)
epochs = torch.linspace(0, len(run.history), 200)
plt.figure(figsize=(6, 2))
plt.plot(epochs, [triangle.rates(float(epoch))[0] for epoch in epochs])
plt.plot([2 + 4 * i for i in range(5)], [0.001] * 5, "o", label="snapshots")
plt.xlabel("epoch")
plt.ylabel("rate")
plt.legend(loc="upper left", bbox_to_anchor=(1, 1))

assert scores["FGE"]["NLL"] < min(members)

# %% [markdown]
# ## All together

# %%
print(f"{'':28}{'NLL':>8}{'accuracy, %':>14}{'ECE, %':>9}")
for name, row in scores.items():
    if not name.startswith("FGE "):
        print(f"{name:28}{row['NLL']:8.3f}{row['accuracy, %']:14.1f}{row['ECE, %']:9.1f}")

# %% [markdown]
# Where to go on: three such runs and their mixture, `swag.training.train_multi`, give MultiSWAG; from a
# network that is trained already, `swag.training.continue_training` takes a few epochs.
