"""Control-variate statistics: a float64 oracle, exact ones on trained networks, and the edges."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import swag
from swag.parameters import Layout
from tests.cases import CASES, N_CLASSES, N_FEATURES, features
from tests.checks import Array, array, assert_close

CASE = {case.name: case for case in CASES}
EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "batchnorm"
FRESH = pytest.mark.parametrize("fresh", [False, True], ids=["fixed", "fresh"])


def net(seed: int = 0) -> nn.Sequential:
    """Two batch-norm layers, '1' and '4', for features (N, 8)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(N_FEATURES, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 5),
            nn.BatchNorm1d(5),
            nn.ReLU(),
            nn.Linear(5, N_CLASSES),
        )


def gaussian(model: nn.Module, *, std: float = 0.1, seed: int = 0) -> swag.LowRankGaussian:
    layout = Layout.of(model)
    mean = layout.flatten(model)
    rows = std * torch.randn(layout.size, 2, generator=torch.Generator().manual_seed(seed)).to(mean.dtype)
    return swag.LowRankGaussian(mean, torch.full_like(mean, std**2), rows, layout=layout)


def training_batches(sizes: Iterable[int] = (40, 60, 25)) -> list[Tensor]:
    """Batches that differ from each other, of sizes no subset below has."""
    return [features(n, seed=n) * (1 + i / 2) + i for i, n in enumerate(sizes)]


def statistics(ensemble: swag.Ensemble, index: int = 0) -> dict[str, Tensor]:
    """A member's running means and variances by name."""
    buffers = ensemble.member(index).state_dict()
    return {name: value for name, value in buffers.items() if name.endswith(("running_mean", "running_var"))}


def assert_same_statistics(got: dict[str, Tensor], expected: dict[str, Tensor], rtol: float) -> None:
    assert got.keys() == expected.keys() and got
    for name, value in expected.items():
        scale = array(value) if name.endswith("var") else np.sqrt(array(expected[name[:-4] + "var"]))
        assert_close(got[name], value, rtol=rtol, scale=scale + np.abs(array(value)))


@dataclass
class Recorder:
    """A `forward` that keeps every batch it is given."""

    seen: list[Any]

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        self.seen.append(batch)
        return model(batch[0] if isinstance(batch, tuple | list) else batch)

    def subsets(self, rows: int) -> list[Tensor]:
        """Those with so many rows, which no batch of the loader has."""
        return [batch for batch in self.seen if len(batch) == rows]


@dataclass(frozen=True)
class Given:
    """A posterior of given weights around a given mean, without components."""

    thetas: Tensor
    mean: Tensor
    layout: Layout

    def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        return self.thetas[:n_samples]


# --- the formula -----------------------------------------------------------------------------------------


