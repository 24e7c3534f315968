"""Conformal sets and intervals: the finite-sample law by simulation, and MAPIE's and hand-worked answers."""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from swag import InputError, calibrators, metrics
from swag.calibrators.conformal_sets import uniforms_for
from swag.calibrators.quantiles import conformal_quantile
from tests.checks import assert_distributed
from tests.test_calibrators import rows

SETS: list[Callable[..., Any]] = [
    calibrators.ConformalLAC.fit,
    lambda p, y, level: calibrators.ConformalAPS.fit(p, y, level=level, seed=3),
    lambda p, y, level: calibrators.ConformalRAPS.fit(p, y, level=level, penalty=0.02, n_free=1, seed=-3),
]


def assert_covers(covered: np.ndarray, n: int, level: float, *, n_sets: int) -> None:
    """Mean coverage over many sets of n calibration rows: in [level, level + 1/(n + 1)], to 5 errors."""
    error = 5 * covered.std() / math.sqrt(n_sets)
    assert level - error < covered.mean() < level + 1 / (n + 1) + error


class TestQuantile:
    @pytest.mark.parametrize(
        ("n", "level", "rank"), [(9, 0.9, 9), (10, 0.9, 10), (19, 0.95, 19), (99, 0.5, 50)]
    )
    def test_the_rank(self, n: int, level: float, rank: int) -> None:
        scores = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)))
        assert conformal_quantile(scores, level) == rank

    def test_too_few_rows(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="swag"):
            assert conformal_quantile(torch.arange(8.0), 0.9) == math.inf
        assert "8 calibration rows are too few for level 0.9, which needs at least 9" in caplog.text

    def test_the_law_holds_exactly(self) -> None:
        """P(new ≤ quantile) = ⌈(n + 1) level⌉/(n + 1): 20,000 sets of 12 rows, level .8, so 11/13."""
        scores = torch.from_numpy(np.random.default_rng(0).normal(size=(20_000, 13)))
        hits = np.mean([float(row[12]) <= conformal_quantile(row[:12], 0.8) for row in scores])
        assert abs(hits - 11 / 13) < 5 * math.sqrt(11 / 13 * 2 / 13 / 20_000)

    @pytest.mark.parametrize("level", [0, 1, 90])
    def test_refused(self, level: float) -> None:
        with pytest.raises(InputError, match=r"level is .*; give a fraction between 0 and 1"):
            conformal_quantile(torch.arange(8.0), level)


