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
# # From a folder of checkpoints to a posterior
#
# The training is over, the machine is gone, and what is left is a folder of files. That is enough: the
# weights of several epochs ARE the snapshots.

# %%
import contextlib
import io
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

import swag
from swag.cli import main as swag_command
from swag.demo.data import digits
from swag.demo.network import convnet
from swag.demo.training import Batches

torch.set_num_threads(1)
torch.manual_seed(0)
task = digits(seed=0)
temporary = tempfile.TemporaryDirectory()  # gone with the kernel
folder = Path(temporary.name)
run = folder / "run"
run.mkdir()

# %% [markdown]
# ## Somebody's training run
#
# It saves `state_dict()`s, as everybody's does, and knows nothing of this library.

# %%
model = convnet((16, 32, 32), 10, strides=(1, 2, 1), seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
batches = Batches(task.train, seed=0)
for epoch in range(30):
    model.train()
    for images, digit in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(images), digit).backward()
        optimizer.step()
    if epoch >= 14:
        torch.save({"epoch": epoch, "model": model.state_dict()}, run / f"epoch{epoch}.pt")
print(len(list(run.iterdir())), "files,", sorted(path.name for path in run.iterdir())[0], "…")

# %% [markdown]
# ## The posterior
#
# `fit_checkpoints` reads them one after the other, in natural order, piece by piece: memory is that of the
# posterior, not of the files. Pickled code is never run. The result is bit for bit what a collector would
# have seen.

# %%
collector = swag.fit_checkpoints(run, rank=15, model=model)
by_hand = swag.Collector(model, rank=15)
for epoch in range(14, 30):
    model.load_state_dict(torch.load(run / f"epoch{epoch}.pt", weights_only=True)["model"])
    by_hand.collect(model)
assert torch.equal(collector.mean, by_hand.mean) and torch.equal(collector.sq_dev, by_hand.sq_dev)
assert torch.equal(collector.deviations, by_hand.deviations)
collector

# %% [markdown]
# ## Does it look healthy?
#
# Are neighbouring snapshots copies of each other? Is there any spread? How many directions does the path
# really have?

# %%
diagnosis = collector.swag().diagnose()
print(diagnosis)
assert diagnosis.effective_rank > 2

# %% [markdown]
# What an unhealthy one looks like: checkpoints of a network that has stopped learning.

# %%
still = folder / "still"
still.mkdir()
state = torch.load(run / "epoch29.pt", weights_only=True)["model"]
for epoch in range(6):
    nearly = {
        name: value * (1 + 1e-7 * epoch) if value.is_floating_point() else value
        for name, value in state.items()
    }
    torch.save(nearly, still / f"epoch{epoch}.pt")
warnings = swag.fit_checkpoints(still, rank=5, model=model).swag().diagnose().warnings
print(*warnings, sep="\n")
assert warnings

# %% [markdown]
# ## Better than the last checkpoint?
#
# The last file is one point of a path that wanders. Weights drawn from the posterior need batch-norm
# statistics of their own, from training inputs (no labels); the ensemble computes them.

# %%
test, labels = task.test.images, task.test.labels
predictions = {
    "last checkpoint": swag.Ensemble.from_models([model]).predict(test),
    "SWA": swag.Ensemble(model, collector.swa(), bn_loader=task.bn_loader).predict(test),
    "SWAG": swag.Ensemble(model, collector.swag(), 20, bn_loader=task.bn_loader, seed=0).predict(test),
}
report = swag.Report(predictions, labels)
print(report)
nll = {name: float(swag.metrics.nll(p.probs, labels)) for name, p in predictions.items()}
assert nll["SWA"] < nll["last checkpoint"] and nll["SWAG"] < nll["last checkpoint"]

# %% [markdown]
# ## The same from a shell
#
# `swag fit run -o posterior.safetensors`, `swag info posterior.safetensors`, `swag sample …`: no Python of
# your own.


# %%
def shell(*words):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = swag_command([str(word) for word in words])
    assert not code
    return output.getvalue().replace(str(folder), "…")


posterior_file = folder / "posterior.safetensors"
shell("fit", run, "-o", posterior_file, "--rank", 15)
print(shell("info", posterior_file))

# %% [markdown]
# Without a model the command takes every floating-point tensor but the running statistics; for this network
# these are the same weights.

# %%
from_shell = swag.load(posterior_file)
print(type(from_shell).__name__, from_shell.mean.shape)
assert torch.equal(from_shell.mean, collector.mean)
assert torch.equal(from_shell.variance, collector.swag().variance)