def oracle(model: nn.Sequential, theta: Tensor, batches: list[Tensor], subset: Tensor) -> dict[str, Array]:
    """The formula written out in float64 numpy for `net`, where `model` has the mean weights."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    centre = {n: array(p) for n, p in model.named_parameters()}
    pieces = np.split(array(theta), np.cumsum([s.numel() for s in shapes])[:-1])
    sample = {n: piece.reshape(s) for n, piece, s in zip(names, pieces, shapes, strict=True)}
    eps = 1e-5

    def linear(w: dict[str, Array], layer: int, x: Array) -> Array:
        return x @ w[f"{layer}.weight"].T + w[f"{layer}.bias"]

    def normalise(w: dict[str, Array], layer: int, y: Array, mean: Array, variance: Array) -> Array:
        z = (y - mean) / np.sqrt(variance + eps) * w[f"{layer}.weight"] + w[f"{layer}.bias"]
        return np.maximum(z, 0)

    found, xs = {}, [array(batch) for batch in batches]
    at_centre = at_sample = array(subset)
    for layer in (1, 4):
        # The mean weights over all the data, each batch normalised by itself.
        ys = [linear(centre, layer - 1, x) for x in xs]
        full = np.concatenate(ys)
        full_mean, full_variance = full.mean(0), full.var(0, ddof=1)
        xs = [normalise(centre, layer, y, y.mean(0), y.var(0)) for y in ys]
        # The mean weights over the subset, normalised by those.
        y = linear(centre, layer - 1, at_centre)
        centre_mean, centre_variance = y.mean(0), y.var(0)
        at_centre = normalise(centre, layer, y, full_mean, full_variance)
        # The sample over the subset, normalised by what it is given.
        y = linear(sample, layer - 1, at_sample)
        ratio = (y.var(0) + eps) / (centre_variance + eps)
        mean = y.mean(0) + np.sqrt(ratio) * (full_mean - centre_mean)
        variance = ratio * (full_variance + eps) - eps
        at_sample = normalise(sample, layer, y, mean, variance)
        found |= {f"{layer}.running_mean": mean, f"{layer}.running_var": variance}
    return found


@FRESH
def test_statistics_equal_the_formula_in_float64(fresh: bool) -> None:
    model, batches, recorder = net(), training_batches(), Recorder([])
    posterior, policy = gaussian(model), swag.ControlVariateBatchNorm(rows=16, fresh=fresh)
    ensemble = swag.Ensemble(
        model, posterior, 4, seed=0, bn_loader=batches, batchnorm=policy, forward=recorder
    )
    subsets = recorder.subsets(16)
    for index in range(4):
        # One pass at the mean weights and one at the sample's with each subset.
        subset = subsets[2 * index if fresh else 0]
        expected = oracle(model, ensemble.thetas[index], batches, subset)
        got = statistics(ensemble, index)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(got[name], value, rtol=1e-5, scale=np.abs(value) + 1)


@FRESH
@pytest.mark.parametrize("posterior", ["point", "scale 0", "mixture of points"])
def test_at_the_mean_weights_the_full_statistics_come_out(posterior: str, fresh: bool) -> None:
    models = [net(seed) for seed in (0, 1)]
    layout = Layout.of(models[0])
    points = [swag.PointMass(layout.flatten(model), layout=layout) for model in models]
    rows = torch.randn(layout.size, 2)
    at_zero = swag.LowRankGaussian(points[0].mean, torch.zeros(layout.size), 0 * rows, layout=layout)
    chosen = {"point": points[0], "scale 0": at_zero, "mixture of points": swag.Mixture(points)}[posterior]
    policy = swag.ControlVariateBatchNorm(rows=8, fresh=fresh)
    ensemble = swag.Ensemble(models[0], chosen, 4, seed=0, bn_loader=training_batches(), batchnorm=policy)
    exact = swag.Ensemble(models[0], chosen, 4, seed=0, bn_loader=training_batches())
    for index in range(ensemble.n_samples):
        assert_same_statistics(statistics(ensemble, index), statistics(exact, index), rtol=2e-7)
    assert torch.equal(ensemble.member(0)[1].num_batches_tracked, torch.tensor(3))


@FRESH
def test_channels_that_are_the_means_times_a_number_are_exact(fresh: bool) -> None:
    """μ and √v grow with the channel, and so must the correction."""
    model = net()
    layout = Layout.of(model)
    grown = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (0, 3):
            factor = 0.5 + torch.rand(len(grown[layer].bias)) * 2
            grown[layer].weight.mul_(factor[:, None])
            grown[layer].bias.mul_(factor).add_(torch.randn(len(factor)))  # a shift is harmless too
        for layer in (1, 4):
            model[layer].eps = grown[layer].eps = 1e-12
    posterior = Given(layout.flatten(grown)[None], layout.flatten(model), layout)
    policy = swag.ControlVariateBatchNorm(rows=8, fresh=fresh)
    ensemble = swag.Ensemble(model, posterior, 1, bn_loader=training_batches(), batchnorm=policy)
    exact = swag.Ensemble(model, posterior, 1, bn_loader=training_batches())
    assert_same_statistics(statistics(ensemble), statistics(exact), rtol=2e-6)


@pytest.mark.parametrize("case", ["batchnorm_1d", "batchnorm_2d_3d"])
def test_with_all_rows_in_the_subset_it_is_close_to_exact(case: str) -> None:
    """What is left is of the order n/(n−1) − 1 times the deviation of the weights."""
    model, x = CASE[case].build(), features(50)
    posterior, data = gaussian(model, std=0.3), [features(400, seed=9) * 2 + 1]

    def probs(policy: Any) -> Array:
        return array(swag.Ensemble(model, posterior, 8, seed=0, bn_loader=data, batchnorm=policy)(x).probs)

    exact = probs(swag.ExactBatchNorm())
    all_rows = np.abs(probs(swag.ControlVariateBatchNorm(rows=400, fresh=False)) - exact).max()
    few_rows = np.abs(probs(swag.ControlVariateBatchNorm(rows=20, fresh=False)) - exact).max()
    assert all_rows < 2e-4 and few_rows > 10 * all_rows


# --- on trained networks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A network after training on handwritten digits, and its posteriors."""

    model: nn.Module
    posteriors: list[swag.LowRankGaussian]  # of this network, and of one from other initial weights
    train: Tensor
    test: Tensor
    labels: Tensor

    def predict(
        self,
        batchnorm: Any,
        *,
        posterior: swag.Posterior | None = None,
        n: int = 20,
        keep_members: bool = False,
    ) -> swag.CategoricalPredictive:
        return swag.Ensemble(
            self.model,
            self.posteriors[0] if posterior is None else posterior,
            n,
            seed=0,
            bn_loader=self.train.split(128),
            batchnorm=batchnorm,
            keep_members=keep_members,
        )(self.test)


