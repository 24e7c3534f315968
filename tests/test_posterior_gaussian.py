"""The SWAG posterior: samples, covariance, density and entropy tell one story, that of the dense formula."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from swag import Collector, InputError, Layout, LowRankGaussian
from swag.posterior import low_rank_gaussian
from tests import oracles
from tests.cases import perturb_, plain
from tests.checks import (
    Array,
    array,
    assert_close,
    assert_covariance_close,
    assert_distributed,
    assert_means,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Run:
    """A training run of two layers that move together: one random walk drives both, besides own noise."""

    def __init__(self, n: int = 12, rank: int = 5) -> None:
        self.model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        self.collector = Collector(self.model, rank)
        self.rank = rank
        generator = seeded(3)
        direction = torch.randn(self.collector.layout.size, generator=generator)
        start = self.collector.layout.flatten(self.model)
        thetas = []
        for _ in range(n):
            step = torch.randn((), generator=generator) * direction
            step = step + 0.3 * torch.randn(direction.shape, generator=generator)
            self.collector.layout.write_(self.model, start + step)
            self.collector.collect(self.model)
            thetas.append(oracles.flat(self.model, self.collector.layout.names))
        self.thetas: Array = np.array(thetas)

    def covariance(self, scale: float) -> Array:
        return oracles.swag_covariance(self.thetas, self.rank, scale)


@pytest.fixture(scope="module")
def run() -> Run:
    torch.manual_seed(0)
    return Run()


@pytest.fixture(scope="module")
def samples(run: Run) -> torch.Tensor:
    """Enough draws to tell a covariance off by a tenth: 4000 of SWAG at the paper's scale."""
    return run.collector.swag(0.5).sample(4000, generator=seeded())


def random_gaussian(
    size: int, rank: int, *, dtype: torch.dtype = torch.float64, seed: int = 0, layout: Layout | None = None
) -> LowRankGaussian:
    generator = seeded(seed)
    mean = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    diag = (torch.rand(size, generator=generator, dtype=torch.float64) + 0.1).to(dtype)
    factor = torch.randn(size, rank, generator=generator, dtype=torch.float64).to(dtype)
    return LowRankGaussian(mean, diag, factor, layout=layout)


def dense(posterior: LowRankGaussian) -> Array:
    """The covariance as its parts say, in float64."""
    rows = array(posterior.rows) * posterior.row_scale
    return np.diag(array(posterior.cov_diag)) + rows.T @ rows


