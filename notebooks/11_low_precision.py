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
# # Averaging and low precision
#
# Weights of few bits lie on a grid. Two pictures explain why averaging helps there:
#
# 1. **Sharp against wide.** Rounding moves every weight by up to half a step. In a sharp minimum that costs
#    much, in a wide one little, and averages of SGD's iterates lie in wide regions.
# 2. **Low-precision SGD against SWALP.** Stochastic rounding is unbiased, so the iterates jump between grid
#    points *around* the minimum. None of them can be nearer than the grid allows, but their average, kept in
#    full precision, can [Yang et al. 2019](https://arxiv.org/abs/1904.11943).

# %%
import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import swag
from swag import lowprecision as lp

torch.set_num_threads(1)
plt.rcParams["svg.hashsalt"] = "swag"

# %% [markdown]
# ## The grids
#
# `fixed_point` has one step for all values, `block_floating_point` one for each block of values that share an
# exponent. Nearest rounding has the smaller error, stochastic rounding none on average.

# %%
x = torch.linspace(-2.4, 2.4, 400)
generator = torch.Generator().manual_seed(0)
nearest = lp.fixed_point(x, 4, 2, rounding="nearest")
draws = torch.stack([lp.fixed_point(x, 4, 2, generator=generator) for _ in range(400)])

figure, axis = plt.subplots(figsize=(6, 3))
axis.plot(x, nearest, label="nearest", color="tab:grey")
axis.plot(x, draws.mean(0), label="stochastic, mean of 400", color="tab:blue")
axis.plot(x, x, ":", color="black", linewidth=1)
axis.set(xlabel="x", ylabel="Q(x)", title="4 bits, 2 of them behind the point")
axis.legend()
figure.tight_layout()

inside = (x > -2) & (x < 1.75)
# Unbiased inside the range: the standard error of a mean of 400 is at most δ/2/20.
assert (draws.mean(0) - x)[inside].abs().max() < 5 * 0.25 / 2 / 20
# Outside, clamped: the bias is the distance to the range's end.
assert (draws[:, x > 1.75] == 1.75).all() and (draws[:, x < -2] == -2).all()

# %% [markdown]
# An all-zero block gives zeros, and the exponents are those of the slices they are asked for:

# %%
rows = torch.tensor([[1.0, 0.26, 0.1], [0.01, 0.0026, 0.001], [0.0, 0.0, 0.0]])
for dim in (None, 0):
    print(f"dim={dim}:", lp.block_floating_point(rows, 4, dim=dim, rounding="nearest").tolist())
assert (lp.block_floating_point(rows, 4, rounding="nearest")[1] == 0).all()
assert (lp.block_floating_point(rows, 4, dim=0, rounding="nearest")[1] != 0).any()

# %% [markdown]
# ## Sharp against wide
#
# A loss in one weight with two minima: a sharp one, a little lower, and a wide one. Rounding puts the weight
# up to half a step away. For curvature h and a minimum anywhere between grid points, the expected loss rises
# by h·δ²/24 (the variance of a uniform error is δ²/12).

# %%
sharp, wide = (-0.5, 40.0, 0.00), (0.55, 1.5, 0.05)


def loss(w: torch.Tensor) -> torch.Tensor:
    """The lower of two parabolas (place, curvature, height)."""
    return torch.minimum(*(c + 0.5 * h * (w - place) ** 2 for place, h, c in (sharp, wide)))


steps = torch.tensor([2.0**-k for k in range(5, 0, -1)])
offsets = torch.linspace(0, 1, 201)[:-1]
after = {
    name: torch.stack(
        [
            loss((torch.round(place / d + offsets) - offsets) * d).mean() for d in steps
        ]  # every position of the grid
    )
    for name, (place, _, _) in {"sharp": sharp, "wide": wide}.items()
}

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
w = torch.linspace(-1.1, 1.6, 600)
left.plot(w, loss(w), color="black")
grid = torch.arange(-1, 1.6, 0.25)
left.plot(grid, loss(grid), ".", color="tab:red", label="grid, δ = 1/4")
left.set(xlabel="w", ylabel="loss", ylim=(0, 1.2))
left.legend()
for name, values in after.items():
    right.loglog(steps, values, "o-", label=name, base=2)
right.set(xlabel="step δ", ylabel="expected loss after rounding")
right.legend()
figure.tight_layout()

for name, (_, h, c) in {"sharp": sharp, "wide": wide}.items():
    fine = steps <= 2.0**-3
    assert torch.allclose(after[name][fine], c + h * steps[fine] ** 2 / 24, rtol=0.05), name
# In full precision the sharp minimum is lower; on a coarse grid the wide one is.
assert loss(torch.tensor(sharp[0])) < loss(torch.tensor(wide[0]))
assert after["sharp"][-2] > after["wide"][-2]

# %% [markdown]
# ## Low-precision SGD against SWALP
#
# A quadratic whose minimum lies between the grid's points, with noisy gradients and weights of 10 bits
# that are rounded after every step. `LowPrecisionOptimizer` wraps any optimizer; the average is an ordinary
# `Collector`'s.

