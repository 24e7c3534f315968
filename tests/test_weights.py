"""Members' weights kept, or drawn again under a budget; and the points they are drawn around."""

import pytest
import torch
from torch import nn

import swag
from swag.posterior.protocol import centres, sample_range
from swag.weights import Kept, Redrawn, draw
from tests import cases

CPU = torch.device("cpu")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def gaussian(seed: int, model: nn.Module | None = None) -> swag.LowRankGaussian:
    model = model or net()
    collector = swag.Collector(model, rank=4)
    for moved in cases.walk(model, 6, seed=seed, size=0.3):
        collector.collect(moved)
    return collector.swag(scale=1.0)


def posteriors() -> dict[str, swag.Posterior]:
    few = gaussian(0).sample(5, generator=torch.Generator().manual_seed(3))
    layout = gaussian(0).layout
    inner = swag.Mixture([gaussian(1), gaussian(2)], [0.25, 0.75])
    return {
        "gaussian": gaussian(0),
        "mixture": swag.Mixture([gaussian(0), gaussian(1)]),
        "nested": swag.Mixture([inner, gaussian(3), swag.PointMass(few[0], layout=layout)]),
        "points": swag.Empirical(few, layout),
        "point": swag.PointMass(few[0], layout=layout),
    }


@pytest.mark.parametrize("name", list(posteriors()))
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 7), (3, 4), (2, 9), (5, 9)])
def test_a_range_is_a_part_of_the_whole_draw(name: str, start: int, stop: int) -> None:
    posterior = posteriors()[name]
    whole = posterior.sample(9, generator=torch.Generator().manual_seed(1))
    part = sample_range(posterior, start, stop, generator=torch.Generator().manual_seed(1))
    assert torch.equal(part, whole[start:stop])


@pytest.mark.parametrize(
    ("start", "stop", "name"), [(-1, 2, "start"), (True, 2, "start"), (2, 2, "stop"), (0, 1.5, "stop")]
)
def test_a_range_that_is_none(start: int, stop: int, name: str) -> None:
    for posterior in posteriors().values():
        with pytest.raises(swag.InputError, match=f"^{name}: got"):
            sample_range(posterior, start, stop)


def test_centres_of_a_nested_mixture_are_those_of_its_leaves() -> None:
    """Each sample lies nearest to its own centre among all leaves, whose means are far apart."""
    size = gaussian(0).mean.numel()
    leaves = [
        swag.LowRankGaussian(torch.full((size,), 10.0 * i), torch.ones(size), torch.zeros(size, 0))
        for i in range(5)
    ]
    points = swag.Empirical(torch.stack([torch.full((size,), 10.0 * i) for i in (5, 6, 7)]))
    inner = swag.Mixture([leaves[0], leaves[1]], [0.25, 0.75])
    posterior = swag.Mixture([swag.Mixture([inner, leaves[2]]), leaves[3], swag.Mixture([leaves[4], points])])
    thetas = posterior.sample(50, generator=torch.Generator().manual_seed(2))
    found, centre_of = centres(posterior, 50, generator=torch.Generator().manual_seed(2))
    nearest = torch.stack([found[i] for i in centre_of])
    expected = (thetas.mean(1, keepdim=True) / 10).round() * 10
    assert torch.equal(nearest, expected.expand_as(nearest))
    assert {float(c[0]) for c in found} == {10.0 * i for i in range(8)}  # all of them occur among 50


@pytest.mark.parametrize("name", list(posteriors()))
def test_predictions_are_the_same_under_a_budget(name: str) -> None:
    model, posterior = net(), posteriors()[name]
    data = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    loader, test = list(data.split(20)), list(data.split(7))
    size = posterior.mean.numel() * 4

    def predict(**settings: int) -> swag.CategoricalPredictive:
        ensemble = swag.Ensemble(model, posterior, 7, bn_loader=loader, seed=5, **settings)
        return ensemble.predict(test)

    whole = predict()
    for budget in (2 * size, 5 * size, 6 * size):
        assert torch.equal(predict(memory_budget=budget).probs, whole.probs)


@pytest.mark.parametrize("strategy", [swag.Loop(), swag.Vmapped(3)])
def test_strategies_under_a_budget(strategy: swag.Loop | swag.Vmapped) -> None:
    posterior, loader = gaussian(0), [torch.randn(20, 6)]
    ensembles = [
        swag.Ensemble(net(), posterior, 7, bn_loader=loader, seed=5, strategy=strategy, memory_budget=budget)
        for budget in (None, 4 * 4 * posterior.mean.numel())
    ]
    whole, parts = (ensemble(loader[0]).probs for ensemble in ensembles)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    assert torch.equal(ensembles[0].thetas, ensembles[1].thetas)