class TestSamples:
    def test_covariance_between_layers_is_the_dense_formula_s(self, run: Run, samples: torch.Tensor) -> None:
        """One z₂ for the whole vector; with one for each tensor, as a peer draws it, this block is zero."""
        layout = run.collector.layout
        cut = layout.entries[2].start  # the second layer begins
        cov = run.covariance(0.5)
        block = cov[:cut, cut:]
        # There is something to see: SWAG's diagonal halves correlations that were near one.
        std = np.sqrt(np.diag(cov))
        assert (abs(block) / np.outer(std[:cut], std[cut:])).max() > 0.5
        centred = array(samples) - run.thetas.mean(0)
        products = centred[:, :cut, None] * centred[:, None, cut:]
        assert_means(products, block)

    def test_the_whole_covariance(self, run: Run, samples: torch.Tensor) -> None:
        assert_covariance_close(samples, run.covariance(0.5), mean=run.thetas.mean(0))
        assert_means(samples, run.thetas.mean(0))

    def test_the_usual_mistakes_would_be_noticed(self, run: Run, samples: torch.Tensor) -> None:
        """The same check refuses what other code computes; so it has the power to see each of them."""
        found = oracles.moments(run.thetas, run.rank)
        diag, low_rank = np.diag(found.sq_dev / 12), found.deviations.T @ found.deviations
        per_tensor = low_rank.copy()
        for entry in run.collector.layout.entries:
            inside = slice(entry.start, entry.stop)
            per_tensor[inside, : entry.start] = per_tensor[: entry.start, inside] = 0
        wrong = {
            "a z₂ for each tensor": 0.5 * (diag + per_tensor / 4),
            "scale on the standard deviation": 0.25 * (diag + low_rank / 4),
            "scale on the low-rank part alone": diag + 0.5 * low_rank / 4,
            "divided by the configured rank 20 less one": 0.5 * (diag + low_rank / 19),
            "no scale": diag + low_rank / 4,
            "no diagonal": 0.5 * low_rank / 4,
            "no low-rank part": 0.5 * diag,
        }
        for name, cov in wrong.items():
            with pytest.raises(AssertionError):
                assert_covariance_close(samples, cov, mean=run.thetas.mean(0))
                pytest.fail(name)

    def test_they_are_gaussian(self, run: Run, samples: torch.Tensor) -> None:
        """Squared Mahalanobis distances by the dense formula follow χ²(D); so each sample is whole."""
        centred = array(samples) - run.thetas.mean(0)
        distances = np.einsum("si,ij,sj->s", centred, np.linalg.inv(run.covariance(0.5)), centred)
        assert_distributed(distances, stats.chi2(centred.shape[1]))

    def test_they_are_independent(self, run: Run, samples: torch.Tensor) -> None:
        """A sample and the next, and those four apart (they are drawn in groups of four)."""
        root = np.linalg.cholesky(np.linalg.inv(run.covariance(0.5)))
        white = (array(samples) - run.thetas.mean(0)) @ root
        for lag in (1, 2, 4):
            products = white[:-lag, :, None] * white[lag:, None, :]
            assert_means(products, np.zeros(products.shape[1:]))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_rows_of_half_precision(self, dtype: torch.dtype) -> None:
        exact = random_gaussian(7, 4, dtype=torch.float32)
        rows = exact.rows.to(dtype)
        low = LowRankGaussian.from_rows(exact.mean, exact.cov_diag, rows, row_scale=0.7)
        assert low.rows.dtype == dtype and low.sample().dtype == torch.float32
        assert_covariance_close(low.sample(3000, generator=seeded()), dense(low), mean=low.mean)

    @pytest.mark.parametrize("rank", [0, 1, 4, 9])
    def test_any_rank(self, rank: int) -> None:
        """Rank 0 is a diagonal, and a rank may be larger than D."""
        posterior = random_gaussian(5, rank)
        drawn = posterior.sample(3000, generator=seeded(rank))
        assert drawn.dtype == torch.float64
        assert_covariance_close(drawn, dense(posterior), mean=posterior.mean)

    def test_zero_variances_stay_put(self) -> None:
        """Weights without a diagonal part still follow the low-rank part, and those with neither stay."""
        mean, diag = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, 0.0])
        posterior = LowRankGaussian(mean, diag, torch.tensor([[1.0], [2.0], [0.0]]))
        drawn = posterior.sample(3000, generator=seeded())
        assert (drawn[:, 2] == 3.0).all()
        assert_covariance_close(drawn[:, :2], [[1.5, 2.0], [2.0, 4.0]], mean=mean[:2])

    def test_drawing_in_pieces_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        posterior = random_gaussian(5000, 3, dtype=torch.float32)
        whole = posterior.sample(6, generator=seeded())
        monkeypatch.setattr(low_rank_gaussian, "_DRAW_CHUNK", 1024)
        torch.testing.assert_close(posterior.sample(6, generator=seeded()), whole, rtol=1e-5, atol=1e-6)

    def test_large_posteriors_are_right_in_every_piece(self) -> None:
        """D over several pieces: the whitened values of each piece are normal and one z₂ moves them all."""
        size = 3 * (1 << 16) + 17
        factor = torch.ones(size, 1)
        posterior = LowRankGaussian(torch.zeros(size), torch.full((size,), 0.25), factor)
        for theta in posterior.sample(5, generator=seeded()):
            shift = theta.mean()  # z₂ up to 0.5/√D
            assert_distributed((theta - shift)[::7] / 0.5, stats.norm())
            for part in theta.split(1 << 16)[:3]:
                assert abs(part.mean() - shift) < 5 * 0.5 / math.sqrt(1 << 16)

    def test_context_does_not_matter(self) -> None:
        posterior = random_gaussian(20, 4, dtype=torch.float32)
        expected = posterior.sample(5, generator=seeded())
        generator = seeded()
        with torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.inference_mode():
            got = posterior.sample(5, generator=generator)
        assert torch.equal(got, expected)

    def test_inputs_of_different_dtypes(self) -> None:
        """Samples are of the mean's dtype; the parts may be of others."""
        exact = random_gaussian(6, 2)
        mixed = LowRankGaussian(exact.mean.float(), exact.cov_diag, exact.cov_factor.bfloat16())
        drawn = mixed.sample(5, generator=seeded())
        assert drawn.dtype == torch.float32
        torch.testing.assert_close(
            drawn.double(),
            exact.sample(5, generator=seeded()),
            rtol=0,
            atol=20 * torch.finfo(torch.bfloat16).eps,
        )


