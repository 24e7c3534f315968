"""The SWAG posterior's density and entropy: torch's dense Gaussian's, and those of the samples."""

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
from tests.checks import array, assert_distributed, assert_means
from tests.runs import TwoLayers, dense, random_gaussian, seeded


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

    def test_of_a_collected_posterior_equals_the_trajectory_s(self, two_layers: TwoLayers) -> None:
        """From the weights themselves to the density, without any number of ours in between."""
        truth = oracles.gaussian(two_layers.thetas.mean(0), two_layers.covariance(0.5))
        posterior = two_layers.collector.swag(0.5)
        theta = torch.from_numpy(two_layers.thetas)
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

    def test_it_is_the_density_of_the_samples(self, two_layers: TwoLayers, samples: torch.Tensor) -> None:
        """−log p averages to the entropy over the samples, and 2·(log p(mean) − log p) follows χ²(D)."""
        posterior = two_layers.collector.swag(0.5)
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
    def test_copies_draw_the_same(self, two_layers: TwoLayers, carry: Any) -> None:
        posterior = two_layers.collector.swag()
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