def test_the_number_of_samples_can_grow_under_a_budget() -> None:
    posterior, loader = gaussian(0), [torch.randn(20, 6)]
    settings = dict(bn_loader=loader, seed=5, tolerance=0.02, max_samples=40)
    whole, parts = (
        swag.Ensemble(net(), posterior, "auto", memory_budget=budget, **settings)
        for budget in (None, 12 * posterior.mean.numel())
    )
    assert torch.equal(whole(loader[0]).probs, parts(loader[0]).probs)
    assert whole.n_samples == parts.n_samples > 8


def test_control_variates_under_a_budget_are_the_same() -> None:
    posterior, data = posteriors()["nested"], torch.randn(90, 6)
    policy = swag.ControlVariateBatchNorm(rows=16, fresh=True)
    settings = dict(bn_loader=list(data.split(30)), batchnorm=policy, seed=1)
    whole = swag.Ensemble(net(), posterior, 8, **settings)
    parts = swag.Ensemble(net(), posterior, 8, memory_budget=8 * posterior.mean.numel(), **settings)
    assert torch.equal(whole(data).probs, parts(data).probs)


def test_exact_batch_norm_reads_the_loader_once_for_each_block() -> None:
    class Counted(list):
        passes = 0

        def __iter__(self):
            Counted.passes += 1
            return super().__iter__()

    posterior = gaussian(0)
    size = 4 * posterior.mean.numel()
    swag.Ensemble(net(), posterior, 7, bn_loader=Counted([torch.randn(9, 6)]), memory_budget=6 * size)
    assert Counted.passes == 3  # blocks of 3, 3, 1


def test_an_iterator_cannot_be_read_for_each_block() -> None:
    posterior = gaussian(0)
    with pytest.raises(swag.InputError, match=r"^bn_loader: is an iterator.*memory_budget"):
        swag.Ensemble(
            net(),
            posterior,
            7,
            bn_loader=iter([torch.randn(9, 6)]),
            memory_budget=16 * posterior.mean.numel(),
        )


@pytest.mark.parametrize("budget", [0, -5, 100, 1.5, True, "1GB"])
def test_a_budget_for_less_than_two_members_is_refused(budget: int) -> None:
    with pytest.raises(swag.InputError, match=r"^memory_budget: got .*at least 1,560 for two"):
        swag.Ensemble(net(), gaussian(0), 7, bn_loader=[torch.randn(9, 6)], memory_budget=budget)


def test_a_posterior_that_cannot_be_drawn_in_parts() -> None:
    class Own:
        def __init__(self, gaussian: swag.LowRankGaussian) -> None:
            self.layout, self.mean, self.sample = gaussian.layout, gaussian.mean, gaussian.sample

    loader = [torch.randn(9, 6)]
    size = 4 * gaussian(0).mean.numel()
    kept = swag.Ensemble(net(), Own(gaussian(0)), 3, bn_loader=loader, seed=0, memory_budget=3 * size)
    assert torch.equal(
        kept(loader[0]).probs, swag.Ensemble(net(), gaussian(0), 3, bn_loader=loader, seed=0)(loader[0]).probs
    )
    with pytest.raises(swag.InputError, match=r"^memory_budget: 7 members.*Own has no sample_range"):
        swag.Ensemble(net(), Own(gaussian(0)), 7, bn_loader=loader, memory_budget=3 * size)


def test_blocks_are_drawn_once_for_a_run_through() -> None:
    posterior = gaussian(0)
    weights, _, _ = draw(posterior, 7, 0, device=CPU, budget=4 * 4 * posterior.mean.numel())
    assert isinstance(weights, Redrawn) and weights.at_once == 2
    assert isinstance(draw(posterior, 7, 0, device=CPU)[0], Kept)
    drawn = []
    original = weights.block
    weights.block = lambda start, stop: drawn.append((start, stop)) or original(start, stop)  # type: ignore[method-assign]
    thetas = torch.stack([weights[i].clone() for i in range(7)])
    assert drawn == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert torch.equal(thetas, posterior.sample(7, generator=torch.Generator().manual_seed(0)))


def test_no_more_than_the_budget_is_there() -> None:
    """The tensors alive after every member was used, and their peak while blocks change, by storage size."""
    posterior = gaussian(0)
    size = 4 * posterior.mean.numel()
    weights, _, _ = draw(posterior, 20, 0, device=CPU, budget=8 * size)
    held = [weights[i].untyped_storage().nbytes() for i in range(20)]
    assert max(held) == 4 * size  # half of the budget; the other half is there while blocks change
