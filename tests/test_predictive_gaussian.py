"""The regression predictive: the exact mixture against scipy, and the law of total variance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, stats
from scipy.special import logsumexp
from torch import Tensor

import swag
from swag.predictive import GaussianAccumulator, GaussianPredictive, Predictive
from tests.checks import Array, array, assert_close

EPSILON = float(torch.finfo(torch.float32).eps)
MOMENTS = ("mean", "aleatoric", "epistemic", "variance")


def mixture(
    s: int = 5, n: int = 4, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Means and variances (S, N) of members that overlap, and differ in width."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(s, n, generator=generator, dtype=torch.float64)
    variances = 0.05 + 3 * torch.rand(s, n, generator=generator, dtype=torch.float64) ** 2
    return means.to(dtype), variances.to(dtype)


def oracle(means: Tensor, variances: Tensor) -> Any:
    """scipy's normal distributions (S, N)."""
    return stats.norm(array(means), np.sqrt(array(variances)))


def log_prob(means: Tensor, variances: Tensor, y: Array) -> Array:
    return logsumexp(oracle(means, variances).logpdf(y), 0) - math.log(len(means))


GRID = np.concatenate([np.linspace(-9, 9, 37), [-40.0, 25.0, 100.0]])


def at(value: float, n: int) -> Tensor:
    return torch.full((n,), float(value), dtype=torch.float64)


# --- moments ---------------------------------------------------------------------------------------------


def arrays(limit: float) -> st.SearchStrategy[tuple[Array, Array]]:
    shapes = st.shared(st.tuples(st.integers(1, 9), st.integers(1, 4)), key="shape")
    means = hnp.arrays(np.float32, shapes, elements=st.floats(-limit, limit, width=32))
    variances = hnp.arrays(np.float32, shapes, elements=st.floats(2**-10, limit, width=32))
    return st.tuples(means, variances)


@given(arrays(1024))
def test_moments_by_the_law_of_total_variance(given_arrays: tuple[Array, Array]) -> None:
    means, variances = given_arrays
    predictive = GaussianPredictive(torch.from_numpy(means), torch.from_numpy(variances))
    means, variances = means.astype(np.float64), variances.astype(np.float64)
    rtol = (len(means) + 5) * EPSILON
    largest = np.abs(means).max(0)
    assert_close(predictive.mean, means.mean(0), rtol=rtol, scale=largest + 1e-30)
    assert_close(predictive.aleatoric, variances.mean(0), rtol=rtol)
    # E[μ²] − μ̄² written out in float64; float32 Welford is off by the rounding of the means.
    second = (variances + means**2).mean(0)
    # (In float32 the squares of the smallest numbers underflow.)
    scale = means.std(0) * largest + means.var(0) + EPSILON * largest**2 + 1e-30
    assert_close(predictive.epistemic, means.var(0), rtol=rtol, scale=scale)
    assert_close(predictive.variance, second - means.mean(0) ** 2, rtol=rtol, scale=scale + variances.mean(0))
    assert torch.equal(predictive.variance, predictive.aleatoric + predictive.epistemic)
    assert (predictive.epistemic >= 0).all()


def test_far_from_zero_the_spread_of_the_means_survives() -> None:
    """E[μ²] − E[μ]² in float32 would be 0 or negative here."""
    means = torch.tensor([[1000.0], [1000.25], [999.75], [1000.0]])
    predictive = GaussianPredictive(means, torch.ones(4, 1))
    assert predictive.epistemic.item() == pytest.approx(0.03125, rel=1e-4)