def digit_net(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )


@pytest.fixture(scope="module")
def trained() -> Trained:
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    models, posteriors = [], []
    for seed in (0, 1):
        model = digit_net(seed).train()
        models.append(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        collector = swag.Collector(model, rank=10)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(18):
            for batch in train[torch.randperm(len(train), generator=generator)].split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
            if epoch >= 6:
                collector.collect(model)
        posteriors.append(collector.swag())
    return Trained(models[0], posteriors, x[train], x[test], y[test])


@dataclass(frozen=True)
class PlainSubset:
    """Statistics from a fresh subset a sample, without a correction."""

    rows: int
    seed: int = 0
    frozen: tuple[str, ...] = ()
    needs_loader: bool = True

    def statistics(self, members: Any, layers: Any, loader: Any, forward: Any) -> list[dict[str, Tensor]]:
        data, found = torch.cat(list(loader)), []
        generator = torch.Generator().manual_seed(self.seed)
        for index in range(len(members)):
            members.load_(index)
            subset = data[torch.randperm(len(data), generator=generator)[: self.rows]]
            swag.refresh_batchnorm_(members.module, [subset], forward=forward)
            buffers = members.module.state_dict()
            found.append({n: v.clone() for n, v in buffers.items() if n.endswith(("_mean", "_var"))})
        return found


def error(predictive: swag.CategoricalPredictive, exact: swag.CategoricalPredictive) -> float:
    """Mean |Δp| over rows and classes."""
    return (predictive.probs - exact.probs).abs().mean().item()


def monte_carlo_error(exact: swag.CategoricalPredictive) -> float:
    return (exact.member_probs.std(0) / exact.n_samples**0.5).mean().item()


@FRESH
def test_a_trained_network_is_predicted_far_within_the_monte_carlo_error(
    trained: Trained, fresh: bool
) -> None:
    exact = trained.predict(swag.ExactBatchNorm(), keep_members=True)
    assert (exact.probs.argmax(1) == trained.labels).double().mean() > 0.95
    errors = [
        error(trained.predict(swag.ControlVariateBatchNorm(rows=128, seed=seed, fresh=fresh)), exact)
        for seed in range(4)
    ]
    plain = [error(trained.predict(PlainSubset(128, seed)), exact) for seed in range(4)]
    assert max(errors) < 0.4 * monte_carlo_error(exact)
    assert max(errors) < min(plain) / 2
    assert max(errors) < error(trained.predict(swag.KeepBatchNorm()), exact) / 5


def test_more_rows_are_better(trained: Trained) -> None:
    exact = trained.predict(swag.ExactBatchNorm())

    def mean_error(rows: int) -> float:
        policies = [swag.ControlVariateBatchNorm(rows=rows, seed=seed, fresh=False) for seed in range(4)]
        return float(np.mean([error(trained.predict(policy), exact) for policy in policies]))

    assert mean_error(400) < mean_error(25) / 2


@FRESH
def test_components_of_a_mixture_are_corrected_by_their_own_means(trained: Trained, fresh: bool) -> None:
    mixture = swag.Mixture(trained.posteriors)
    policy = swag.ControlVariateBatchNorm(rows=128, fresh=fresh)
    exact = trained.predict(swag.ExactBatchNorm(), posterior=mixture, keep_members=True)
    own = error(trained.predict(policy, posterior=mixture), exact)
    # The same draws, with the mean of the mixture (a network that knows nothing) as their one centre.
    thetas = mixture.sample(20, generator=torch.Generator().manual_seed(0))
    common = Given(thetas, mixture.mean, mixture.layout)
    assert torch.equal(
        trained.predict(swag.ExactBatchNorm(), posterior=common).probs, exact.probs
    )  # so it is the centre alone that differs
    with_common = error(trained.predict(policy, posterior=common), exact)
    assert own < 0.3 * monte_carlo_error(exact)
    assert with_common > 5 * own


# --- which rows, and how they are read -------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [1, 2])
def test_fixed_subsets_cost_one_pass_a_sample_and_one_a_component(n_components: int) -> None:
    model, recorder = net(), Recorder([])
    posterior = swag.Mixture([gaussian(net(seed)) for seed in range(n_components)])
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=False)
    swag.Ensemble(model, posterior, 6, bn_loader=training_batches(), batchnorm=policy, forward=recorder)
    subsets = recorder.subsets(16)
    assert len(subsets) == 6 + n_components
    assert all(torch.equal(subset, subsets[0]) for subset in subsets)
    assert len(set(map(tuple, subsets[0].tolist()))) == 16
    assert set(map(tuple, subsets[0].tolist())) <= set(map(tuple, torch.cat(training_batches()).tolist()))


