"""Calibrators of probabilities: the map that made the data is found again; what must not change does not."""

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from swag import InputError, calibrators, metrics
from swag.predictive import CategoricalPredictive

FITTED = [
    calibrators.TemperatureScaling,
    calibrators.VectorScaling,
    calibrators.DirichletScaling,
    calibrators.IsotonicCalibration,
    calibrators.HistogramBinning,
]
EACH = pytest.mark.parametrize("calibrator", FITTED)


def rows(
    n: int, n_classes: int, *, sharpness: float = 1.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels drawn from softmax(z), and the probabilities softmax(sharpness z) that claim to know them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, n_classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return (sharpness * logits).softmax(1), labels


class TestEach:
    @EACH
    def test_overconfidence_is_mended_on_fresh_rows(self, calibrator: Any) -> None:
        fitted = calibrator.fit(*rows(4000, 4, sharpness=2.5))
        probs, labels = rows(4000, 4, sharpness=2.5, seed=1)
        calibrated = fitted(probs)
        assert metrics.brier(calibrated, labels) < metrics.brier(probs, labels)
        # The ECE of 4,000 calibrated rows is about .01; before it is .16.
        assert metrics.ece(probs, labels) > 0.1 and metrics.ece(calibrated, labels) < 0.03

    @EACH
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_rows_are_distributions_in_the_type_that_came(self, calibrator: Any, dtype: torch.dtype) -> None:
        probs, labels = rows(300, 3, sharpness=2.0)
        result = calibrator.fit(probs.to(dtype), labels)(probs.to(dtype))
        assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert result.shape == probs.shape and bool((result >= 0).all())
        assert torch.allclose(result.sum(1), torch.ones(300, dtype=result.dtype), atol=4e-7)

    @EACH
    def test_arrays_give_arrays_and_predictives_tensors(self, calibrator: Any) -> None:
        probs, labels = rows(300, 3, sharpness=2.0)
        fitted = calibrator.fit(probs.numpy(), labels.numpy())
        expected = calibrator.fit(probs, labels)(probs)
        from_array = fitted(probs.numpy())
        assert isinstance(from_array, np.ndarray) and np.allclose(from_array, expected, atol=1e-6)
        predictive = CategoricalPredictive.from_probs(probs)
        from_predictive = calibrator.fit(predictive, labels)(predictive)
        assert isinstance(from_predictive, torch.Tensor)
        assert torch.allclose(from_predictive, expected, atol=1e-4)

    @EACH
    def test_zeros_and_ones(self, calibrator: Any) -> None:
        probs = torch.cat([torch.eye(3), torch.full((3, 3), 1 / 3)]).repeat(20, 1)
        labels = torch.tensor([0, 1, 0, 0, 1, 2]).repeat(20)
        result = calibrator.fit(probs, labels)(probs)
        assert bool(torch.isfinite(result).all())
        assert torch.allclose(result.sum(1), torch.ones(120), atol=1e-6)

    @EACH
    def test_a_class_never_seen(self, calibrator: Any) -> None:
        probs, _ = rows(200, 3)
        result = calibrator.fit(probs, torch.zeros(200, dtype=torch.int64))(probs)
        assert bool(torch.isfinite(result).all())

    @EACH
    def test_one_row(self, calibrator: Any) -> None:
        result = calibrator.fit(torch.tensor([[0.6, 0.4]]), torch.tensor([0]))(torch.tensor([[0.5, 0.5]]))
        assert float(result.sum()) == pytest.approx(1)

    @EACH
    @pytest.mark.parametrize(
        ("probs", "labels", "message"),
        [
            (torch.tensor([[2.0, -1.0]]), torch.tensor([0]), r"probs row 0 holds -1; .*logits\?"),
            (torch.tensor([[0.5, 0.5]]), torch.tensor([2]), r"labels row 0 is 2, but probs has 2 classes"),
            (torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]), r"labels has 2 rows but probs has 1"),
            (torch.tensor([[0.5, math.nan]]), torch.tensor([0]), r"probs row 0 holds NaN"),
            (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), r"probs is empty"),
        ],
    )
    def test_refused(self, calibrator: Any, probs: torch.Tensor, labels: torch.Tensor, message: str) -> None:
        with pytest.raises(InputError, match=message):
            calibrator.fit(probs, labels)

    @pytest.mark.parametrize("calibrator", FITTED[1:])
    def test_another_number_of_classes(self, calibrator: Any) -> None:
        fitted = calibrator.fit(*rows(50, 3))
        with pytest.raises(InputError, match="probs has 4 classes but the calibrator was fitted on 3"):
            fitted(rows(5, 4)[0])