def test_by_hand() -> None:
    predictive = GaussianPredictive(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
    assert (predictive.mean.item(), predictive.aleatoric.item(), predictive.epistemic.item()) == (
        1.0,
        2.0,
        1.0,
    )
    assert predictive.variance.item() == 3.0
    assert (predictive.n_samples, predictive.n_rows) == (2, 1)


def test_monte_carlo_error_is_the_standard_error_of_the_mean_in_predictive_stds() -> None:
    means, variances = mixture(7)
    error = array(means).std(0, ddof=1) / math.sqrt(7)
    std = np.sqrt(array(means).var(0) + array(variances).mean(0))
    predictive = GaussianPredictive(means, variances)
    assert predictive.monte_carlo_error == pytest.approx((error / std).mean(), rel=1e-12)
    assert math.isnan(GaussianPredictive(means[:1], variances[:1]).monte_carlo_error)


# --- the exact mixture -----------------------------------------------------------------------------------


@pytest.mark.parametrize("y", GRID)
def test_log_prob_and_cdf_equal_scipys(y: float) -> None:
    means, variances = mixture()
    predictive = GaussianPredictive(means, variances)
    assert_close(predictive.log_prob(at(y, 4)), log_prob(means, variances, np.full(4, y)), rtol=1e-12)
    cdf = oracle(means, variances).cdf(y).mean(0)
    assert_close(predictive.cdf(at(y, 4)), cdf, rtol=1e-14, scale=1)


def test_it_is_the_mixture_and_not_the_moment_matched_gaussian() -> None:
    predictive = GaussianPredictive(torch.tensor([[-3.0], [3.0]]), torch.full((2, 1), 0.01))
    middle = predictive.log_prob(torch.zeros(1)).item()
    matched = stats.norm(predictive.mean.item(), math.sqrt(predictive.variance.item())).logpdf(0)
    assert middle < -400 < -3 < matched
    assert predictive.quantile(0.25).item() == pytest.approx(-3.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_density_integrates_to_one_and_is_the_slope_of_the_cdf(seed: int) -> None:
    means, variances = mixture(3, 1, seed=seed)
    predictive = GaussianPredictive(means.repeat(1, 8001), variances.repeat(1, 8001))
    y = torch.linspace(-20, 20, 8001, dtype=torch.float64)
    density, cdf = array(predictive.log_prob(y).exp()), array(predictive.cdf(y))
    step = 40 / 8000
    # The trapezoid rule on a smooth function that vanishes at both ends is exact up to rounding.
    assert density.sum() * step == pytest.approx(1, abs=1e-12)
    assert_close(np.diff(cdf) / step, (density[1:] + density[:-1]) / 2, rtol=1e-4, scale=density.max())


LEVELS = [1e-12, 1e-4, 0.025, 0.25, 0.5, 0.9, 0.975, 1 - 1e-6]


@pytest.mark.parametrize("q", LEVELS)
def test_quantiles_equal_a_root_search_by_scipy(q: float) -> None:
    means, variances = mixture()
    found = array(GaussianPredictive(means, variances).quantile(q))
    for row in range(4):
        members = oracle(means[:, row], variances[:, row])
        expected = optimize.brentq(lambda y, m=members: m.cdf(y).mean() - q, -60, 60, xtol=1e-13, rtol=1e-14)
        # The error of a quantile is that of the cdf, a few 1e-16, over the density there.
        density = members.pdf(expected).mean()
        assert abs(found[row] - expected) <= 1e-12 + 1e-15 / density


@given(arrays(64), st.floats(0.001, 0.999))
def test_quantile_inverts_the_cdf(given_arrays: tuple[Array, Array], q: float) -> None:
    means, variances = (torch.from_numpy(values).double() for values in given_arrays)
    predictive = GaussianPredictive(means, variances)
    y = predictive.quantile(q)
    # The cdf takes the level q at y, but for the rounding of y times the density, at most 1/√(2π·σ²).
    assert_close(predictive.cdf(y), np.full(len(y), q), rtol=1e-12, scale=1)
    again = torch.stack([predictive.quantile(float(level))[i] for i, level in enumerate(predictive.cdf(y))])
    density = predictive.log_prob(y).exp()
    sure = density > 1e-3
    assert_close(again[sure], y[sure], rtol=1e-12, scale=1 + array(1 / density[sure]))


def test_one_member_has_the_normal_quantiles() -> None:
    means, variances = mixture(1, 4)
    predictive = GaussianPredictive(means, variances)
    for q in LEVELS:
        assert_close(predictive.quantile(q), oracle(means, variances).ppf(q)[0], rtol=1e-12, scale=1)


def test_many_levels_at_once() -> None:
    predictive = GaussianPredictive(*mixture())
    stacked = predictive.quantile(torch.tensor(LEVELS, dtype=torch.float64))
    assert stacked.shape == (len(LEVELS), 4)
    for row, q in zip(stacked, LEVELS, strict=True):
        assert torch.equal(row, predictive.quantile(q))
    assert (stacked.diff(dim=0) > 0).all()
    assert torch.equal(predictive.quantile(LEVELS), stacked)  # type: ignore[arg-type]


def test_float32() -> None:
    means, variances = mixture(dtype=torch.float32)
    predictive = GaussianPredictive(means, variances)
    y = torch.linspace(-2, 2, 4)
    assert_close(predictive.log_prob(y), log_prob(means, variances, array(y)), rtol=1e-5, scale=1)
    assert_close(predictive.cdf(y), oracle(means, variances).cdf(array(y)).mean(0), rtol=1e-6, scale=1)
    exact = GaussianPredictive(means.double(), variances.double()).quantile(0.3)
    assert predictive.quantile(0.3).dtype == torch.float32
    assert_close(predictive.quantile(0.3), exact, rtol=EPSILON)


def test_integer_targets_and_float64_targets_of_float32_predictives() -> None:
    means, variances = mixture(dtype=torch.float32)
    predictive = GaussianPredictive(means, variances)
    assert torch.equal(predictive.log_prob(torch.arange(4)), predictive.log_prob(torch.arange(4.0)))
    assert predictive.log_prob(torch.arange(4.0, dtype=torch.float64)).dtype == torch.float64


# --- streaming -------------------------------------------------------------------------------------------


def streamed(means: Tensor, variances: Tensor, *, keep_members: bool = True) -> GaussianPredictive:
    accumulator = GaussianAccumulator(keep_members=keep_members)
    for mean, variance in zip(means, variances, strict=True):
        accumulator.add(mean, variance)
    return accumulator.compute()


def test_streaming_equals_stacking() -> None:
    means, variances = mixture()
    once, stacked = streamed(means, variances), GaussianPredictive(means, variances)
    for name in (*MOMENTS, "member_means", "member_variances"):
        assert torch.equal(getattr(once, name), getattr(stacked, name))
    assert torch.equal(once.member_means, means) and torch.equal(once.member_variances, variances)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_in_float32(dtype: torch.dtype) -> None:
    means, variances = mixture(300, 4, dtype=dtype)
    predictive = streamed(means, variances)
    assert predictive.mean.dtype == predictive.variance.dtype == torch.float32
    assert_close(predictive.mean, array(means).mean(0), rtol=300 * EPSILON, scale=1)
    assert_close(predictive.epistemic, array(means).var(0), rtol=300 * EPSILON)


def test_without_members_there_are_moments_only() -> None:
    means, variances = mixture()
    predictive, full = streamed(means, variances, keep_members=False), streamed(means, variances)
    for name in MOMENTS:
        assert torch.equal(getattr(predictive, name), getattr(full, name))
    for what, call in (
        ("log_prob", lambda: predictive.log_prob(torch.zeros(4))),
        ("cdf", lambda: predictive.cdf(torch.zeros(4))),
        ("quantile", lambda: predictive.quantile(0.5)),
        ("member_means", lambda: predictive.member_means),
        ("member_variances", lambda: predictive.member_variances),
    ):
        with pytest.raises(swag.StateError, match=rf"{what}: .*keep_members=True"):
            call()


def held(obj: object) -> int:
    """Numbers in the tensors an object holds, in lists of pairs too."""

    def count(value: Any) -> int:
        if isinstance(value, list | tuple):
            return sum(count(item) for item in value)
        return value.numel() if isinstance(value, Tensor) else 0

    return sum(count(value) for value in vars(obj).values())


def test_memory_does_not_grow_without_members() -> None:
    sizes = {}
    for n in (2, 50):
        for keep in (True, False):
            accumulator = GaussianAccumulator(keep_members=keep)
            for mean, variance in zip(*mixture(n, 4), strict=True):
                accumulator.add(mean, variance)
            sizes[n, keep] = held(accumulator), held(accumulator.compute())
    assert sizes[2, False] == sizes[50, False] == (3 * 4, 3 * 4)
    assert sizes[50, True] == (3 * 4 + 2 * 50 * 4, 3 * 4 + 2 * 50 * 4)


def test_later_members_do_not_reach_earlier_results() -> None:
    means, variances = mixture()
    accumulator = GaussianAccumulator()
    accumulator.add(means[0], variances[0])
    first = accumulator.compute()
    before = {name: getattr(first, name).clone() for name in (*MOMENTS, "member_means")}
    for mean, variance in zip(means[1:], variances[1:], strict=True):
        accumulator.add(mean, variance)
    for name, value in before.items():
        assert torch.equal(getattr(first, name), value)
    assert first.n_samples == 1


def test_a_gradient_is_left_behind() -> None:
    means, variances = mixture()
    predictive = streamed(means.requires_grad_(), variances.requires_grad_())
    assert not any(getattr(predictive, name).requires_grad for name in (*MOMENTS, "member_means"))


@pytest.mark.parametrize("keep_members", [True, False])
def test_concatenating_equals_predicting_all_rows(keep_members: bool) -> None:
    means, variances = mixture(5, 9)
    whole = streamed(means, variances, keep_members=keep_members)
    parts = [
        streamed(m, v, keep_members=keep_members)
        for m, v in zip(means.split([4, 1, 4], 1), variances.split([4, 1, 4], 1), strict=True)
    ]
    joined = GaussianPredictive.concatenate(parts)
    assert (joined.n_rows, joined.n_samples) == (9, 5)
    for name in (*MOMENTS, *(("member_means", "member_variances") if keep_members else ())):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    if keep_members:
        assert torch.equal(joined.quantile(0.1), whole.quantile(0.1))
        assert torch.equal(joined.log_prob(at(0.5, 9)), whole.log_prob(at(0.5, 9)))


def test_concatenating_without_all_members_keeps_none() -> None:
    joined = GaussianPredictive.concatenate([streamed(*mixture()), streamed(*mixture(), keep_members=False)])
    assert joined.n_rows == 8
    with pytest.raises(swag.StateError):
        joined.quantile(0.5)


def test_to_another_device_moves_every_tensor() -> None:
    predictive = streamed(*mixture())
    moved = predictive.to("meta")
    assert isinstance(predictive, Predictive)
    for name in (*MOMENTS, "member_means", "member_variances"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(predictive, name).device.type == "cpu"
    assert (moved.n_samples, moved.n_rows) == (5, 4)
    assert streamed(*mixture(), keep_members=False).to("meta").n_samples == 5


def test_repr() -> None:
    assert repr(streamed(*mixture(3, 1200))) == "GaussianPredictive(N=1,200, n_samples=3)"


# --- likelihoods -----------------------------------------------------------------------------------------


def run(likelihood: Any, *outputs: Tensor, **arguments: Any) -> GaussianPredictive:
    accumulator = likelihood.accumulator(**arguments)
    for member in outputs:
        accumulator.update(member)
    return accumulator.compute()


def test_heteroscedastic_outputs_are_mean_and_raw_variance() -> None:
    outputs = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, -200.0], [0.0, 200.0]])
    predictive = run(swag.HeteroscedasticGaussian(), outputs)
    assert torch.equal(predictive.mean, outputs[:, 0])
    expected = np.log1p(np.exp([0.0, 3.0]))
    assert_close(predictive.variance[:2], expected, rtol=1e-6)  # a variance: σ² = softplus, not σ
    assert predictive.variance[2].item() == pytest.approx(1e-12)  # stays positive where softplus underflows
    assert predictive.variance[3].item() == 200.0
    floor = run(swag.HeteroscedasticGaussian(min_variance=0.5), outputs)
    assert_close(floor.variance[:2], expected + 0.5, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_homoscedastic_outputs_are_means(shape: tuple[int, ...]) -> None:
    outputs = torch.tensor([1.0, 2.0, 3.0]).reshape(shape)
    predictive = run(swag.HomoscedasticGaussian(4.0), outputs, outputs + 2)
    assert predictive.mean.tolist() == [2.0, 3.0, 4.0]
    assert predictive.aleatoric.tolist() == [4.0] * 3
    assert predictive.epistemic.tolist() == [1.0] * 3


@pytest.mark.parametrize(("keep_members", "kept"), [(None, True), (True, True), (False, False)])
def test_regression_keeps_members_unless_told_otherwise(keep_members: bool | None, kept: bool) -> None:
    for likelihood in (swag.HeteroscedasticGaussian(), swag.HomoscedasticGaussian(1.0)):
        outputs = torch.zeros(3, 2 if isinstance(likelihood, swag.HeteroscedasticGaussian) else 1)
        predictive = run(likelihood, outputs, keep_members=keep_members)
        if kept:
            assert predictive.log_prob(torch.zeros(3)).shape == (3,)
        else:
            with pytest.raises(swag.StateError):
                predictive.log_prob(torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs(dtype: torch.dtype) -> None:
    outputs = torch.tensor([[1.0, -20.0]], dtype=dtype)
    predictive = run(swag.HeteroscedasticGaussian(), outputs)
    assert predictive.variance.dtype == torch.float32
    assert predictive.variance.item() == pytest.approx(math.log1p(math.exp(-20.0)), rel=1e-3)


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.0, -1.0, math.inf, math.nan])
def test_bad_constant_variances(variance: float) -> None:
    with pytest.raises(swag.InputError, match=r"variance: got .*positive number \(a variance, not a std\)"):
        swag.HomoscedasticGaussian(variance)


