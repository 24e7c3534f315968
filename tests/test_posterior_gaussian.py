"""The SWAG posterior's samples and its scale: what is drawn has the covariance of the dense formula."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from swag import InputError, LowRankGaussian
from swag.posterior import drawing
from tests import oracles
from tests.checks import array, assert_close, assert_covariance_close, assert_distributed, assert_means
from tests.runs import TwoLayers, dense, random_gaussian, seeded


class TestSamples:
    def test_covariance_between_layers_is_the_dense_formula_s(
        self, two_layers: TwoLayers, samples: torch.Tensor
    ) -> None:
        """One z₂ for the whole vector; with one for each tensor, as a peer draws it, this block is zero."""
        layout = two_layers.collector.layout
        cut = layout.entries[2].start  # the second layer begins
        cov = two_layers.covariance(0.5)
        block = cov[:cut, cut:]
        # There is something to see: SWAG's diagonal halves correlations that were near one.
        std = np.sqrt(np.diag(cov))
        assert (abs(block) / np.outer(std[:cut], std[cut:])).max() > 0.5
        centred = array(samples) - two_layers.thetas.mean(0)
        products = centred[:, :cut, None] * centred[:, None, cut:]
        assert_means(products, block)

    def test_the_whole_covariance(self, two_layers: TwoLayers, samples: torch.Tensor) -> None:
        assert_covariance_close(samples, two_layers.covariance(0.5), mean=two_layers.thetas.mean(0))
        assert_means(samples, two_layers.thetas.mean(0))

    def test_the_usual_mistakes_would_be_noticed(self, two_layers: TwoLayers, samples: torch.Tensor) -> None:
        """The same check refuses what other code computes; so it has the power to see each of them."""
        found = oracles.moments(two_layers.thetas, two_layers.rank)
        diag, low_rank = np.diag(found.sq_dev / 12), found.deviations.T @ found.deviations
        per_tensor = low_rank.copy()
        for entry in two_layers.collector.layout.entries:
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
                assert_covariance_close(samples, cov, mean=two_layers.thetas.mean(0))
                pytest.fail(name)

    def test_they_are_gaussian(self, two_layers: TwoLayers, samples: torch.Tensor) -> None:
        """Squared Mahalanobis distances by the dense formula follow χ²(D); so each sample is whole."""
        centred = array(samples) - two_layers.thetas.mean(0)
        distances = np.einsum("si,ij,sj->s", centred, np.linalg.inv(two_layers.covariance(0.5)), centred)
        assert_distributed(distances, stats.chi2(centred.shape[1]))

    def test_they_are_independent(self, two_layers: TwoLayers, samples: torch.Tensor) -> None:
        """A sample and the next, and those four apart (they are drawn in groups of four)."""
        root = np.linalg.cholesky(np.linalg.inv(two_layers.covariance(0.5)))
        white = (array(samples) - two_layers.thetas.mean(0)) @ root
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
        monkeypatch.setattr(drawing, "_PIECE", 1024)
        torch.testing.assert_close(posterior.sample(6, generator=seeded()), whole, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_compiled_way_draws_the_same(self, dtype: torch.dtype) -> None:
        posterior = random_gaussian(5000, 3, dtype=dtype)  # four blocks of 1024, and a rest
        compiled = posterior.compiled()
        whole = compiled.sample(6, generator=seeded())
        torch.testing.assert_close(whole, posterior.sample(6, generator=seeded()), rtol=1e-5, atol=2e-6)
        assert torch.equal(compiled.sample(2, generator=seeded()), whole[:2])
        assert torch.equal(compiled.sample_range(3, 5, generator=seeded()), whole[3:5])
        assert compiled._fused is not None and compiled._fused._step is not None  # it did not fall back
        smaller = compiled.with_scale(0.0).sample(1, generator=seeded())
        assert torch.equal(smaller[0], posterior.mean)

    def test_a_compiler_that_fails_changes_nothing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("no compiler")

        monkeypatch.setattr(torch, "compile", lambda function: broken)
        posterior = random_gaussian(5000, 3, dtype=torch.float32)
        compiled = posterior.compiled()
        assert torch.equal(compiled.sample(4, generator=seeded()), posterior.sample(4, generator=seeded()))
        assert caplog.text.count("no compiler") == 1
        again = pickle.loads(pickle.dumps(compiled))
        assert torch.equal(again.sample(2, generator=seeded()), posterior.sample(2, generator=seeded()))

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
    def test_covariance(self, two_layers: TwoLayers, scale: float) -> None:
        one, scaled = two_layers.collector.swag(1.0), two_layers.collector.swag(scale)
        expected = two_layers.covariance(scale)
        size = scale * np.diag(two_layers.covariance(1.0)).max()
        assert_close(scaled.covariance_matrix(), expected, rtol=1e-5, scale=size)
        assert_close(scaled.variance, np.diag(expected), rtol=1e-5)
        factor = array(scaled.cov_factor)
        assert_close(np.diag(array(scaled.cov_diag)) + factor @ factor.T, expected, rtol=1e-5, scale=size)
        assert_close(scaled.cov_diag, scale * array(one.cov_diag), rtol=1e-6)
        assert_close(scaled.cov_factor, math.sqrt(scale) * array(one.cov_factor), rtol=1e-5)

    @pytest.mark.parametrize("scale", SCALES)
    def test_samples(self, two_layers: TwoLayers, scale: float) -> None:
        """With one seed, deviations from the mean grow by √scale, all of them."""
        mean = two_layers.collector.mean
        one = two_layers.collector.swag(1.0).sample(50, generator=seeded()) - mean
        scaled = two_layers.collector.swag(scale).sample(50, generator=seeded()) - mean
        torch.testing.assert_close(scaled, math.sqrt(scale) * one, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("scale", SCALES)
    def test_density_and_entropy(self, two_layers: TwoLayers, scale: float) -> None:
        one, scaled = two_layers.collector.swag(1.0), two_layers.collector.swag(scale)
        size = two_layers.collector.layout.size
        assert float(scaled.entropy() - one.entropy()) == pytest.approx(size / 2 * math.log(scale), rel=1e-6)
        off = torch.randn(4, size, generator=seeded(1), dtype=torch.float64) * 0.1
        expected = one.log_prob(one.mean + off) - size / 2 * math.log(scale)
        torch.testing.assert_close(
            scaled.log_prob(one.mean + math.sqrt(scale) * off), expected, rtol=1e-6, atol=1e-5
        )

    def test_diagonal(self, two_layers: TwoLayers) -> None:
        """SWAG-diag takes the same scale the same way."""
        mean = two_layers.collector.mean
        one = two_layers.collector.swag_diag(1.0).sample(50, generator=seeded()) - mean
        four = two_layers.collector.swag_diag(4.0).sample(50, generator=seeded()) - mean
        torch.testing.assert_close(four, 2 * one, rtol=1e-4, atol=1e-5)
        assert_covariance_close(
            two_layers.collector.swag_diag(4.0).sample(3000, generator=seeded()),
            np.diag(4 * two_layers.thetas.var(0)),
            mean=two_layers.thetas.mean(0),
        )

    def test_zero_is_the_mean_exactly(self, two_layers: TwoLayers) -> None:
        posterior = two_layers.collector.swag(0.0)
        assert torch.equal(posterior.sample(7), two_layers.collector.mean.repeat(7, 1))
        assert not posterior.covariance_matrix().any() and not posterior.variance.any()
        with pytest.raises(InputError, match="or scale is 0"):
            posterior.log_prob(posterior.mean)