class TestScale:
    """One meaning on every path: it multiplies the covariance."""

    SCALES = (0.25, 0.5, 2.0, 9.0)

    @pytest.mark.parametrize("scale", SCALES)
    def test_covariance(self, run: Run, scale: float) -> None:
        one, scaled = run.collector.swag(1.0), run.collector.swag(scale)
        expected = run.covariance(scale)
        size = scale * np.diag(run.covariance(1.0)).max()
        assert_close(scaled.covariance_matrix(), expected, rtol=1e-5, scale=size)
        assert_close(scaled.variance, np.diag(expected), rtol=1e-5)
        factor = array(scaled.cov_factor)
        assert_close(np.diag(array(scaled.cov_diag)) + factor @ factor.T, expected, rtol=1e-5, scale=size)
        assert_close(scaled.cov_diag, scale * array(one.cov_diag), rtol=1e-6)
        assert_close(scaled.cov_factor, math.sqrt(scale) * array(one.cov_factor), rtol=1e-5)

    @pytest.mark.parametrize("scale", SCALES)
    def test_samples(self, run: Run, scale: float) -> None:
        """With one seed, deviations from the mean grow by √scale, all of them."""
        mean = run.collector.mean
        one = run.collector.swag(1.0).sample(50, generator=seeded()) - mean
        scaled = run.collector.swag(scale).sample(50, generator=seeded()) - mean
        torch.testing.assert_close(scaled, math.sqrt(scale) * one, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("scale", SCALES)
    def test_density_and_entropy(self, run: Run, scale: float) -> None:
        one, scaled = run.collector.swag(1.0), run.collector.swag(scale)
        size = run.collector.layout.size
        assert float(scaled.entropy() - one.entropy()) == pytest.approx(size / 2 * math.log(scale), rel=1e-6)
        off = torch.randn(4, size, generator=seeded(1), dtype=torch.float64) * 0.1
        expected = one.log_prob(one.mean + off) - size / 2 * math.log(scale)
        torch.testing.assert_close(
            scaled.log_prob(one.mean + math.sqrt(scale) * off), expected, rtol=1e-6, atol=1e-5
        )

    def test_diagonal(self, run: Run) -> None:
        """SWAG-diag takes the same scale the same way."""
        mean = run.collector.mean
        one = run.collector.swag_diag(1.0).sample(50, generator=seeded()) - mean
        four = run.collector.swag_diag(4.0).sample(50, generator=seeded()) - mean
        torch.testing.assert_close(four, 2 * one, rtol=1e-4, atol=1e-5)
        assert_covariance_close(
            run.collector.swag_diag(4.0).sample(3000, generator=seeded()),
            np.diag(4 * run.thetas.var(0)),
            mean=run.thetas.mean(0),
        )

    def test_zero_is_the_mean_exactly(self, run: Run) -> None:
        posterior = run.collector.swag(0.0)
        assert torch.equal(posterior.sample(7), run.collector.mean.repeat(7, 1))
        assert not posterior.covariance_matrix().any() and not posterior.variance.any()
        with pytest.raises(InputError, match="or scale is 0"):
            posterior.log_prob(posterior.mean)


class TestDensity:
    @pytest.mark.parametrize(
        ("size", "rank"), [(1, 0), (6, 0), (1, 1), (6, 1), (6, 3), (6, 6), (6, 15), (40, 5)]
    )
    def test_equals_torch_s_dense_gaussian(self, size: int, rank: int) -> None:
        posterior = random_gaussian(size, rank)
        truth = oracles.gaussian(array(posterior.mean), dense(posterior))
        theta = 2 * torch.randn(9, size, generator=seeded(1), dtype=torch.float64)
        many = posterior.log_prob(theta)
        assert many.shape == (9,) and many.dtype == torch.float64
        torch.testing.assert_close(many, truth.log_prob(theta), rtol=1e-10, atol=1e-10)
        one = posterior.log_prob(theta[0])
        assert one.shape == ()
        torch.testing.assert_close(one, many[0], rtol=1e-12, atol=1e-12)
        entropy = posterior.entropy()
        assert entropy.shape == () and entropy.dtype == torch.float64
        torch.testing.assert_close(entropy, truth.entropy(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(posterior.covariance_matrix(), torch.from_numpy(dense(posterior)))
        torch.testing.assert_close(posterior.variance, torch.from_numpy(np.diag(dense(posterior)).copy()))

    def test_of_a_collected_posterior_equals_the_trajectory_s(self, run: Run) -> None:
        """From the weights themselves to the density, without any number of ours in between."""
        truth = oracles.gaussian(run.thetas.mean(0), run.covariance(0.5))
        posterior = run.collector.swag(0.5)
        theta = torch.from_numpy(run.thetas)
        torch.testing.assert_close(posterior.log_prob(theta), truth.log_prob(theta), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(posterior.entropy(), truth.entropy(), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_half_precision_rows_and_float32_parts(self, dtype: torch.dtype) -> None:
        """The density is that of the parts as stored, computed in float64."""
        exact = random_gaussian(8, 3, dtype=torch.float32)
        posterior = LowRankGaussian.from_rows(
            exact.mean, exact.cov_diag, exact.rows.to(dtype), row_scale=1 / math.sqrt(3)
        )
        truth = oracles.gaussian(array(posterior.mean), dense(posterior))
        theta = torch.randn(3, 8, generator=seeded())
        torch.testing.assert_close(
            posterior.log_prob(theta), truth.log_prob(theta.double()), rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(posterior.entropy(), truth.entropy(), rtol=1e-9, atol=1e-9)

    def test_computing_in_pieces_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        posterior = random_gaussian(10, 3)
        theta = torch.randn(4, 10, generator=seeded(), dtype=torch.float64)
        whole = posterior.log_prob(theta), posterior.entropy()
        monkeypatch.setattr(low_rank_gaussian, "_CHUNK", 3)
        torch.testing.assert_close(
            (posterior.log_prob(theta), posterior.entropy()), whole, rtol=1e-12, atol=1e-12
        )

    def test_it_is_the_density_of_the_samples(self, run: Run, samples: torch.Tensor) -> None:
        """−log p averages to the entropy over the samples, and 2·(log p(mean) − log p) follows χ²(D)."""
        posterior = run.collector.swag(0.5)
        log_prob = posterior.log_prob(samples)
        assert_means(-log_prob, posterior.entropy())
        peak = posterior.log_prob(posterior.mean)
        assert_distributed(2 * (peak - log_prob), stats.chi2(samples.shape[1]))

    def test_it_integrates_to_one(self) -> None:
        posterior = random_gaussian(2, 1)
        axis = torch.linspace(-12, 12, 400, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        mass = posterior.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
        assert float(mass) == pytest.approx(1.0, rel=1e-6)

    def test_small_diagonals_beside_a_large_low_rank_part(self) -> None:
        """What SWAG often looks like: variances of 1e-8 around directions of length 1."""
        exact = random_gaussian(12, 3)
        posterior = LowRankGaussian(exact.mean, exact.cov_diag * 1e-8, exact.cov_factor)
        truth = oracles.gaussian(array(posterior.mean), dense(posterior))
        theta = posterior.sample(5, generator=seeded())
        torch.testing.assert_close(posterior.log_prob(theta), truth.log_prob(theta), rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(posterior.entropy(), truth.entropy(), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("what", ["log_prob", "entropy"])
    def test_a_weight_that_never_moved_has_none(self, what: str) -> None:
        """The parameter is named; sampling works, and the weight stays where it was."""
        model = plain()
        collector = Collector(model, 3)
        generator = seeded()
        for _ in range(5):
            perturb_(model, generator)
            nn.init.constant_(model[2].bias, 0.25)
            collector.collect(model)
        for posterior in (collector.swag(), collector.swag_diag()):
            arguments = (posterior.mean,) if what == "log_prob" else ()
            with pytest.raises(
                InputError,
                match=rf"{what}: the variance of parameter '2\.bias' is zero \(3 of 51 weights .*select=",
            ):
                getattr(posterior, what)(*arguments)
            drawn = posterior.layout.unflatten(posterior.sample(4))
            assert (drawn["2.bias"] == 0.25).all() and drawn["2.weight"].std() > 0
        moved = Collector(model, 3, select=["0", "2.weight"])
        for _ in range(5):
            perturb_(model, generator)
            moved.collect(model)
        assert moved.swag().entropy().isfinite()

    def test_without_a_layout_the_index_is_named(self) -> None:
        posterior = LowRankGaussian(torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), torch.ones(3, 2))
        with pytest.raises(
            InputError, match=r"log_prob: the variance of theta\[1\] is zero \(2 of 3 weights"
        ):
            posterior.log_prob(torch.zeros(3))

    @pytest.mark.parametrize(
        ("theta", "message"),
        [
            (torch.zeros(5), r"theta: got shape \(5,\), expected \(D=6,\) or \(S, D\)"),
            (torch.zeros(6, 1), r"theta: got shape \(6, 1\), expected \(D=6,\)"),
            (
                torch.zeros(2, 2, 6),
                r"theta: got shape \(2, 2, 6\) .* pass a floating-point tensor \(D,\) or \(S, D\)",
            ),
            (torch.tensor(0.0), r"theta: got shape \(\)"),
            (
                torch.zeros(6, dtype=torch.int64),
                r"theta: got shape \(6,\) torch\.int64; pass a floating-point",
            ),
            ([0.0] * 6, r"theta: got list; pass a floating-point tensor"),
        ],
        ids=["short", "turned", "three-dimensional", "scalar", "integers", "list"],
    )
    def test_bad_points(self, theta: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            random_gaussian(6, 2).log_prob(theta)


class TestConstruction:
    def test_parts_as_given(self) -> None:
        exact = random_gaussian(6, 2)
        assert exact.rank == 2 and exact.layout is None
        assert repr(exact) == "LowRankGaussian(D=6, rank=2)"
        factor = torch.randn(6, 2, generator=seeded())
        posterior = LowRankGaussian(torch.zeros(6), torch.ones(6), factor)
        assert torch.equal(posterior.cov_factor, factor)

    @pytest.mark.parametrize("carry", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
    def test_copies_draw_the_same(self, run: Run, carry: Any) -> None:
        posterior = run.collector.swag()
        again = carry(posterior)
        assert again.layout == posterior.layout
        assert torch.equal(again.sample(3, generator=seeded()), posterior.sample(3, generator=seeded()))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"mean": torch.zeros(2, 3)},
                r"mean: got shape \(2, 3\) torch\.float32; pass a floating-point .*\(D,\)",
            ),
            ({"mean": torch.zeros(6, dtype=torch.int64)}, r"mean: got shape \(6,\) torch\.int64"),
            ({"mean": [0.0] * 6}, r"mean: got list"),
            ({"mean": torch.full((6,), torch.nan)}, r"mean: not finite at theta\[0\]; check the snapshots"),
            ({"cov_diag": torch.ones(5)}, r"cov_diag: has 5 entries, expected D=6"),
            ({"cov_diag": torch.tensor([1.0, 1, -1e-9, 1, 1, 1])}, r"cov_diag: negative at theta\[2\]"),
            ({"cov_diag": torch.tensor([1.0, torch.inf, 1, 1, 1, 1])}, r"cov_diag: not finite at theta\[1\]"),
            ({"cov_factor": torch.ones(2, 6)}, r"cov_factor: got shape \(2, 6\), expected \(D=6, K\)"),
            ({"cov_factor": torch.ones(6)}, r"cov_factor: got shape \(6,\) torch\.float32; pass .*\(D, K\)"),
            ({"cov_factor": None}, r"cov_factor: got NoneType"),
            ({"cov_factor": torch.ones(6, 2, dtype=torch.int64)}, r"cov_factor: got shape .*int64"),
            ({"cov_factor": torch.full((6, 2), -torch.inf)}, r"cov_factor: not finite at theta\[0\]"),
            ({"layout": Layout.of(plain())}, r"layout: describes D=51 weights, the posterior has D=6"),
        ],
    )
    def test_bad_parts(self, changes: dict[str, Any], message: str) -> None:
        parts = {"mean": torch.zeros(6), "cov_diag": torch.ones(6), "cov_factor": torch.ones(6, 2), **changes}
        with pytest.raises(InputError, match=message):
            LowRankGaussian(**parts)

    def test_a_bad_part_is_named_by_its_parameter(self) -> None:
        layout = Layout.of(plain())
        diag = torch.ones(51)
        diag[-1] = torch.nan
        with pytest.raises(InputError, match=r"cov_diag: not finite at parameter '2\.bias'"):
            LowRankGaussian(torch.zeros(51), diag, torch.ones(51, 0), layout=layout)

    def test_one_row_is_no_covariance(self) -> None:
        with pytest.raises(InputError, match=r"deviations: one row has no covariance .* pass two or more"):
            LowRankGaussian.from_moments(torch.zeros(2), torch.ones(2), torch.ones(1, 2), scale=1.0)

    @pytest.mark.parametrize("row_scale", [-1.0, math.nan, math.inf])
    def test_bad_row_scales(self, row_scale: float) -> None:
        with pytest.raises(InputError, match=r"row_scale: got .*; pass a finite number ≥ 0"):
            LowRankGaussian.from_rows(torch.zeros(2), torch.ones(2), torch.ones(1, 2), row_scale=row_scale)

    def test_a_dense_matrix_of_a_large_posterior_is_refused(self) -> None:
        posterior = LowRankGaussian(torch.zeros(100_000), torch.ones(100_000), torch.ones(100_000, 1))
        with pytest.raises(InputError, match=r"covariance_matrix: D=100,000 would take 80 GB; use variance"):
            posterior.covariance_matrix()
