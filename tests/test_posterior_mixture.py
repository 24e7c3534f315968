"""Mixtures: moments by the law of total variance, density by log-sum-exp, components in balance."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import swag
from swag import Collector, Empirical, InputError, Layout, LowRankGaussian, Mixture, PointMass, StateError
from tests import oracles
from tests.cases import Tied, plain, walk
from tests.checks import Array, array, assert_close, assert_means, assert_second_moments_close
from tests.runs import seeded

SIZE = 4
WEIGHTS = [None, [0.5, 0.2, 0.3], [0.05, 0.0, 0.95]]


def gaussians(n: int = 3, *, rank: int = 2, dtype: torch.dtype = torch.float64) -> list[LowRankGaussian]:
    """Components whose means differ by about as much as they are wide."""
    generator = seeded(7)
    drawn = [
        torch.randn(SIZE, rank + 2, generator=generator, dtype=torch.float64).to(dtype) for _ in range(n)
    ]
    return [LowRankGaussian(2 * x[:, 0], x[:, 1].square() + 0.1, x[:, 2:]) for x in drawn]


def parts(mixture: Mixture) -> tuple[Array, Array, Array]:
    """Weights, means and dense covariances in float64."""
    means = np.stack([array(p.mean) for p in mixture.posteriors])
    covs = [
        np.diag(array(p.cov_diag)) + array(p.cov_factor) @ array(p.cov_factor).T for p in mixture.posteriors
    ]
    return array(mixture.weights), means, np.stack(covs)


def points(*values: float) -> list[PointMass]:
    return [PointMass(torch.tensor([float(value)])) for value in values]


class TestMoments:
    @pytest.mark.parametrize("weights", WEIGHTS, ids=str)
    def test_mean_and_covariance_by_the_law_of_total_variance(self, weights: list[float] | None) -> None:
        mixture = Mixture(gaussians(), weights)
        mean, cov = oracles.mixture_moments(*parts(mixture))
        assert_close(mixture.mean, mean, rtol=1e-12, scale=1.0)
        assert_close(mixture.covariance_matrix(), cov, rtol=1e-12, scale=10.0)
        assert_close(mixture.variance, np.diag(cov), rtol=1e-12)

    @pytest.mark.parametrize("weights", WEIGHTS, ids=str)
    def test_those_of_the_samples(self, weights: list[float] | None) -> None:
        mixture = Mixture(gaussians(), weights)
        drawn = mixture.sample(4000, generator=seeded())
        assert_means(drawn, mixture.mean)
        assert_second_moments_close(drawn, mixture.covariance_matrix(), mean=mixture.mean)

    def test_of_collected_posteriors(self) -> None:
        """MultiSWAG from three runs, against the three trajectories."""
        runs, thetas = [], []
        for seed in range(3):
            torch.manual_seed(seed)
            model = torch.nn.Linear(3, 2)
            collector = Collector(model, 4)
            thetas.append([])
            for _ in walk(model, 6, seed=seed):
                collector.collect(model)
                thetas[-1].append(oracles.flat(model, collector.layout.names))
            runs.append(collector)
        mixture = Mixture([collector.swag(0.5) for collector in runs])
        covs = np.stack([oracles.swag_covariance(np.array(t), 4, 0.5) for t in thetas])
        mean, cov = oracles.mixture_moments(np.full(3, 1 / 3), np.mean(thetas, axis=1), covs)
        assert_close(mixture.mean, mean, rtol=1e-6, scale=1.0)
        assert_close(mixture.covariance_matrix(), cov, rtol=1e-5, scale=1.0)
        assert mixture.layout == runs[0].layout

    def test_the_spread_between_components_counts(self) -> None:
        """Two points at ±1: no variance within, one between."""
        mixture = Mixture(points(-1.0, 1.0))
        assert (mixture.mean.item(), mixture.variance.item(), mixture.covariance_matrix().item()) == (0, 1, 1)
        assert Mixture(points(0.0, 4.0), [0.75, 0.25]).variance.item() == 3.0

    def test_a_mixture_of_mixtures(self) -> None:
        a, b, c = gaussians()
        nested, flat = (
            Mixture([Mixture([a, b], [0.25, 0.75]), c], [0.4, 0.6]),
            Mixture([a, b, c], [0.1, 0.3, 0.6]),
        )
        theta = torch.randn(5, SIZE, generator=seeded(), dtype=torch.float64)
        torch.testing.assert_close(nested.mean, flat.mean)
        torch.testing.assert_close(nested.covariance_matrix(), flat.covariance_matrix())
        torch.testing.assert_close(nested.variance, flat.variance)
        torch.testing.assert_close(nested.log_prob(theta), flat.log_prob(theta))
        drawn = nested.sample(2000, generator=seeded())
        assert_second_moments_close(drawn, flat.covariance_matrix(), mean=flat.mean)


class TestDensity:
    @pytest.mark.parametrize("weights", WEIGHTS, ids=str)
    def test_log_sum_exp(self, weights: list[float] | None) -> None:
        mixture = Mixture(gaussians(), weights)
        theta = 3 * torch.randn(20, SIZE, generator=seeded(), dtype=torch.float64)
        expected = oracles.mixture_log_prob(*parts(mixture), array(theta))
        got = mixture.log_prob(theta)
        assert got.shape == (20,) and got.dtype == torch.float64
        assert_close(got, expected, rtol=1e-10)
        assert mixture.log_prob(theta[0]).shape == ()
        assert mixture.log_prob(theta[0]).item() == pytest.approx(got[0].item())

    def test_far_from_everything_it_does_not_underflow(self) -> None:
        """exp(log p) is 0 here; a sum of densities would give −∞."""
        mixture = Mixture(gaussians())
        theta = torch.full((SIZE,), 1e4, dtype=torch.float64)
        assert mixture.log_prob(theta).isfinite() and mixture.log_prob(theta) < -1e5

    def test_it_integrates_to_one_and_is_that_of_the_samples(self) -> None:
        a = LowRankGaussian(torch.tensor([-2.0]), torch.tensor([0.3]), torch.ones(1, 1))
        b = LowRankGaussian(torch.tensor([3.0]), torch.tensor([0.2]), torch.zeros(1, 0))
        mixture = Mixture([a, b], [0.7, 0.3])
        axis = torch.linspace(-15, 15, 3000, dtype=torch.float64)
        density = mixture.log_prob(axis[:, None]).exp()
        width = axis[1] - axis[0]
        assert float(density.sum() * width) == pytest.approx(1.0, rel=1e-9)
        entropy = -(density * density.log()).nan_to_num().sum() * width
        assert_means(-mixture.log_prob(mixture.sample(3000, generator=seeded())), entropy)

    def test_components_without_a_density(self) -> None:
        with pytest.raises(
            InputError, match=r"log_prob: the component PointMass\(D=1\) has no density; only Gaussians"
        ):
            Mixture(points(0.0, 1.0)).log_prob(torch.zeros(1))

    def test_a_component_of_weight_zero_needs_none(self) -> None:
        gaussian = LowRankGaussian(torch.zeros(1), torch.ones(1), torch.zeros(1, 0))
        mixture = Mixture([gaussian, *points(5.0)], [1.0, 0.0])
        assert mixture.log_prob(torch.zeros(1)).item() == pytest.approx(-0.5 * math.log(2 * math.pi))

    def test_a_zero_variance_is_named(self) -> None:
        model = plain()
        layout = Layout.of(model)
        diag = torch.ones(51)
        diag[32] = 0.0
        good = LowRankGaussian(torch.zeros(51), torch.ones(51), torch.ones(51, 2), layout=layout)
        bad = LowRankGaussian(torch.zeros(51), diag, torch.ones(51, 2), layout=layout)
        with pytest.raises(InputError, match=r"log_prob: the variance of parameter '0\.bias' is zero"):
            Mixture([good, bad]).log_prob(torch.zeros(51))
        assert Mixture([good, bad]).sample(4).isfinite().all()


class TestComponents:
    def drawn(self, n: int, values: Sequence[float], weights: Any = None, seed: int = 0) -> list[float]:
        return Mixture(points(*values), weights).sample(n, generator=seeded(seed)).flatten().tolist()

    def test_thirty_over_three_give_ten_each(self) -> None:
        values = self.drawn(30, [0.0, 1.0, 2.0])
        assert [values.count(value) for value in (0.0, 1.0, 2.0)] == [10, 10, 10]

    @given(n=st.integers(1, 60), m=st.integers(1, 8), seed=st.integers(0, 2**31))
    def test_every_prefix_is_balanced(self, n: int, m: int, seed: int) -> None:
        values = np.array(self.drawn(n, range(m), seed=seed))
        counts = np.cumsum(values[:, None] == np.arange(m), axis=0)
        assert (np.ptp(counts, axis=1) <= 1).all()

    @pytest.mark.parametrize("seed", range(3))
    def test_weighted_prefixes_are_near_their_weights(self, seed: int) -> None:
        """The bound that the sequence itself is tested with: 2 + 0.3·ln n."""
        weights = np.array([0.6, 0.3, 0.1])
        values = np.array(self.drawn(500, [0.0, 1.0, 2.0], weights.tolist(), seed))
        n = np.arange(1, 501)[:, None]
        off = np.abs(np.cumsum(values[:, None] == np.arange(3), axis=0) - n * weights)
        assert (off <= 2 + 0.3 * np.log(n)).all()

    @pytest.mark.parametrize("weights", [[0.6, 0.4], [1 / 3, 2 / 3]])
    def test_each_sample_alone_has_the_weights(self, weights: list[float]) -> None:
        """Exactly, whatever its place: over 400 seeds, the first and the last of five."""
        for place in (0, 4):
            drawn = [self.drawn(5, [0.0, 1.0], weights, seed)[place] for seed in range(400)]
            assert_means(drawn, weights[1])

    def test_which_component_is_told(self) -> None:
        mixture = Mixture(gaussians())
        chosen = mixture.components(9, seed=3)
        assert sorted(chosen.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert torch.equal(mixture.components(4, seed=3), chosen[:4])

    def test_equal_weights_given_are_uniform(self) -> None:
        for weights in ([0.1] * 10, torch.full((10,), 0.1), np.full(10, 0.1), [0.1 + 1e-9] + [0.1] * 9):
            mixture = Mixture(points(*range(10)), weights)
            counts = np.bincount(array(mixture.sample(100)).astype(int).flatten())
            assert mixture.weights.sum() == pytest.approx(1.0, abs=1e-12)
            assert (abs(counts - 10) <= 2).all()
        assert Mixture(points(*range(10)), [0.1] * 10).is_uniform

    def test_components_draw_independently(self) -> None:
        """Equal Gaussians side by side: neighbouring samples come from different streams."""
        one = LowRankGaussian(torch.zeros(2), torch.ones(2), torch.zeros(2, 0))
        drawn = array(Mixture([one, one]).sample(3000, generator=seeded()))
        assert len(np.unique(drawn[:, 0])) == 3000
        for lag in (1, 2):
            assert_means(drawn[:-lag] * drawn[lag:], np.zeros(2))

    def test_a_component_s_samples_do_not_depend_on_the_others_weights(self) -> None:
        """Weights decide whose turn it is, not what is drawn."""
        mixtures = [Mixture(gaussians(2), weights) for weights in (None, [0.9, 0.1])]
        first = [m.sample(40, generator=seeded()) for m in mixtures]
        a, b = (set(map(tuple, x.tolist())) for x in first)
        assert len(a & b) - 20 in (3, 4, 5)  # 20 and 20 of the two streams against about 36 and 4


class TestAtoms:
    """The points of equal mass, where a mixture is such: the ensemble predicts each of them once."""

    def test_points(self) -> None:
        assert Mixture(points(1.0, 2.0)).atoms.flatten().tolist() == [1.0, 2.0]
        two = [Empirical(torch.tensor([[1.0], [2.0]])), Empirical(torch.tensor([[3.0], [4.0]]))]
        assert Mixture(two).atoms.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]
        assert Mixture([Mixture(points(1.0, 2.0)), Mixture(points(3.0, 4.0))]).atoms.shape == (4, 1)

    def test_none_where_masses_differ_or_there_is_a_density(self) -> None:
        gaussian = LowRankGaussian(torch.zeros(1), torch.ones(1), torch.zeros(1, 0))
        assert Mixture(points(1.0, 2.0), [0.3, 0.7]).atoms is None
        assert Mixture([*points(1.0), gaussian]).atoms is None
        assert Mixture([*points(1.0), Empirical(torch.tensor([[3.0], [4.0]]))]).atoms is None


class TestConstruction:
    def test_a_mixture_of_one(self) -> None:
        (only,) = gaussians(1)
        mixture = Mixture([only])
        assert torch.equal(mixture.mean, only.mean) and torch.equal(mixture.variance, only.variance)
        assert repr(mixture) == "Mixture(1 components, D=4)"

    def test_the_layout_of_whichever_has_one(self) -> None:
        layout = Layout.of(plain())
        theta = torch.zeros(51)
        assert Mixture([PointMass(theta), PointMass(theta, layout=layout)]).layout == layout

    def test_weights_are_kept_apart_from_the_caller_s(self) -> None:
        weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
        mixture = Mixture(points(0.0, 1.0), weights)
        weights.fill_(0.5)
        assert mixture.weights.tolist() == [0.25, 0.75]

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (
                [0.5, -0.5, 1.0],
                r"weights: got \[0\.5, -0\.5, 1\.0\] with sum 1; they must be ≥ 0 and sum to 1",
            ),
            (
                [0.5, 0.2, 0.2],
                r"weights: got \[0\.5, 0\.2, 0\.2\] with sum 0\.9; they must be ≥ 0 and sum to 1",
            ),
            ([1.0, 1.0, 1.0], r"weights: .* with sum 3"),
            ([0.0, 0.0, 0.0], r"weights: .* with sum 0"),
            ([math.nan, 0.5, 0.5], r"weights: .* must be ≥ 0 and sum to 1"),
            ([math.inf, 0.5, 0.5], r"weights: .* must be ≥ 0 and sum to 1"),
            ([0.5, 0.5], r"weights: got shape \(2,\) for 3 posteriors; pass one weight each"),
            (torch.eye(3), r"weights: got shape \(3, 3\) for 3 posteriors"),
            (1.0, r"weights: got shape \(\) for 3 posteriors"),
        ],
    )
    def test_bad_weights(self, weights: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            Mixture(gaussians(), weights)

    def test_bad_components(self) -> None:
        layout, other = Layout.of(plain()), Layout.of(Tied())
        cases: list[tuple[Any, str]] = [
            ([], r"posteriors: the list is empty; pass at least one posterior"),
            (points(0.0)[0], r"posteriors: got a PointMass; pass a list of posteriors"),
            (
                [Collector(plain())],
                r"posteriors: number 0 is a Collector, which cannot be sampled; .* such as collector\.swag",
            ),
            (
                [*points(0.0), PointMass(torch.zeros(2))],
                r"posteriors: number 1 has D=2, another D=1; a mixture's components share one architecture",
            ),
            (
                [PointMass(torch.zeros(51), layout=layout), PointMass(torch.zeros(99), layout=other)],
                r"posteriors: number 1 has D=99, another D=51",
            ),
            (
                [
                    PointMass(torch.zeros(51)),
                    PointMass(torch.zeros(51), layout=layout),
                    PointMass(
                        torch.zeros(51),
                        layout=Layout.from_list([{"name": "w", "shape": [51], "dtype": "float32"}]),
                    ),
                ],
                r"posteriors: number 2 belongs to another model .*'0\.weight' \(4, 8\) against 'w' \(51,\)",
            ),
        ]
        for posteriors, message in cases:
            with pytest.raises(InputError, match=message):
                Mixture(posteriors)

    def test_posteriors_that_are_divided_over_ranks(self) -> None:
        # Alone in the "cluster": what matters is the kind.
        collector = swag.distributed.ShardedCollector(plain(), rank=2)
        for model in walk(plain(), 3):
            collector.collect(model)
        for posterior in (collector.swag(), collector.swa()):
            with pytest.raises(InputError, match=r"number 0 is divided over ranks; .* swag\.save"):
                Mixture([posterior])

    def test_no_snapshot_yet(self) -> None:
        with pytest.raises(StateError, match=r"needs 2 snapshots or more"):
            Mixture([Collector(plain()).swag()])