class TestTemperature:
    @pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
    def test_the_sharpness_is_found_again(self, sharpness: float) -> None:
        probs, labels = rows(20_000, 5, sharpness=sharpness)
        fitted = calibrators.TemperatureScaling.fit(probs, labels)
        # The Fisher information of ln T is E Var_p[z] a row, above 1 here: standard error below 20,000^(−½).
        assert math.log(fitted.temperature / sharpness) == pytest.approx(0, abs=5 / math.sqrt(20_000))
        assert fitted.temperature == pytest.approx(metrics.fit_temperature(probs, labels))

    def test_predictions_and_zeros_stay(self) -> None:
        probs = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.0, 0.0, 0.0, 1.0]])
        for temperature in (0.01, 0.5, 1.0, 7.0, 100.0):
            result = calibrators.TemperatureScaling(temperature)(probs)
            assert torch.equal(result.argmax(1), probs.argmax(1))
            assert bool((result[probs == 0] == 0).all())
        assert torch.allclose(calibrators.TemperatureScaling(1.0)(probs), probs, atol=1e-7)

    def test_a_predictive_s_own_logarithms_are_used(self) -> None:
        """A probability of e⁻²⁰⁰ is 0 in float32, but its logarithm is not lost."""
        logits = torch.tensor([[0.0, -200.0], [0.0, -200.0]])
        predictive = CategoricalPredictive.from_logits(logits)
        assert float(predictive.probs[0, 1]) == 0.0
        fitted = calibrators.TemperatureScaling.fit(predictive, torch.tensor([0, 1]))
        assert fitted.temperature == 100.0
        assert float(fitted(predictive)[0, 1]) == pytest.approx(1 / (1 + math.exp(2)), rel=1e-5)

    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
    def test_refused(self, value: float) -> None:
        with pytest.raises(InputError, match=r"temperature is .*; give a number above 0"):
            calibrators.TemperatureScaling(value)

    def test_the_end_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="swag"):
            calibrators.TemperatureScaling.fit(torch.tensor([[0.6, 0.4]]), torch.tensor([0]))
        assert "at or below 0.01" in caplog.text


