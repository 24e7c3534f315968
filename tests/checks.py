"""Statistical comparisons whose tolerance is the sampling error, not a guess.

z is how many standard deviations the whole check may be off by: where m numbers are compared, each is
given the wider z whose tail probability is that of z over m (Bonferroni), so a check of 10,000 covariance
entries fails by chance as rarely as a check of one. z = 5 is one false alarm in 1.7 million seeds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

Array = NDArray[np.float64]


def array(values: Tensor | ArrayLike) -> Array:
    """float64 numpy, also from bfloat16 tensors."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def widened(z: float, n_comparisons: int) -> float:
    """The z at which n comparisons together fail by chance as often as one does at z."""
    return float(stats.norm.isf(stats.norm.sf(z) / n_comparisons))


def assert_close(
    got: Tensor | ArrayLike, expected: Tensor | ArrayLike, *, rtol: float, scale: ArrayLike | None = None
) -> None:
    """|got − expected| ≤ rtol·scale everywhere; scale is |expected| unless given (a number or an array)."""
    got, expected = array(got), array(expected)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    size = np.abs(expected) if scale is None else np.broadcast_to(array(scale), expected.shape)
    error = np.abs(got - expected)
    bad = ~(error <= rtol * size)
    if bad.any():
        worst = np.unravel_index(np.argmax(np.where(bad, error / np.maximum(size, 1e-300), 0)), bad.shape)
        relative = error[worst] / max(size[worst], 1e-300)
        raise AssertionError(
            f"{bad.sum()} of {bad.size} differ; worst at {tuple(map(int, worst))}: got {got[worst]!r}, "
            f"expected {expected[worst]!r}, relative error {relative:.2e} > {rtol:.0e}"
        )


def assert_means(values: Tensor | ArrayLike, expected: Tensor | ArrayLike, *, z: float = 5.0) -> None:
    """Rows of `values` (n, …) average to `expected` (…), within their own standard errors.

    For independent rows of any distribution, n in the hundreds or more; for balanced ones (a mixture's)
    the standard error is too large, never too small.
    """
    values, expected = array(values), array(expected)
    n = len(values)
    error = values.std(0, ddof=1) / np.sqrt(n)
    _assert_within(values.mean(0), expected, error, z, f"the mean of {n} samples")


def assert_covariance_close(
    samples: Tensor | ArrayLike,
    cov: Tensor | ArrayLike,
    *,
    mean: Tensor | ArrayLike,
    z: float = 5.0,
) -> None:
    """Gaussian samples (n, D) have this covariance (D, D) around a known mean (D,).

    An entry's sampling variance is (c_ii·c_jj + c_ij²)/n, the Wishart distribution's.
    """
    samples, cov = array(samples), array(cov)
    centred = samples - array(mean)
    n = len(samples)
    variance = np.diag(cov)
    error = np.sqrt((np.outer(variance, variance) + cov**2) / n)
    _assert_within(centred.T @ centred / n, cov, error, z, f"the covariance of {n} samples")


def assert_second_moments_close(
    samples: Tensor | ArrayLike,
    cov: Tensor | ArrayLike,
    *,
    mean: Tensor | ArrayLike,
    z: float = 5.0,
) -> None:
    """As `assert_covariance_close`, for samples of any distribution: the errors come from the samples."""
    centred = array(samples) - array(mean)
    assert_means(centred[:, :, None] * centred[:, None, :], cov, z=z)


def assert_proportions(counts: Tensor | ArrayLike, expected: Tensor | ArrayLike, *, z: float = 5.0) -> None:
    """Independent draws fall into classes (M,) with these probabilities (M,): Pearson's chi-square."""
    counts, expected = array(counts), array(expected)
    assert (counts[expected == 0] == 0).all(), f"draws from a class of probability zero: {counts}"
    kept = expected > 0
    if kept.sum() == 1:
        return
    p = stats.chisquare(counts[kept], counts.sum() * expected[kept]).pvalue
    assert p > stats.norm.sf(z), f"counts {counts}, expected {counts.sum() * expected}, p = {p:.1e}"


def assert_distributed(
    values: Tensor | ArrayLike, distribution: stats.rv_continuous, *, z: float = 5.0
) -> None:
    """Independent values (n,) follow a scipy distribution: Kolmogorov and Smirnov's test."""
    result = stats.kstest(array(values), distribution.cdf)
    assert result.pvalue > stats.norm.sf(z), f"p = {result.pvalue:.1e}, distance {result.statistic:.3f}"


def _assert_within(got: Array, expected: Array, error: Array, z: float, what: str) -> None:
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    limit = widened(z, got.size) * error
    # Where nothing varies, only rounding (float32's) is allowed for.
    limit = np.maximum(limit, 1e-6 * np.abs(expected).max(initial=0.0))
    off = np.abs(got - expected)
    bad = ~(off <= limit)
    if bad.any():
        worst = np.unravel_index(np.argmax(np.where(bad, off / np.maximum(limit, 1e-300), 0)), bad.shape)
        raise AssertionError(
            f"{what}: {bad.sum()} of {bad.size} entries are off; worst at {tuple(map(int, worst))}: got "
            f"{got[worst]:.6g}, expected {expected[worst]:.6g} ± {error[worst]:.2g} ({z:g} standard errors, "
            f"widened to {widened(z, got.size):.2f} for {got.size} comparisons)"
        )