def test_fresh_subsets_are_each_samples_own_and_cost_two_passes() -> None:
    model, recorder = net(), Recorder([])
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=True)
    swag.Ensemble(model, gaussian(model), 6, bn_loader=training_batches(), batchnorm=policy, forward=recorder)
    subsets = recorder.subsets(16)
    assert len(subsets) == 2 * 6
    assert all(torch.equal(subsets[i], subsets[i + 1]) for i in range(0, 12, 2))
    distinct = {tuple(sorted(map(tuple, subset.tolist()))) for subset in subsets}
    assert len(distinct) == 6


@FRESH
def test_seeds_repeat_the_statistics_and_leave_the_global_generator_alone(fresh: bool) -> None:
    model, x = net(), features(9)

    def probs(seed: int) -> Tensor:
        policy = swag.ControlVariateBatchNorm(rows=16, seed=seed, fresh=fresh)
        batches = training_batches()
        return swag.Ensemble(model, gaussian(model), 4, seed=0, bn_loader=batches, batchnorm=policy)(x).probs

    before = torch.get_rng_state()
    first = probs(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(5)
    assert torch.equal(probs(3), first)
    assert not torch.equal(probs(4), first)


@FRESH
def test_the_first_members_do_not_depend_on_how_many_there_are(fresh: bool) -> None:
    model = net()
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=fresh)
    few, many = (
        swag.Ensemble(model, gaussian(model), n, seed=0, bn_loader=training_batches(), batchnorm=policy)
        for n in (2, 5)
    )
    for index in range(2):
        assert_same_statistics(statistics(few, index), statistics(many, index), rtol=0)


