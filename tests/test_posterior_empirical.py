"""The empirical distribution of given vectors, and the point mass."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swag import Empirical, InputError, Layout, PointMass
from tests.cases import plain
from tests.checks import array, assert_close, assert_proportions
from tests.runs import seeded

THETAS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class TestEmpirical:
    def test_moments_are_the_population_s(self) -> None:
        """Of a distribution with equal mass on S points: divided by S, not by S − 1."""
        posterior = Empirical(THETAS)
        assert_close(posterior.mean, array(THETAS).mean(0), rtol=1e-12)
        assert_close(posterior.variance, array(THETAS).var(0), rtol=1e-12)
        assert_close(posterior.covariance_matrix(), np.cov(array(THETAS).T, bias=True), rtol=1e-10, scale=1.0)

    @given(n=st.integers(1, 40), size=st.integers(1, 9), seed=st.integers(0, 2**31))
    def test_every_prefix_goes_through_all_of_them(self, n: int, size: int, seed: int) -> None:
        posterior = Empirical(torch.arange(size, dtype=torch.float32)[:, None])
        drawn = array(posterior.sample(n, generator=seeded(seed))).flatten()
        counts = np.cumsum(drawn[:, None] == np.arange(size), axis=0)
        assert (np.ptp(counts, axis=1) <= 1).all()

    def test_as_many_samples_as_vectors_are_all_of_them_once(self) -> None:
        drawn = Empirical(THETAS).sample(6, generator=seeded())
        assert sorted(drawn.tolist()) == sorted(THETAS.tolist())
        assert not torch.equal(drawn, THETAS)

    def test_the_first_is_any_of_them(self) -> None:
        posterior = Empirical(torch.arange(4.0)[:, None])
        first = [int(posterior.sample(generator=seeded(seed))) for seed in range(1000)]
        assert_proportions(np.bincount(first, minlength=4), np.full(4, 0.25))

    def test_samples_are_copies(self) -> None:
        posterior = Empirical(THETAS.clone())
        posterior.sample(6).fill_(float("nan"))
        assert torch.equal(posterior.samples, THETAS) and torch.equal(posterior.atoms, THETAS)

    def test_one_vector(self) -> None:
        posterior = Empirical(THETAS[:1])
        assert torch.equal(posterior.sample(3), THETAS[:1].repeat(3, 1))
        assert not posterior.variance.any() and not posterior.covariance_matrix().any()
        assert repr(posterior) == "Empirical(1 samples, D=4)"

    @pytest.mark.parametrize(
        ("samples", "layout", "message"),
        [
            (
                torch.zeros(4),
                None,
                r"samples: got shape \(4,\) torch\.float32; pass a floating-point tensor \(S, D\)",
            ),
            (torch.zeros(2, 3, 4), None, r"samples: got shape \(2, 3, 4\)"),
            (torch.zeros(2, 3, dtype=torch.int64), None, r"samples: got shape \(2, 3\) torch\.int64"),
            (np.zeros((2, 3)), None, r"samples: got ndarray; pass a floating-point tensor \(S, D\)"),
            (torch.zeros(0, 3), None, r"samples: the tensor has no rows; pass at least one"),
            (
                torch.tensor([[0.0], [torch.nan]]),
                None,
                r"samples: row 1 holds NaN or infinite values; leave it out",
            ),
            (torch.zeros(2, 3), Layout.of(plain()), r"layout: describes D=51 weights, the posterior has D=3"),
        ],
    )
    def test_bad_samples(self, samples: Any, layout: Layout | None, message: str) -> None:
        with pytest.raises(InputError, match=message):
            Empirical(samples, layout)


class TestPointMass:
    def test_every_sample_is_the_mean(self) -> None:
        mean = THETAS[0].clone()
        posterior = PointMass(mean)
        drawn = posterior.sample(3)
        assert torch.equal(drawn, mean.repeat(3, 1)) and drawn.dtype == mean.dtype
        drawn.fill_(0.0)
        assert torch.equal(posterior.mean, THETAS[0])
        assert not posterior.variance.any() and posterior.covariance_matrix().shape == (4, 4)
        assert torch.equal(posterior.atoms, THETAS[:1])
        assert repr(posterior) == "PointMass(D=4)"

    @pytest.mark.parametrize(
        ("mean", "layout", "message"),
        [
            (
                torch.zeros(1, 4),
                None,
                r"mean: got shape \(1, 4\) torch\.float32; pass a floating-point tensor \(D,\)",
            ),
            (torch.zeros(4, dtype=torch.int64), None, r"mean: got shape \(4,\) torch\.int64"),
            ([0.0], None, r"mean: got list"),
            (torch.tensor([0.0, torch.inf]), None, r"mean: not finite at theta\[1\]; check the snapshots"),
            (torch.full((51,), torch.nan), Layout.of(plain()), r"mean: not finite at parameter '0\.weight'"),
            (torch.zeros(3), Layout.of(plain()), r"layout: describes D=51 weights, the posterior has D=3"),
        ],
    )
    def test_bad_means(self, mean: Any, layout: Layout | None, message: str) -> None:
        with pytest.raises(InputError, match=message):
            PointMass(mean, layout=layout)

    def test_a_dense_matrix_of_a_large_posterior_is_refused(self) -> None:
        for posterior in (PointMass(torch.zeros(20_000)), Empirical(torch.zeros(1, 20_000))):
            with pytest.raises(
                InputError, match=r"covariance_matrix: D=20,000 would take 3 GB; use variance"
            ):
                posterior.covariance_matrix()