@pytest.mark.parametrize(
    ("mean", "variance", "complaint"),
    [
        (
            torch.zeros(2, 1),
            torch.ones(2, 1),
            r"mean, variance: got \(2, 1\) and \(2, 1\); both must be \(N,\)",
        ),
        (torch.zeros(4), torch.ones(3), r"mean, variance: got \(4,\) and \(3,\)"),
        (torch.zeros(4), torch.tensor([1.0, 1.0, 0.0, 1.0]), r"variance: a member's variance is zero"),
        (torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, 1.0]), r"variance: .* negative"),
        (torch.zeros(4), torch.tensor([1.0, 1.0, torch.nan, 1.0]), r"variance: .* NaN"),
        (torch.zeros(3), torch.ones(3), r"this member gave \(3,\), the ones before \(4,\)"),
    ],
)
def test_bad_members_leave_the_accumulator_as_it_was(mean: Tensor, variance: Tensor, complaint: str) -> None:
    means, variances = mixture()
    accumulator = GaussianAccumulator()
    accumulator.add(means[0], variances[0])
    with pytest.raises(swag.InputError, match=complaint):
        accumulator.add(mean, variance)
    for good in range(1, 5):
        accumulator.add(means[good], variances[good])
    for name in (*MOMENTS, "member_means"):
        assert torch.equal(
            getattr(accumulator.compute(), name), getattr(GaussianPredictive(means, variances), name)
        )