class TestSets:
    @pytest.mark.parametrize("fit", SETS, ids=["LAC", "APS", "RAPS"])
    @pytest.mark.parametrize(("n", "level"), [(50, 0.9), (200, 0.7)])
    def test_coverage(self, fit: Callable[..., Any], n: int, level: float) -> None:
        """200 sets of calibration rows, each judged on 300 rows of an overconfident model."""
        covered = []
        for seed in range(200):
            probs, labels = rows(n + 300, 4, sharpness=3.0, seed=seed)
            sets = fit(probs[:n], labels[:n], level=level)(probs[n:])
            covered.append(float(sets.gather(1, labels[n:, None]).double().mean()))
        assert_covers(np.array(covered), n, level, n_sets=200)

    @pytest.mark.parametrize("penalty", [0.0, 0.05])
    def test_without_a_seed_coverage_is_at_least_the_level(self, penalty: float) -> None:
        covered = []
        for seed in range(100):
            probs, labels = rows(400, 4, sharpness=3.0, seed=seed)
            fitted = calibrators.ConformalRAPS.fit(
                probs[:100], labels[:100], level=0.8, penalty=penalty, n_free=1
            )
            covered.append(float(fitted(probs[100:]).gather(1, labels[100:, None]).double().mean()))
        assert np.mean(covered) > 0.8 - 5 * np.std(covered) / 10

    def test_raps_without_penalty_is_aps(self) -> None:
        probs, labels = rows(300, 5)
        aps = calibrators.ConformalAPS.fit(probs, labels, level=0.8, seed=1)
        raps = calibrators.ConformalRAPS.fit(probs, labels, level=0.8, penalty=0.0, seed=1)
        assert aps.threshold == raps.threshold and torch.equal(aps(probs), raps(probs))

    def test_raps_gives_smaller_sets_of_many_classes(self) -> None:
        """Many classes with long tails: the penalty cuts them off, the coverage stays."""
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3000, 60, generator=generator)
        labels = torch.multinomial((4 * logits).softmax(1), 1, generator=generator).squeeze(1)
        probs = logits.softmax(1)
        aps = calibrators.ConformalAPS.fit(probs[:1000], labels[:1000], seed=0)(probs[1000:])
        raps = calibrators.ConformalRAPS.fit(probs[:1000], labels[:1000], seed=0, penalty=0.1, n_free=3)
        smaller = raps(probs[1000:])
        assert smaller.sum() < aps.sum()
        assert float(smaller.gather(1, labels[1000:, None]).double().mean()) > 0.87

    def test_aps_by_hand(self) -> None:
        probs = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.4, 0.35, 0.25]])
        # Deterministic scores: all that is ranked up to and with the label: .8, .7, 1.
        fitted = calibrators.ConformalAPS.fit(probs, torch.tensor([1, 1, 2]), level=0.5)
        assert fitted.threshold == pytest.approx(0.8)
        assert fitted(torch.tensor([[0.1, 0.6, 0.3]])).tolist() == [[False, True, False]]

    def test_lac_by_hand(self) -> None:
        probs = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.7, 0.3]])
        fitted = calibrators.ConformalLAC.fit(probs, torch.tensor([0, 0, 0]), level=0.5)
        assert fitted.threshold == pytest.approx(0.3)
        assert fitted(torch.tensor([[0.71, 0.29], [0.5, 0.5]])).tolist() == [[True, False], [False, False]]

    def test_lac_is_mapie_s(self) -> None:
        mapie = pytest.importorskip("mapie.classification")
        probs, labels = rows(600, 4, sharpness=2.0)
        p, y = probs.double().numpy(), labels.numpy()

        class GivenProbabilities:
            """A fitted scikit-learn classifier whose inputs are its outputs."""

            classes_ = np.arange(4)
            n_features_in_ = 4
            fit = score = None

            def __sklearn_is_fitted__(self) -> bool:
                return True

            def __sklearn_tags__(self) -> Any:
                from sklearn.linear_model import LogisticRegression

                return LogisticRegression().__sklearn_tags__()

            def get_params(self, deep: bool = True) -> dict[str, Any]:
                return {}

            def predict_proba(self, x: np.ndarray) -> np.ndarray:
                return x / x.sum(1, keepdims=True)

            def predict(self, x: np.ndarray) -> np.ndarray:
                return x.argmax(1)

        theirs = mapie.SplitConformalClassifier(
            GivenProbabilities(), confidence_level=0.85, conformity_score="lac"
        )
        theirs.conformalize(p[:300], y[:300])
        _, sets = theirs.predict_set(p[300:])
        ours = calibrators.ConformalLAC.fit(p[:300] / p[:300].sum(1, keepdims=True), y[:300], level=0.85)
        result = ours(p[300:] / p[300:].sum(1, keepdims=True))
        assert np.array_equal(result.numpy(), sets[:, :, 0])

    def test_the_same_seed_gives_the_same_sets(self) -> None:
        probs, labels = rows(300, 5)
        one, other = (calibrators.ConformalAPS.fit(probs, labels, seed=4) for _ in range(2))
        assert one == other and torch.equal(one(probs), other(probs))
        assert not torch.equal(one(probs), calibrators.ConformalAPS(one.threshold, 5, seed=5)(probs))

    def test_uniforms_are_uniform_and_belong_to_the_row(self) -> None:
        probs = rows(5000, 3)[0].double()
        u = uniforms_for(probs, seed=0)
        assert_distributed(u.squeeze(1), stats.uniform())
        assert torch.equal(uniforms_for(probs[17:18], seed=0), u[17:18])
        assert torch.equal(uniforms_for(probs.flip(0), seed=0), u.flip(0))
        other = uniforms_for(probs, seed=1)
        assert abs(np.corrcoef(u.squeeze(1), other.squeeze(1))[0, 1]) < 5 / math.sqrt(5000)

    def test_too_few_rows_hold_every_class(self) -> None:
        probs, labels = rows(5, 3)
        assert bool(calibrators.ConformalLAC.fit(probs, labels, level=0.9)(probs).all())

    def test_refused(self) -> None:
        probs, labels = rows(50, 3)
        with pytest.raises(InputError, match="penalty is -1; give a number ≥ 0"):
            calibrators.ConformalRAPS.fit(probs, labels, penalty=-1)
        with pytest.raises(InputError, match="n_free is -1"):
            calibrators.ConformalRAPS.fit(probs, labels, n_free=-1)
        with pytest.raises(InputError, match="probs has 2 classes but the calibrator was fitted on 3"):
            calibrators.ConformalLAC.fit(probs, labels)(probs[:, :2] / probs[:, :2].sum(1, keepdim=True))
        with pytest.raises(InputError, match=r"labels row 0 is 3, but probs has 3 classes"):
            calibrators.ConformalAPS.fit(probs, labels + 3 - labels)


