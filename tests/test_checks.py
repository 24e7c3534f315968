"""The statistical checks accept the truth and notice what they are there for."""

import numpy as np
import pytest
import torch
from scipy import stats

from tests import checks

RNG = np.random.default_rng(0)
COV = np.array([[2.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 0.5]])
MEAN = np.array([10.0, 0.0, -1.0])
SAMPLES = RNG.multivariate_normal(MEAN, COV, size=4000)


def test_the_true_covariance_passes_for_many_seeds() -> None:
    """300 trials at z = 2 fail about as often as they should: 2.3 % a check or less, never none at all."""
    failures = 0
    for _ in range(300):
        try:
            samples = RNG.multivariate_normal(MEAN, COV, size=200)
            checks.assert_covariance_close(samples, COV, mean=MEAN, z=2.0)
        except AssertionError:
            failures += 1
    # Entries are dependent, so Bonferroni's bound of 2 · 2.3 % (two sides) is not reached.
    assert 0 < failures < 300 * 2 * stats.norm.sf(2.0) + 3 * np.sqrt(300 * 0.045)


@pytest.mark.parametrize("check", [checks.assert_covariance_close, checks.assert_second_moments_close])
@pytest.mark.parametrize(
    "wrong",
    [COV * 1.3, COV * 0.7, np.diag(np.diag(COV)), COV + 0.3],
    ids=["too large", "too small", "without covariances", "shifted"],
)
def test_a_wrong_covariance_is_noticed(check, wrong) -> None:
    check(SAMPLES, COV, mean=MEAN)
    with pytest.raises(AssertionError, match="entries are off"):
        check(SAMPLES, wrong, mean=MEAN)


def test_a_wrong_mean_is_noticed() -> None:
    checks.assert_means(SAMPLES, MEAN)
    with pytest.raises(AssertionError, match="entries are off"):
        checks.assert_means(SAMPLES, MEAN + np.array([0.0, 0.0, 0.1]))


def test_what_does_not_vary_must_be_equal() -> None:
    checks.assert_means(np.ones((10, 2)), np.ones(2))
    with pytest.raises(AssertionError, match="entries are off"):
        checks.assert_means(np.ones((10, 2)), np.full(2, 1.001))


def test_wrong_proportions_are_noticed() -> None:
    counts = RNG.multinomial(2000, [0.2, 0.3, 0.5])
    checks.assert_proportions(counts, [0.2, 0.3, 0.5])
    with pytest.raises(AssertionError, match="p = "):
        checks.assert_proportions(counts, [1 / 3, 1 / 3, 1 / 3])
    with pytest.raises(AssertionError, match="probability zero"):
        checks.assert_proportions([5, 5, 1], [0.5, 0.5, 0.0])


def test_a_wrong_distribution_is_noticed() -> None:
    checks.assert_distributed(SAMPLES[:, 1], stats.norm())
    with pytest.raises(AssertionError, match="p = "):
        checks.assert_distributed(SAMPLES[:, 1], stats.norm(0, 1.3))


def test_closeness_is_relative_to_what_is_asked() -> None:
    checks.assert_close(torch.tensor([1.0 + 1e-6]), [1.0], rtol=1e-5)
    checks.assert_close(torch.tensor([1e-6]), [0.0], rtol=1e-5, scale=1.0)
    for got in ([1.0 + 1e-4], [float("nan")]):
        with pytest.raises(AssertionError, match="worst at"):
            checks.assert_close(got, [1.0], rtol=1e-5)
    with pytest.raises(AssertionError, match="shape"):
        checks.assert_close([1.0, 1.0], [1.0], rtol=1e-5)


def test_z_widens_with_the_number_of_comparisons() -> None:
    assert checks.widened(5.0, 1) == pytest.approx(5.0)
    assert checks.widened(5.0, 10_000) == pytest.approx(6.55, abs=0.01)