@pytest.mark.parametrize(
    ("means", "variances"),
    [
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(0, 3), torch.ones(0, 3)),
        (torch.zeros(2, 3), torch.ones(2, 4)),
    ],
)
def test_members_of_the_wrong_shape(means: Tensor, variances: Tensor) -> None:
    with pytest.raises(swag.InputError, match=r"member_means, member_variances: got .*\(S, N\)"):
        GaussianPredictive(means, variances)


@pytest.mark.parametrize(
    "q", [0.0, 1.0, -0.1, 50, math.nan, torch.tensor([0.5, 1.5]), torch.full((1, 1), 0.5)]
)
def test_bad_levels(q: Any) -> None:
    with pytest.raises(swag.InputError, match=r"q: got .* strictly between 0 and 1"):
        GaussianPredictive(*mixture()).quantile(q)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (5, 4)])
def test_bad_targets(shape: tuple[int, ...]) -> None:
    """(4, 1) against (5, 4) members would broadcast to nonsense."""
    predictive = GaussianPredictive(*mixture())
    for call in (predictive.log_prob, predictive.cdf):
        with pytest.raises(swag.InputError, match=r"y: got shape .*, expected \(N=4,\)"):
            call(torch.zeros(shape))


def test_nothing_was_added_yet() -> None:
    with pytest.raises(swag.StateError, match=r"compute: no member's outputs were added yet; call add first"):
        GaussianAccumulator().compute()
    with pytest.raises(swag.InputError, match="parts: need at least one"):
        GaussianPredictive.concatenate([])
    with pytest.raises(swag.InputError, match="same number of members"):
        GaussianPredictive.concatenate([streamed(*mixture(2)), streamed(*mixture(3))])