class CountedLoader:
    """An iterable that counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.reads += 1
        yield from training_batches()


@FRESH
def test_the_loader_is_read_once_and_may_be_a_one_shot_iterator(fresh: bool) -> None:
    model, loader = net(), CountedLoader()
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=fresh)
    listed, counted, once = (
        swag.Ensemble(model, gaussian(model), 3, seed=0, bn_loader=batches, batchnorm=policy)
        for batches in (training_batches(), loader, iter(training_batches()))
    )
    assert loader.reads == 1
    for index in range(3):
        for other in (counted, once):
            assert_same_statistics(statistics(other, index), statistics(listed, index), rtol=0)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        return self.body(left if right is None else left + right)


class Batch(NamedTuple):
    x: Tensor
    labels: Tensor


MAKE = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x, torch.arange(len(x))),
    "list": lambda x: [x, "a name"],
    "dict": lambda x: {"left": x},
    "dict of two": lambda x: {"left": x / 2, "right": x / 2},
    "named tuple": lambda x: Batch(x, torch.arange(len(x))),
}


@FRESH
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_batches_of_any_kind(make: Any, fresh: bool) -> None:
    model = TwoInputs()
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=fresh)

    def built(batches: list[Any], forward: Any = None) -> swag.Ensemble:
        return swag.Ensemble(
            model, gaussian(model), 3, seed=0, bn_loader=batches, batchnorm=policy, forward=forward
        )

    expected = built(training_batches())
    got = [built([make(x) for x in training_batches()])]
    if make is MAKE["named tuple"]:  # subsets have attributes too
        got.append(built([make(x) for x in training_batches()], lambda model, batch: model(batch.x)))
    for ensemble in got:
        for index in range(3):
            assert_same_statistics(statistics(ensemble, index), statistics(expected, index), rtol=1e-6)


# --- which layers ----------------------------------------------------------------------------------------


def sync() -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(CASE["batchnorm_2d_3d"].build())


def sequences() -> nn.Module:
    """BatchNorm1d over (N, C, L)."""
    return nn.Sequential(
        nn.Unflatten(1, (2, 4)),
        nn.Conv1d(2, 3, 2),
        nn.BatchNorm1d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(9, N_CLASSES),
    )


@FRESH
@pytest.mark.parametrize("build", [net, sequences, CASE["batchnorm_2d_3d"].build, sync])
def test_every_kind_of_layer_is_corrected(build: Any, fresh: bool) -> None:
    """Near the mean weights, statistics of 32 rows are far nearer to exact ones than their own are."""
    model = build()
    posterior, batches = gaussian(model, std=0.0005), features(250).split(50)
    policies = [swag.ControlVariateBatchNorm(rows=32, fresh=fresh), swag.ExactBatchNorm(), PlainSubset(32)]
    corrected, exact, plain = (
        swag.Ensemble(model, posterior, 4, seed=0, bn_loader=batches, batchnorm=policy) for policy in policies
    )
    for index in range(4):
        for name, expected in statistics(exact, index).items():
            off = (statistics(corrected, index)[name] - expected).norm()
            plainly_off = (statistics(plain, index)[name] - expected).norm()
            assert off < 0.3 * plainly_off, name


@FRESH
@pytest.mark.parametrize("how", ["named", "in eval mode"])
def test_frozen_layers_stay_as_they_are(how: str, fresh: bool) -> None:
    model = net().train()
    model(features(30) * 3)
    frozen = ("1",) if how == "named" else ()
    if how == "in eval mode":
        model[1].eval()
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=fresh, frozen=frozen)
    ensemble = swag.Ensemble(
        model, gaussian(model), 3, seed=0, bn_loader=training_batches(), batchnorm=policy
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for index in range(3):
        found = statistics(ensemble, index)
        for leaf in ("running_mean", "running_var"):
            assert torch.equal(found[f"1.{leaf}"], before[f"1.{leaf}"])
            assert not torch.equal(found[f"4.{leaf}"], before[f"4.{leaf}"])


def test_layers_without_running_statistics_are_left_alone() -> None:
    model = net()
    model[1] = nn.BatchNorm1d(6, track_running_stats=False)
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=False)
    ensemble = swag.Ensemble(
        model, gaussian(model), 3, seed=0, bn_loader=training_batches(), batchnorm=policy
    )
    assert set(statistics(ensemble)) == {"4.running_mean", "4.running_var"}


def test_a_layer_that_runs_twice_is_refused_by_name() -> None:
    model = CASE["shared_batchnorm"].build()
    with pytest.raises(swag.InputError, match=r"the layer 'norm' runs more than once.*ExactBatchNorm"):
        swag.Ensemble(
            model,
            gaussian(model),
            3,
            bn_loader=training_batches(),
            batchnorm=swag.ControlVariateBatchNorm(rows=16, fresh=False),
        )


class Gated(nn.Module):
    """Runs its batch norm only where a weight is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.tensor(-1.0))
        self.first, self.second = nn.BatchNorm1d(N_FEATURES), nn.BatchNorm1d(N_FEATURES)
        self.head = nn.Linear(N_FEATURES, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        # Over a whole batch of the loader always, over a subset only with an open gate.
        return self.head(self.second(x) if self.gate > 0 or len(x) != 16 else x)


def test_a_layer_that_the_mean_weights_do_not_run_is_refused_by_name() -> None:
    model = Gated()
    layout = Layout.of(model)
    mean = layout.flatten(model)
    theta = mean.clone()
    theta[0] = 1.0
    with pytest.raises(swag.InputError, match=r"runs the layer 'second'.*mean weights does not.*Exact"):
        swag.Ensemble(
            model,
            Given(theta[None], mean, layout),
            1,
            bn_loader=training_batches(),
            batchnorm=swag.ControlVariateBatchNorm(rows=16, fresh=False),
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    batches = [batch.to(dtype) for batch in training_batches()]
    policy = swag.ControlVariateBatchNorm(rows=32, fresh=False)
    corrected, exact = (
        swag.Ensemble(model, gaussian(model, std=0.0005), 3, seed=0, bn_loader=batches, batchnorm=way)
        for way in (policy, swag.ExactBatchNorm())
    )
    for index in range(3):
        found = statistics(corrected, index)
        assert all(value.dtype == dtype for value in found.values())
        assert_same_statistics(found, statistics(exact, index), rtol=0.02)


# --- channels without a variance -------------------------------------------------------------------------


@FRESH
def test_constant_channels_stay_finite(fresh: bool) -> None:
    """One has no weights, one is alive in a single row of the data, and layer '4' sees a dead unit."""
    model = net()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].weight[1] = torch.eye(N_FEATURES)[7]
        model[1].bias[2] = -100.0
    data = features(300, seed=3)
    data[:, 7] = 0
    data[150, 7] = 50.0
    layout = Layout.of(model)
    mean = layout.flatten(model)
    thetas = mean + 0.05 * torch.randn(6, layout.size, generator=torch.Generator().manual_seed(0))
    for index in range(0, 6, 2):  # in every second sample those channels are still constant
        written = copy.deepcopy(model)
        torch.nn.utils.vector_to_parameters(thetas[index].clone(), written.parameters())
        with torch.no_grad():
            written[0].weight[0] = 0
            written[0].weight[1] = torch.eye(N_FEATURES)[7]
        thetas[index] = layout.flatten(written)
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=fresh)
    ensemble = swag.Ensemble(
        model, Given(thetas, mean, layout), 6, bn_loader=data.split(100), batchnorm=policy
    )
    for index in range(6):
        for name, value in statistics(ensemble, index).items():
            assert value.isfinite().all(), name
            assert name.endswith("mean") or (value >= 0).all()
    assert statistics(ensemble, 0)["1.running_var"][0] < 1e-10
    probs = ensemble(features(50)).probs
    assert probs.isfinite().all()


