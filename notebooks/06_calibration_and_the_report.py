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
# # Calibration, and the report that shows it
#
# A network that says 0.9 should be right nine times of ten. Here is how that is measured, what the usual
# number (ECE) hides, what a temperature mends, and how much of a difference between two methods is chance.

# %%
import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

import swag
from swag.demo.data import digits
from swag.demo.network import convnet
from swag.demo.training import Batches
from swag.report import plot_reliability

torch.set_num_threads(1)
plt.rcParams["svg.hashsalt"] = "swag"
task = digits(seed=0)
labels = task.test.labels

# %% [markdown]
# Two networks from one loop: SGD with a rate that falls to zero, and SWAG at a constant one.


# %%
def new_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)


sgd = convnet((16, 32, 32), 10, strides=(1, 2, 1), seed=0)
optimizer = new_optimizer(sgd.parameters())
schedule, batches = swag.schedules.cosine(optimizer, epochs=30), Batches(task.train, seed=0)
for _ in range(30):
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(sgd(x), y).backward()
        optimizer.step()
    schedule.step()
trained = swag.training.train(
    convnet((16, 32, 32), 10, strides=(1, 2, 1), seed=0),
    Batches(task.train, seed=0),
    F.cross_entropy,
    epochs=30,
    swa_start=0.5,
    optimizer=new_optimizer,
    schedule=lambda optimizer: swag.schedules.constant(optimizer, lr=0.1),
)
ensembles = {
    "SGD": swag.Ensemble.from_models([sgd]),
    "SWA": swag.Ensemble(trained.model, trained.swa(), bn_loader=task.bn_loader),
    "SWAG": swag.Ensemble(trained.model, trained.swag(), 20, bn_loader=task.bn_loader, seed=0),
}
test = {name: e.predict(task.test.images) for name, e in ensembles.items()}
held_out = {name: e.predict(task.validation.images) for name, e in ensembles.items()}

# %% [markdown]
# ## A reliability diagram, and what ECE makes of it
#
# Rows are sorted into bins of confidence; in each, confidence is held against accuracy. ECE is the mean
# gap, weighted by the rows in a bin.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for axis, name in zip(axes, ("SGD", "SWAG"), strict=True):
    curve = swag.metrics.reliability_curve(test[name].probs, labels)
    axis.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    axis.plot(curve.confidence, curve.accuracy, "o-")  # NaN, no point, where a bin is empty
    axis.set(title=f"{name}: ECE {curve.ece:.3f}", xlabel="confidence", ylabel="accuracy")
    assert abs(curve.ece - swag.metrics.ece(test[name].probs, labels)) < 1e-9

# %% [markdown]
# ### ECE alone is easily deceived
#
# It depends on the binning, it is never 0 for a perfect model (chance fills the bins), and a model that
# knows only how common each digit is has a better one than a good network. So read it beside a proper score:
# NLL and Brier are, in the mean, best for the true probabilities and for nothing else.

# %%
probs = test["SGD"].probs
print("bins 5, 15, 50:", [round(float(swag.metrics.ece(probs, labels, n_bins=b)), 3) for b in (5, 15, 50)])
print("equal mass:", round(float(swag.metrics.adaptive_ece(probs, labels)), 3), end="; ")
print("debiased:", round(float(swag.metrics.debiased_ece(probs, labels)), 3))

share = torch.bincount(task.train.labels, minlength=10) / len(task.train)
ignorant = share.expand(len(labels), -1)  # says for every image how common each digit is
print(f"ignorant: ECE {swag.metrics.ece(ignorant, labels):.3f}, NLL {swag.metrics.nll(ignorant, labels):.2f}")
assert swag.metrics.ece(ignorant, labels) < swag.metrics.ece(probs, labels)
assert swag.metrics.nll(ignorant, labels) > 2 * swag.metrics.nll(probs, labels)

generator = torch.Generator().manual_seed(0)
drawn = torch.multinomial(probs, 1, generator=generator)[:, 0]  # labels for which it IS calibrated
perfect = float(swag.metrics.ece(probs, drawn))
print(f"ECE of a perfectly calibrated model on {len(labels)} rows: {perfect:.3f}")
assert perfect > 0.005

# %% [markdown]
# ## A temperature
#
# One number, fitted on held-out rows, makes logits softer or sharper. It cannot change which class wins.

# %%
scaled = {}
for name in test:
    scaling = swag.calibrators.TemperatureScaling.fit(held_out[name].probs, task.validation.labels)
    scaled[name] = scaling(test[name])
    before, after = (float(swag.metrics.nll(p, labels)) for p in (test[name].probs, scaled[name]))
    print(f"{name}: T = {scaling.temperature:.2f}, NLL {before:.3f} → {after:.3f}")
    assert torch.equal(scaled[name].argmax(1), test[name].probs.argmax(1))

# %% [markdown]
# ## How much is chance?
#
# The report resamples the rows. Its second table asks of each method whether it differs from the first on
# the SAME rows, which is a sharper question than whether two intervals overlap. Here the answer is: nothing
# is shown. On 697 rows, and of one run each, the three are not told apart.

# %%
report = swag.Report(
    test,
    labels,
    baseline="SGD",
    validation=held_out,
    validation_labels=task.validation.labels,
)
print(report)

# %% [markdown]
# Its pictures are functions too. A box is the interval of a bin's accuracy: few rows, tall box.

# %%
figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
_ = plot_reliability(axis, report.results.classification.reliability["SWAG"])

# %%
difference = report.results.differences["SWAG"]["nll"]
print(f"SWAG's NLL minus SGD's: {difference.value:.3f}, {difference.low:.3f} to {difference.high:.3f}")
alone = report.results.scores["SWAG"]["nll"]
assert difference.high - difference.low < alone.high - alone.low
assert difference.low < 0 < difference.high  # not told apart

# %% [markdown]
# ## Predictions one may refuse
#
# If the least sure rows go to a person, how many errors are left among the others?

# %%
curves = {name: swag.metrics.risk_coverage(p.probs, labels) for name, p in test.items()}
figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
for name, curve in curves.items():
    axis.plot(curve.coverage, curve.risk, label=name)
axis.set(xlabel="share of rows answered", ylabel="share of errors among them")
axis.legend()
half = {name: curve.risk[len(curve.risk) // 2] for name, curve in curves.items()}
assert all(half[name] < 1 - float(swag.metrics.accuracy(test[name].probs, labels)) for name in half)

# %% [markdown]
# `report.save("report.html")` writes all of this as one page without a network connection; `swag report`
# does it from files of predictions, whatever made them.