# %%
generator = torch.Generator().manual_seed(1)
dim, delta, n_steps = 256, 2.0**-4, 1500
minimum = (torch.randint(-8, 8, (dim,), generator=generator) + 0.5) * delta
curvature = torch.linspace(0.5, 2.0, dim)


def run(form: lp.Format | None) -> dict[str, torch.Tensor]:
    """Mean squared distance to the minimum: of the iterates, and of their average from step 100 on."""
    noise = torch.Generator().manual_seed(2)
    weight = nn.Parameter(torch.zeros(dim))
    optimizer: torch.optim.Optimizer = torch.optim.SGD([weight], lr=0.05)
    if form is not None:
        optimizer = lp.LowPrecisionOptimizer(optimizer, weights=form, seed=0)
    holder = nn.ParameterList([weight])
    collector = swag.Collector(holder, rank=0)
    found: dict[str, list[torch.Tensor]] = {"iterate": [], "average": []}
    for step in range(n_steps):
        weight.grad = curvature * (weight.detach() - minimum) + 0.3 * delta * torch.randn(
            dim, generator=noise
        )
        optimizer.step()
        found["iterate"].append((weight.detach() - minimum).square().mean())
        if step >= 100:
            collector.collect(holder)
            if step % 10 == 0:
                found["average"].append((collector.mean - minimum).square().mean())
    return {name: torch.stack(values) for name, values in found.items()}


low = run(lp.FixedPoint(10, 4))
full = run(None)
gap = delta**2 / 4  # no point of the grid is nearer to the minimum

figure, axis = plt.subplots(figsize=(6, 3.2))
axis.semilogy(full["iterate"], color="tab:grey", alpha=0.5, label="SGD, float32")
axis.semilogy(low["iterate"], color="tab:red", alpha=0.5, label="SGD, 10 bits")
axis.semilogy(range(100, n_steps, 10), low["average"], color="tab:blue", label="SWALP, 10 bits")
axis.axhline(gap, color="black", linestyle=":", label="quantisation gap (δ/2)²")
axis.set(xlabel="step", ylabel="mean squared distance")
axis.legend()
figure.tight_layout()

print(f"SGD-LP {low['iterate'][100:].mean():.2e}, gap {gap:.2e}, SWALP {low['average'][-1]:.2e}")
assert low["iterate"][100:].mean() >= gap  # low-precision SGD stalls above the gap
assert low["average"][-1] < 0.1 * gap  # SWALP goes far below it
assert low["average"][-1] < 0.3 * low["average"][len(low["average"]) // 10]  # and on, with more iterates

# %% [markdown]
# ## A network
#
# `low_precision` gives a copy of any model whose activations and back-propagated errors are rounded by hooks,
# and an optimizer that rounds gradients, weights and momentum. Here with words of 4 bits,
# on scikit-learn's digits.

# %%
digits = load_digits()
images = torch.from_numpy(digits.data).float() / 8 - 1
labels = torch.from_numpy(digits.target)
train, test = slice(0, 1200), slice(1200, None)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def error(net: nn.Module) -> float:
    """Percent wrong of the test rows."""
    return 100 * (net.eval()(images[test]).argmax(1) != labels[test]).double().mean().item()


lowbit, optimizer = lp.low_precision(model, sgd, lp.Precision.block(4), seed=0)
collector, shuffle = swag.Collector(lowbit, rank=10), torch.Generator().manual_seed(0)
iterates = []
for epoch in range(20):
    lowbit.train()
    for chosen in torch.randperm(1200, generator=shuffle).split(50):
        optimizer.zero_grad()
        F.cross_entropy(lowbit(images[train][chosen]), labels[train][chosen]).backward()
        optimizer.step()
    if epoch >= 8:
        collector.collect(lowbit)
        iterates.append(error(lowbit))

average = copy.deepcopy(model)
collector.layout.write_(average, collector.mean)
spread = swag.Ensemble(average, collector.swag(), 10, seed=0)(images[test])
swag_error = 100 * (spread.probs.argmax(1) != labels[test]).double().mean().item()
mean_iterate = sum(iterates) / len(iterates)
print(
    f"4-bit iterates {mean_iterate:.1f} %, SWALP {error(average):.1f} %, SWAG of the run {swag_error:.1f} %"
)
assert error(average) < mean_iterate

# %% [markdown]
# ## Two bits
#
# SQWA's five phases in one call: train, quantise and retrain with a cyclical rate while capturing low-bit
# models, average them, quantise the average, fine-tune.

# %%
batches = list(zip(images[train].split(50), labels[train].split(50), strict=True))
found = lp.sqwa(
    model,
    batches,
    lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
    sgd,
    lr_max=0.05,
    lr_min=0.005,
    tune_lr=0.01,
    float_epochs=10,
    cycle=2,
    n_captures=4,
    tune_epochs=3,
)
direct = lp.quantize_model(found.direct, weights=lp.SymmetricUniform(2, dim=0))
print(
    f"float {error(found.direct):.1f} %, rounded to 2 bits {error(direct):.1f} %, "
    f"SQWA {error(found.model):.1f} %"
)
assert error(found.model) < error(direct)
assert all(len(row.unique()) <= 3 for row in lp.plain_copy(found.model)[0].weight)