@pytest.mark.parametrize("seed", range(4))
def test_a_channel_that_only_a_sample_has_constant_has_no_negative_variance(seed: int) -> None:
    """Where the subset overstates the mean weights' variance, r·(v* + ε) − ε is below zero at v = 0."""
    model = net()
    layout = Layout.of(model)
    mean = layout.flatten(model)
    with torch.no_grad():
        model[0].weight.zero_()
    posterior = Given(layout.flatten(model)[None], mean, layout)
    policy = swag.ControlVariateBatchNorm(rows=4, seed=seed, fresh=False)
    ensemble = swag.Ensemble(model, posterior, 1, bn_loader=training_batches(), batchnorm=policy)
    variance = statistics(ensemble)["1.running_var"]
    assert (variance >= 0).all() and (variance < 1e-3).all()


# --- bad input, and the user's model ---------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 0, -5, 2.5, True, "128", None])
def test_impossible_subsets_are_refused_at_once(rows: Any) -> None:
    with pytest.raises(swag.InputError, match=r"rows: got .*2 rows or more"):
        swag.ControlVariateBatchNorm(rows=rows, fresh=False)


@FRESH
def test_a_subset_larger_than_the_data_is_refused(fresh: bool) -> None:
    model = net()
    policy = swag.ControlVariateBatchNorm(rows=126, fresh=fresh)
    with pytest.raises(swag.InputError, match=r"rows: asked for a subset of 126 and bn_loader gave 125 rows"):
        swag.Ensemble(model, gaussian(model), 2, bn_loader=training_batches(), batchnorm=policy)


