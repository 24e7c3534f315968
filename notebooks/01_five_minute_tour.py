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
# # Five minutes with swag
#
# Train a network as always, let a collector watch the weights of the last epochs, and get more than a
# prediction: how sure it is, and a report that says whether to believe that.

# %%
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

import swag
from swag.demo.data import digits
from swag.demo.network import convnet

torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# ## Data and model: yours
#
# Here scikit-learn's 8×8 digits, with noise. Any module, any optimizer, any loader that gives batches will
# do.

# %%
task = digits(seed=0)
x, y = task.train.images, task.train.labels
train_loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=50, shuffle=True)
model = convnet((16, 32, 32), 10, strides=(1, 2, 1), seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

# %% [markdown]
# ## Collect
#
# Two lines are new in the training loop: each of the last 15 epochs leaves a snapshot. The rate stays where
# it is to the end, so that the weights keep moving.

# %%
collector = swag.Collector(model, rank=15)
for epoch in range(30):
    model.train()
    for images, labels in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    if epoch >= 15:
        collector.collect(model)

collector

# %% [markdown]
# ## Sample and predict
#
# The collector reads out as a point (SWA), a diagonal Gaussian or SWAG. An ensemble draws weights from it,
# gives each draw its batch-norm statistics, and averages the predictions. Your model is not touched.

# %%
test = task.test.images
ensembles = {
    "last epoch": swag.Ensemble.from_models([model]),
    "SWA": swag.Ensemble(model, collector.swa(), bn_loader=train_loader),
    "SWAG": swag.Ensemble(model, collector.swag(), n_samples=20, bn_loader=train_loader, seed=0),
}
predictions = {name: ensemble.predict(test) for name, ensemble in ensembles.items()}
predictions["SWAG"]

# %% [markdown]
# A predictive knows probabilities, the entropy of each row, and how much of it is the members' disagreement.

# %%
predictive = predictions["SWAG"]
row = int(predictive.mutual_information.argmax())
top = predictive.probs[row].topk(2)
print(f"row {row}: {top.indices.tolist()} with {[round(p, 2) for p in top.values.tolist()]}, ", end="")
print(
    f"entropy {predictive.entropy[row]:.2f} nats, {predictive.mutual_information[row]:.2f} of it disagreement"
)
assert torch.allclose(predictive.probs.sum(1), torch.ones(len(task.test)), atol=1e-5)
assert bool((predictive.mutual_information <= predictive.entropy + 1e-6).all())

# %% [markdown]
# ## Score
#
# A report has an interval beside every figure, and compares each method with the first, row by row.

# %%
patches = {name: ensemble.predict(task.ood) for name, ensemble in ensembles.items()}
report = swag.Report(predictions, task.test.labels, ood={task.ood_name: patches})
print(report)

# %%
metrics = swag.metrics
nll = {name: float(metrics.nll(p.probs, task.test.labels)) for name, p in predictions.items()}
assert nll["SWA"] < nll["last epoch"] and nll["SWAG"] < nll["last epoch"]

# %% [markdown]
# ## Keep
#
# Posteriors are safetensors files, reports are HTML or JSON. Nothing is ever unpickled.

# %%
with tempfile.TemporaryDirectory() as folder:
    swag.save(Path(folder) / "posterior.safetensors", collector.swag())
    again = swag.load(Path(folder) / "posterior.safetensors")
    report.save(Path(folder) / "report.html")
    print(sorted(path.name for path in Path(folder).iterdir()))
assert torch.equal(again.mean, collector.mean)

# %% [markdown]
# ## Several runs: MultiSWAG
#
# One call trains from several seeds and mixes their posteriors. The schedule, the snapshots and, with
# `checkpoint=`, exact resumption after a crash are part of it.

# %%
members = swag.training.train_multi(
    lambda seed: convnet((8, 16, 16), 10, strides=(1, 2, 1), seed=seed),
    [0, 1],
    [(x[i : i + 50], y[i : i + 50]) for i in range(0, len(x), 50)],
    F.cross_entropy,
    epochs=8,
    swa_start=0.5,
)
multiswag = members.ensemble(n_samples=6, seed=0)
print(multiswag, multiswag.predict(test))
assert multiswag.predict(test).n_samples == 6

# %% [markdown]
# Where to go on: [SWA and the loss surface](02_swa_and_the_loss_surface.ipynb), [SWAG step by
# step](03_swag_step_by_step.ipynb), [the report](06_calibration_and_the_report.ipynb), and, if you have
# checkpoints but no time to train, [from a folder of
# checkpoints](09_from_checkpoints_to_a_posterior.ipynb).
