"""Regression scores: against scipy, scikit-learn, scoringrules, integrals, and simulated coverage."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scoringrules
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.metrics import mean_pinball_loss, root_mean_squared_error

from swag import InputError, metrics
from tests.checks import assert_distributed

RNG = np.random.default_rng(0)
MEAN, VARIANCE, Y = RNG.normal(size=300), RNG.gamma(2.0, size=300), 2 * RNG.normal(size=300)
MEMBERS, WIDTHS = RNG.normal(size=(7, 300)), RNG.gamma(2.0, size=(7, 300))
WEIGHTS = RNG.dirichlet(np.ones(7))

EXACT = 1e-12  # float64 sums of some hundred terms of one size


class TestGaussian:
    def test_nll(self) -> None:
        expected = -stats.norm.logpdf(Y, MEAN, np.sqrt(VARIANCE)).mean()
        assert metrics.gaussian_nll(MEAN, VARIANCE, Y) == pytest.approx(expected, rel=EXACT)
        torch_s = torch.nn.functional.gaussian_nll_loss(*map(torch.tensor, (MEAN, Y, VARIANCE)), full=True)
        assert metrics.gaussian_nll(MEAN, VARIANCE, Y) == pytest.approx(float(torch_s), rel=1e-6)

    def test_crps(self) -> None:
        expected = scoringrules.crps_normal(Y, MEAN, np.sqrt(VARIANCE)).mean()
        assert metrics.crps(MEAN, VARIANCE, Y) == pytest.approx(expected, rel=EXACT)

    def test_crps_is_the_integral_it_says(self) -> None:
        m, v, y = 0.3, 2.5, 1.7
        below = integrate.quad(lambda t: stats.norm.cdf(t, m, math.sqrt(v)) ** 2, -20, y)[0]
        above = integrate.quad(lambda t: stats.norm.sf(t, m, math.sqrt(v)) ** 2, y, 20)[0]
        assert metrics.crps([m], [v], [y]) == pytest.approx(below + above, rel=1e-8)

    def test_crps_of_a_point_is_the_absolute_error(self) -> None:
        assert metrics.crps([1.0, 2.0], [0.0, 0.0], [3.0, 1.5]) == pytest.approx(1.25)
        assert metrics.crps([1.0], [1e-300], [3.0]) == pytest.approx(2.0)

    @given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e2))
    def test_units(self, shift: float, unit: float) -> None:
        """y in other units: the CRPS and RMSE scale, the NLL gains ln(unit), coverage and PIT stay."""
        m, v, y = MEAN * unit + shift, VARIANCE * unit**2, Y * unit + shift
        assert metrics.crps(m, v, y) == pytest.approx(unit * metrics.crps(MEAN, VARIANCE, Y), rel=1e-7)
        assert metrics.rmse(m, y) == pytest.approx(unit * metrics.rmse(MEAN, Y), rel=1e-7)
        gained = metrics.gaussian_nll(m, v, y) - metrics.gaussian_nll(MEAN, VARIANCE, Y)
        assert gained == pytest.approx(math.log(unit), abs=1e-7)
        assert np.allclose(metrics.pit(m, v, y), metrics.pit(MEAN, VARIANCE, Y), atol=1e-7)

    def test_rmse(self) -> None:
        assert metrics.rmse(MEAN, Y) == pytest.approx(root_mean_squared_error(Y, MEAN), rel=EXACT)

    def test_sharpness(self) -> None:
        assert metrics.sharpness(VARIANCE) == pytest.approx(math.sqrt(VARIANCE.mean()), rel=EXACT)

    @pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.95, 0.999])
    def test_coverage(self, level: float) -> None:
        low, high = stats.norm.interval(level, MEAN, np.sqrt(VARIANCE))
        assert metrics.coverage(MEAN, VARIANCE, Y, level) == ((low <= Y) & (high >= Y)).mean()
        assert metrics.interval_coverage(low, high, Y) == ((low <= Y) & (high >= Y)).mean()

    def test_coverage_of_right_predictions(self) -> None:
        """A share of 20,000 independent rows has standard error √(.95 · .05 / 20,000)."""
        y = MEAN.repeat(70)[:20_000] + np.sqrt(VARIANCE.repeat(70)[:20_000]) * RNG.normal(size=20_000)
        value = metrics.coverage(MEAN.repeat(70)[:20_000], VARIANCE.repeat(70)[:20_000], y)
        assert abs(value - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 20_000)

    def test_pit_of_right_predictions_is_uniform(self) -> None:
        y = MEAN + np.sqrt(VARIANCE) * np.random.default_rng(1).normal(size=300)
        values = metrics.pit(MEAN, VARIANCE, y)
        assert isinstance(values, np.ndarray)
        assert_distributed(values, stats.uniform())
        assert np.allclose(values, stats.norm.cdf(y, MEAN, np.sqrt(VARIANCE)), atol=1e-14)

    def test_float32_and_half_tensors(self) -> None:
        m, v, y = (torch.tensor(x, dtype=torch.float16) for x in (MEAN, VARIANCE, Y))
        same = [t.double().numpy() for t in (m, v, y)]
        assert metrics.crps(m, v, y) == metrics.crps(*same)
        assert isinstance(metrics.pit(m, v, y), torch.Tensor)


class TestMixture:
    def test_crps(self) -> None:
        equal = scoringrules.crps_mixnorm(Y, MEMBERS.T, np.sqrt(WIDTHS).T).mean()
        assert metrics.mixture_crps(MEMBERS, WIDTHS, Y) == pytest.approx(equal, rel=EXACT)
        weighted = scoringrules.crps_mixnorm(
            Y, MEMBERS.T, np.sqrt(WIDTHS).T, np.tile(WEIGHTS, (300, 1))
        ).mean()
        assert metrics.mixture_crps(MEMBERS, WIDTHS, Y, weights=WEIGHTS) == pytest.approx(weighted, rel=EXACT)

    def test_crps_of_points_is_that_of_the_ensemble(self) -> None:
        expected = scoringrules.crps_ensemble(Y, MEMBERS.T).mean()
        assert metrics.mixture_crps(MEMBERS, 0 * WIDTHS, Y) == pytest.approx(expected, rel=EXACT)

    def test_nll_and_pit(self) -> None:
        density = WEIGHTS @ stats.norm.pdf(Y, MEMBERS, np.sqrt(WIDTHS))
        value = metrics.mixture_nll(MEMBERS, WIDTHS, Y, weights=WEIGHTS)
        assert value == pytest.approx(-np.log(density).mean(), rel=EXACT)
        cdf = WEIGHTS @ stats.norm.cdf(Y, MEMBERS, np.sqrt(WIDTHS))
        assert np.allclose(metrics.mixture_pit(MEMBERS, WIDTHS, Y, weights=WEIGHTS), cdf, atol=1e-14)

    def test_far_away_the_density_does_not_underflow(self) -> None:
        value = metrics.mixture_nll([[0.0], [1.0]], [[1.0], [1.0]], [100.0])
        assert value == pytest.approx(0.5 * math.log(2 * math.pi) + 99**2 / 2 + math.log(2), rel=EXACT)

    def test_one_member_or_equal_members_are_one_normal(self) -> None:
        for n in (1, 4):
            m, v = np.tile(MEAN, (n, 1)), np.tile(VARIANCE, (n, 1))
            assert metrics.mixture_crps(m, v, Y) == pytest.approx(metrics.crps(MEAN, VARIANCE, Y), rel=EXACT)
            value = metrics.gaussian_nll(MEAN, VARIANCE, Y)
            assert metrics.mixture_nll(m, v, Y) == pytest.approx(value, rel=EXACT)

    def test_a_zero_weight_removes_a_member(self) -> None:
        weights = np.array([0.0, *np.full(6, 1 / 6)])
        for score in (metrics.mixture_crps, metrics.mixture_nll):
            expected = score(MEMBERS[1:], WIDTHS[1:], Y)
            assert score(MEMBERS, WIDTHS, Y, weights=weights) == pytest.approx(expected, rel=EXACT)

    def test_pieces_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = metrics.mixture_crps(MEMBERS, WIDTHS, Y)
        monkeypatch.setattr("swag.metrics.mixture.PAIR_ELEMENTS", 21 * 13)
        assert metrics.mixture_crps(MEMBERS, WIDTHS, Y) == pytest.approx(whole, rel=EXACT)


class TestIntervals:
    LOW, HIGH = MEAN - 1, MEAN + 2

    def test_width(self) -> None:
        assert metrics.interval_width(self.LOW, self.HIGH) == pytest.approx(3)

    @pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
    def test_score(self, level: float) -> None:
        expected = scoringrules.interval_score(Y, self.LOW, self.HIGH, 1 - level).mean()
        assert metrics.interval_score(self.LOW, self.HIGH, Y, level) == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize("q", [0.05, 0.5, 0.9])
    def test_pinball(self, q: float) -> None:
        expected = mean_pinball_loss(Y, MEAN, alpha=q)
        assert metrics.pinball(MEAN, Y, q) == pytest.approx(expected, rel=EXACT)

    def test_the_crps_is_twice_the_mean_pinball_loss(self) -> None:
        """CRPS = 2 ∫₀¹ pinball_q dq, which ties two functions to each other."""
        q = (np.arange(2000) + 0.5) / 2000
        losses = [metrics.pinball(stats.norm.ppf(level, MEAN, np.sqrt(VARIANCE)), Y, level) for level in q]
        # The midpoint rule is off by 2000⁻² times a slope that is steep at the ends.
        assert 2 * np.mean(losses) == pytest.approx(metrics.crps(MEAN, VARIANCE, Y), rel=1e-5)


class TestPit:
    def test_histogram(self) -> None:
        values = np.array([0.0, 0.05, 0.050001, 0.5, 1.0])
        histogram = metrics.pit_histogram(values, 20)
        assert histogram.counts[0] == 2 and histogram.counts[1] == 1 and histogram.counts[-1] == 1
        assert histogram.counts[9] == 1 and sum(histogram.counts) == 5
        assert np.mean(histogram.density) == pytest.approx(1)

    def test_calibration_error_by_a_naive_loop(self) -> None:
        values = metrics.pit(MEAN, VARIANCE, Y)
        levels = np.arange(1, 100) / 100
        expected = np.mean([abs((values <= level).mean() - level) for level in levels])
        assert metrics.pit_calibration_error(values) == pytest.approx(expected, rel=EXACT)
        value = metrics.regression_calibration_error(MEAN, VARIANCE, Y)
        assert value == pytest.approx(expected, rel=EXACT)

    def test_extremes(self) -> None:
        assert metrics.pit_calibration_error(np.zeros(5)) == pytest.approx(0.5)
        assert metrics.pit_calibration_error((np.arange(1000) + 0.5) / 1000) < 1e-3


BAD: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "lengths": (metrics.crps, (MEAN, VARIANCE, Y[:-1]), r"y has shape \(299,\) but mean has \(300,\)"),
    "a column": (
        metrics.crps,
        (MEAN[:, None], VARIANCE, Y),
        r"mean has shape \(300, 1\).*mean\.squeeze\(-1\)",
    ),
    "no rows": (metrics.rmse, (MEAN[:0], Y[:0]), r"mean is empty"),
    "NaN": (metrics.rmse, ([0.0, math.nan], [0.0, 0.0]), r"mean row 1 is nan; every value must be finite"),
    "infinite": (metrics.crps, ([0.0], [1.0], [math.inf]), r"y row 0 is inf"),
    "negative variance": (metrics.crps, ([0.0], [-1.0], [0.0]), r"variance row 0 is -1; it must not be neg"),
    "no variance": (
        metrics.gaussian_nll,
        ([0.0], [0.0], [0.0]),
        r"variance row 0 is 0, so there is no density",
    ),
    "no variance, pit": (metrics.pit, (np.zeros(1), [0.0], [0.0]), r"variance row 0 is 0"),
    "percent": (metrics.coverage, (MEAN, VARIANCE, Y, 95), r"level is 95; .*as a fraction: 0\.95"),
    "level": (
        metrics.interval_score,
        (MEAN, MEAN, Y, 1.0),
        r"level is 1\.0; give a fraction between 0 and 1",
    ),
    "q": (metrics.pinball, (MEAN, Y, 0), r"q is 0; give a fraction"),
    "upside down": (metrics.interval_coverage, ([1.0], [0.0], [0.5]), r"lower row 0 is 1, above upper, 0"),
    "members flat": (
        metrics.mixture_crps,
        (MEAN, VARIANCE, Y),
        r"means has shape \(300,\), expected \(S, N\)",
    ),
    "members turned": (
        metrics.mixture_crps,
        (MEMBERS.T, WIDTHS.T, Y),
        r"y has 300 rows but means has 7 columns",
    ),
    "members' widths": (metrics.mixture_nll, (MEMBERS, WIDTHS[1:], Y), r"variances has shape \(6, 300\)"),
    "negative width": (metrics.mixture_crps, (MEMBERS, -WIDTHS, Y), r"variances position \(0, 0\) is -"),
    "pit range": (metrics.pit_histogram, ([0.5, 1.5],), r"pit_values row 1 is 1\.5, not in \[0, 1\]"),
}


class TestRefused:
    @pytest.mark.parametrize("case", BAD)
    def test_the_message_names_the_argument_and_the_fix(self, case: str) -> None:
        function, arguments, message = BAD[case]
        with pytest.raises(InputError, match=message):
            function(*arguments)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (WEIGHTS[1:], "weights has 6 entries but there are 7 members"),
            (2 * WEIGHTS, "weights sums to 2, not 1; divide by the sum"),
            (WEIGHTS - 2 * WEIGHTS.max() * np.eye(7)[0], "weights row 0 is -"),
        ],
    )
    def test_weights(self, weights: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            metrics.mixture_crps(MEMBERS, WIDTHS, Y, weights=weights)