def test_batches_without_rows_are_refused() -> None:
    model = net()
    with pytest.raises(swag.InputError, match="bn_loader: cannot pick rows out of a object"):
        swag.Ensemble(
            model,
            gaussian(model),
            2,
            bn_loader=[object()],
            batchnorm=swag.ControlVariateBatchNorm(rows=2, fresh=False),
            forward=lambda model, batch: model(features(5)),
        )


def state(model: nn.Module) -> dict[str, Any]:
    """All there is to see of a model."""
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()],
        "momenta": [getattr(module, "momentum", None) for module in model.modules()],
        "where": [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "tensors": [tensor.tolist() for tensor in model.state_dict().values()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
    }


def failing_loader(error: type[BaseException]) -> Iterator[Tensor]:
    yield from training_batches()
    raise error("the loader failed")


@FRESH
@pytest.mark.parametrize("where", ["nowhere", "loader", "pass", "mean", "sample", "predict"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_users_model_is_never_touched(error: type[BaseException], where: str, fresh: bool) -> None:
    model = net().train()
    model(features(9)).sum().backward()
    model[2].eval()
    model[6].bias.requires_grad_(False)
    before, calls = state(model), Recorder([])
    # Which call of `forward` fails: over the 2nd batch of the loader; the subset at the mean; at a sample.
    nth = {"pass": (0, 60), "mean": (0, 16), "sample": (3, 16), "predict": (0, 7)}.get(where)

    def forward(given: nn.Module, batch: Tensor) -> Tensor:
        calls.seen.append(batch)
        if nth is not None and len(batch) == nth[1] and len(calls.subsets(nth[1])) > nth[0]:
            raise error(f"the forward pass failed in the {where}")
        return given(batch)

    loader = failing_loader(error) if where == "loader" else training_batches()
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=fresh)

    def run() -> None:
        ensemble = swag.Ensemble(
            model, gaussian(model), 4, seed=0, bn_loader=loader, batchnorm=policy, forward=forward
        )
        ensemble(features(7))

    if where == "nowhere":
        run()
    else:
        with pytest.raises(error, match="failed"):
            run()
    assert state(model) == before