class TestAffine:
    def test_vector_scaling_finds_scale_and_shift(self) -> None:
        generator = torch.Generator().manual_seed(0)
        given = torch.randn(30_000, 3, generator=generator).log_softmax(1).double()
        scale, shift = torch.tensor([1.5, 0.7, 1.0]), torch.tensor([0.5, 0.0, -0.5])
        labels = torch.multinomial((given * scale + shift).softmax(1), 1, generator=generator).squeeze(1)
        fitted = calibrators.VectorScaling.fit(given.exp(), labels, l2=0.0)
        truth = (given * scale + shift).softmax(1)
        # Six numbers from 30,000 rows: the mean KL to the truth is about 5/(2 · 30,000).
        kl = (truth * (truth.log() - fitted(given.exp()).log())).sum(1).mean()
        assert float(kl) < 4 * 5 / (2 * 30_000)

    def test_vector_scaling_is_at_its_minimum(self) -> None:
        probs, labels = rows(400, 4, sharpness=2.0)
        x = probs.double().log()

        def objective(theta: np.ndarray) -> float:
            scale, shift = torch.from_numpy(theta).split(4)
            penalty = 0.01 * float((scale - 1).square().mean() + shift.square().mean())
            return float(torch.nn.functional.cross_entropy(x * scale + shift, labels)) + penalty

        fitted = calibrators.VectorScaling.fit(probs, labels, l2=0.01)
        theta = torch.cat([fitted.scale, fitted.shift]).numpy()
        assert np.abs(optimize.approx_fprime(theta, objective, 1e-6)).max() < 1e-5

    def test_dirichlet_scaling_is_multinomial_regression_on_logarithms(self) -> None:
        """Without penalties it is scikit-learn's logistic regression, which fits the same probabilities."""
        probs, labels = rows(800, 3, sharpness=2.0)
        theirs = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10).fit(probs.double().log(), labels)
        ours = calibrators.DirichletScaling.fit(probs, labels, off_diagonal_l2=0.0, bias_l2=0.0)
        expected = theirs.predict_proba(probs.double().log())
        assert np.allclose(ours(probs.double()), expected, atol=1e-5)

    def test_a_strong_penalty_leaves_the_diagonal(self) -> None:
        fitted = calibrators.DirichletScaling.fit(
            *rows(500, 4, sharpness=2.0), off_diagonal_l2=1e4, bias_l2=1e4
        )
        off = fitted.weight - torch.diag(fitted.weight.diagonal())
        assert off.abs().max() < 1e-3 and fitted.bias.abs().max() < 1e-3
        assert fitted.weight.diagonal().mean() == pytest.approx(0.5, abs=0.1)

    def test_separable_rows_stay_finite(self) -> None:
        probs, labels = torch.tensor([[0.6, 0.4], [0.4, 0.6]]).repeat(50, 1), torch.tensor([0, 1]).repeat(50)
        for calibrator in (calibrators.VectorScaling, calibrators.DirichletScaling):
            result = calibrator.fit(probs, labels)(probs)
            assert bool(torch.isfinite(result).all()) and metrics.accuracy(result, labels) == 1.0

    @pytest.mark.parametrize("options", [{"off_diagonal_l2": -1.0}, {"bias_l2": math.nan}])
    def test_penalties(self, options: dict[str, float]) -> None:
        with pytest.raises(InputError, match=f"{next(iter(options))} is .*; give a number ≥ 0"):
            calibrators.DirichletScaling.fit(*rows(50, 3), **options)


class TestBinned:
    def test_isotonic_is_scikit_learn_s(self) -> None:
        probs, labels = rows(500, 3, sharpness=2.0)
        p, fresh = probs.double().numpy(), rows(200, 3, seed=1)[0].double().numpy()
        columns = [
            IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
            .fit(p[:, c], labels == c)
            .predict(fresh[:, c])
            for c in range(3)
        ]
        expected = np.stack(columns, 1)
        sums = expected.sum(1, keepdims=True)
        expected = np.where(sums > 0, expected / np.where(sums > 0, sums, 1), fresh)
        result = calibrators.IsotonicCalibration.fit(p, labels)(fresh)
        assert np.allclose(result, expected, atol=1e-12)

    def test_histogram_by_a_naive_loop(self) -> None:
        probs, labels = rows(500, 3, sharpness=2.0)
        p = probs.double().numpy()
        expected = p.copy()
        for c in range(3):
            for b in range(10):
                inside = ((p[:, c] > b / 10) | (b == 0)) & (p[:, c] <= (b + 1) / 10)
                expected[inside, c] = (labels.numpy()[inside] == c).mean() if inside.any() else np.nan
        expected /= expected.sum(1, keepdims=True)
        result = calibrators.HistogramBinning.fit(p, labels, n_bins=10)(p)
        assert np.allclose(result, expected, atol=1e-12)

    def test_an_empty_bin_leaves_a_probability_as_it_is(self) -> None:
        fitted = calibrators.HistogramBinning.fit(torch.tensor([[0.9, 0.1]]), torch.tensor([0]), n_bins=10)
        result = fitted(torch.tensor([[0.65, 0.35]]))
        assert result.tolist() == [pytest.approx([0.65, 0.35])]

    def test_a_row_mapped_to_nothing_stays_as_it_is(self) -> None:
        fitted = calibrators.HistogramBinning(torch.zeros(2, 4))
        assert fitted(torch.tensor([[0.65, 0.35]])).tolist() == [pytest.approx([0.65, 0.35])]