def heteroscedastic(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, variances that are wrong by a factor 4, and heavy-tailed outcomes."""
    rng = np.random.default_rng(seed)
    mean, sigma = rng.normal(size=n), rng.uniform(0.5, 2.0, size=n)
    return mean, sigma**2 / 4, mean + sigma * rng.standard_t(4, size=n)


class TestIntervals:
    @pytest.mark.parametrize(("n", "level"), [(40, 0.9), (150, 0.6)])
    def test_normalised_residuals_cover(self, n: int, level: float) -> None:
        covered = []
        for seed in range(200):
            m, v, y = heteroscedastic(n + 300, seed)
            fitted = calibrators.NormalizedResidualConformal.fit(m[:n], v[:n], y[:n], level=level)
            covered.append(metrics.interval_coverage(*fitted(m[n:], v[n:]), y[n:]))
        assert_covers(np.array(covered), n, level, n_sets=200)

    @pytest.mark.parametrize(("n", "level"), [(40, 0.9), (150, 0.6)])
    def test_quantile_regression_covers(self, n: int, level: float) -> None:
        covered = []
        for seed in range(200):
            m, v, y = heteroscedastic(n + 300, seed)
            low, high = m - np.sqrt(v), m + np.sqrt(v)
            fitted = calibrators.ConformalizedQuantileRegression.fit(low[:n], high[:n], y[:n], level=level)
            covered.append(metrics.interval_coverage(*fitted(low[n:], high[n:]), y[n:]))
        assert_covers(np.array(covered), n, level, n_sets=200)

    def test_right_gaussians_get_the_normal_quantile(self) -> None:
        rng = np.random.default_rng(0)
        v = rng.gamma(2.0, size=40_000)
        fitted = calibrators.NormalizedResidualConformal.fit(
            0 * v, v, np.sqrt(v) * rng.normal(size=40_000), level=0.9
        )
        z = stats.norm.ppf(0.95)
        error = math.sqrt(0.9 * 0.1 / 40_000) / (2 * stats.norm.pdf(z))
        assert abs(fitted.factor - z) < 5 * error

    def test_too_wide_quantiles_are_drawn_in_and_never_cross(self) -> None:
        fitted = calibrators.ConformalizedQuantileRegression.fit(
            [-10.0] * 20, [10.0] * 20, np.linspace(-1, 1, 20), level=0.9
        )
        assert fitted.margin == pytest.approx(-9)
        low, high = fitted([-10.0, 0.0], [10.0, 2.0])
        assert low.tolist() == pytest.approx([-1, 1]) and high.tolist() == pytest.approx([1, 1])

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: calibrators.NormalizedResidualConformal.fit([0.0], [0.0], [1.0]), "variance row 0 is 0"),
            (
                lambda: calibrators.NormalizedResidualConformal.fit([0.0], [1.0], [1.0, 2.0]),
                r"y has shape \(2,\)",
            ),
            (
                lambda: calibrators.ConformalizedQuantileRegression.fit([1.0], [0.0], [1.0]),
                "lower row 0 is 1, above",
            ),
            (
                lambda: calibrators.ConformalizedQuantileRegression.fit([0.0], [1.0], [math.nan]),
                "y row 0 is nan",
            ),
        ],
    )
    def test_refused(self, call: Callable[[], Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            call()
