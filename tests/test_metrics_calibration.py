"""Calibration errors: against naive loops, scikit-learn, torchmetrics, quadrature, and worked examples."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from swag import metrics
from swag.metrics.binning import bin_index, equal_mass_curve
from swag.metrics.kernel_calibration import SmoothedMeasure
from tests.test_metrics_classification import draw, tied


def binary(confidence: np.ndarray, correct: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes, of which the first has the confidence, ≥ ½, and is the label where it is correct."""
    return torch.from_numpy(np.stack([confidence, 1 - confidence], 1)), torch.from_numpy(
        (~correct).astype(int)
    )


def naive_ece(confidence: np.ndarray, correct: np.ndarray, n_bins: int) -> float:
    total = 0.0
    for b in range(n_bins):
        inside = ((confidence > b / n_bins) | (b == 0)) & (confidence <= (b + 1) / n_bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


class TestEqualWidth:
    @pytest.mark.parametrize("n_bins", [1, 2, 10, 15, 100])
    @pytest.mark.parametrize("n_classes", [2, 10])
    def test_a_naive_loop(self, n_bins: int, n_classes: int) -> None:
        probs, labels = draw(1500, n_classes, sharpness=1.0)
        p = probs.double().numpy()
        expected = naive_ece(p.max(1), p.argmax(1) == labels.numpy(), n_bins)
        assert metrics.ece(probs, labels, n_bins) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(
        ("norm", "metric"), [("l1", metrics.ece), ("l2", metrics.rmsce), ("max", metrics.mce)]
    )
    def test_torchmetrics(self, norm: str, metric: object) -> None:
        probs, labels = draw(3000, 10, sharpness=1.0)
        theirs = float(multiclass_calibration_error(probs, labels, num_classes=10, n_bins=15, norm=norm))
        # They sum 3,000 float32 numbers one after another: relative 3000 · 2⁻²⁴ at worst.
        assert metric(probs, labels) == pytest.approx(theirs, abs=3000 * 2.0**-24)  # type: ignore[operator]

    def test_scikit_learn_s_curve(self) -> None:
        rng = np.random.default_rng(0)
        confidence = rng.uniform(0.5, 1, 2000)
        correct = rng.uniform(size=2000) < confidence
        curve = metrics.reliability_curve(*binary(confidence, correct), n_bins=10)
        accuracy, mean = calibration_curve(correct, confidence, n_bins=10)
        held = [b for b, n in enumerate(curve.counts) if n]
        assert [curve.accuracy[b] for b in held] == pytest.approx(accuracy, rel=1e-12)
        assert [curve.confidence[b] for b in held] == pytest.approx(mean, rel=1e-12)
        assert all(math.isnan(curve.accuracy[b]) for b in range(10) if b not in held)

    def test_by_hand(self) -> None:
        confidence = np.array([0.6, 0.7, 0.95, 0.95])
        correct = np.array([True, False, True, False])
        probs, labels = binary(confidence, correct)
        # Two bins (0, ½], (½, 1]: one gap |.5 − .8|. Five: (.4, .6] gap .4, (.6, .8] gap .7, (.8, 1] gap .45.
        assert metrics.ece(probs, labels, 2) == pytest.approx(0.3)
        assert metrics.ece(probs, labels, 5) == pytest.approx(0.25 * 0.4 + 0.25 * 0.7 + 0.5 * 0.45)
        assert metrics.mce(probs, labels, 5) == pytest.approx(0.7)
        assert metrics.rmsce(probs, labels, 5) == pytest.approx(
            math.sqrt(0.25 * 0.16 + 0.25 * 0.49 + 0.5 * 0.2025)
        )
        assert metrics.adaptive_ece(probs, labels, 2) == pytest.approx(0.5 * 0.15 + 0.5 * 0.45)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_bins_are_right_closed_in_the_input_s_own_precision(self, dtype: torch.dtype) -> None:
        for n_bins in (*range(1, 60), 100, 333, 1000, 4999):
            edges = torch.arange(n_bins + 1, dtype=torch.float64).div(n_bins).to(dtype)
            assert bin_index(edges, n_bins).tolist() == [0, *range(n_bins)]
            above = torch.nextafter(edges[:-1], torch.ones((), dtype=dtype))
            assert bin_index(above, n_bins).tolist() == list(range(n_bins))

    def test_float32_a_fifth_is_in_the_bin_that_ends_there(self) -> None:
        curve = metrics.reliability_curve(torch.full((4, 5), 0.2), torch.arange(4), n_bins=5)
        assert curve.counts == (4, 0, 0, 0, 0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_confidences_of_exactly_one(self, dtype: torch.dtype) -> None:
        probs = torch.eye(2, dtype=dtype).repeat(50, 1)
        curve = metrics.reliability_curve(probs, torch.zeros(100, dtype=torch.int64), n_bins=10)
        assert curve.counts == (0,) * 9 + (100,)
        assert (curve.confidence[-1], curve.accuracy[-1], curve.ece) == (1.0, 0.5, 0.5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_at_a_hundred_thousand_rows(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        probs = torch.softmax(3 * torch.randn(100_000, 10, generator=generator), 1).to(dtype)
        labels = torch.randint(10, (100_000,), generator=generator)
        p = probs.float().double().numpy()
        expected = naive_ece(p.max(1), p.argmax(1) == labels.numpy(), 16)  # edges k/16 are exact in float32
        assert expected > 0.5
        assert metrics.ece(probs, labels, 16) == pytest.approx(expected, abs=1e-12)


class TestEqualMass:
    def test_a_naive_loop_without_ties(self) -> None:
        probs, labels = draw(997, 4)
        p = probs.double().numpy()
        order = np.argsort(p.max(1))
        confidence, correct = p.max(1)[order], (p.argmax(1) == labels.numpy())[order]
        cuts = [k * 997 // 15 for k in range(16)]
        expected = sum(
            (stop - start) / 997 * abs(correct[start:stop].mean() - confidence[start:stop].mean())
            for start, stop in itertools.pairwise(cuts)
        )
        assert metrics.adaptive_ece(probs, labels, 15) == pytest.approx(expected, abs=1e-12)
        assert max(metrics.equal_mass_reliability_curve(probs, labels, 15).counts) == 67

    def test_the_order_of_tied_rows_does_not_matter(self) -> None:
        probs, labels = tied(401, 4)
        value = metrics.adaptive_ece(probs, labels, 15)
        rng = np.random.default_rng(0)
        for _ in range(20):
            order = rng.permutation(401)
            assert metrics.adaptive_ece(probs[order], labels[order], 15) == value

    def test_ties_across_a_cut_by_hand(self) -> None:
        """Four rows at .8, three of them right, cut in the middle: each half is .75 right in any order."""
        confidence = torch.tensor([0.8] * 4, dtype=torch.float64)
        for correct in ([1, 1, 1, 0], [0, 1, 1, 1]):
            curve = equal_mass_curve(confidence, torch.tensor(correct) == 1, 2)
            assert curve.counts == (2, 2) and curve.accuracy == (0.75, 0.75)

    def test_all_confidences_at_one(self) -> None:
        """Half the confidences exactly 1: no row may be dropped."""
        probs = torch.cat([torch.eye(2)[torch.zeros(500, dtype=torch.int64)], torch.full((500, 2), 0.5)])
        labels = torch.tensor([0, 1] * 500)
        curve = metrics.equal_mass_reliability_curve(probs, labels, 20)
        assert sum(curve.counts) == 1000
        assert curve.ece == pytest.approx(0.25)  # right half the time: no gap at .5, a gap of ½ at 1

    def test_fewer_rows_than_bins(self) -> None:
        probs, labels = draw(3, 2)
        assert metrics.equal_mass_reliability_curve(probs, labels, 15).counts == (1, 1, 1)


class TestLaws:
    @settings(max_examples=40)
    @given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([2, 3, 10]))
    def test_ranges_and_order(self, seed: int, n_bins: int, n_classes: int) -> None:
        probs, labels = draw(60, n_classes, seed=seed)
        ece, rmsce, mce = (f(probs, labels, n_bins) for f in (metrics.ece, metrics.rmsce, metrics.mce))
        assert 0 <= ece <= rmsce + 1e-12 <= mce + 2e-12 <= 1 + 3e-12
        assert metrics.ece(probs, labels, 1) <= ece + 1e-12  # coarser bins can only hide
        assert metrics.ece(probs, labels, n_bins) <= metrics.ece(probs, labels, 2 * n_bins) + 1e-12
        assert 0 <= metrics.debiased_ece(probs, labels, n_bins) <= ece + 1e-12
        assert 0 <= metrics.adaptive_ece(probs, labels, n_bins) <= 1
        assert 0 <= metrics.classwise_ece(probs, labels, n_bins) <= 1
        assert 0 <= metrics.smooth_ece(probs, labels) <= 1
        rms = metrics.equal_mass_reliability_curve(probs, labels, n_bins).rmsce
        assert 0 <= metrics.debiased_rmsce(probs, labels, n_bins) <= rms + 1e-12

    def test_classwise_by_a_naive_loop(self) -> None:
        probs, labels = draw(500, 4)
        p, y = probs.double().numpy(), labels.numpy()
        expected = np.mean([naive_ece(p[:, c], y == c, 15) for c in range(4)])
        assert metrics.classwise_ece(probs, labels) == pytest.approx(expected, abs=1e-12)


class TestDebiased:
    def sets(self, gap: float, n: int, n_sets: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(0)
        confidence = np.full(n, 0.7)
        return [binary(confidence, rng.uniform(size=n) < 0.7 - gap) for _ in range(n_sets)]

    def test_the_squared_error_of_a_bin_is_unbiased(self) -> None:
        """Over 500 sets of 50 rows, the mean of debiased_rmsce² is the true gap²."""
        gap, n = 0.5, 50  # so large that the cut at 0 never acts
        squares = np.array([metrics.debiased_rmsce(p, y, n_bins=1) ** 2 for p, y in self.sets(gap, n, 500)])
        assert squares.min() > 0
        assert abs(squares.mean() - gap**2) < 5 * squares.std() / math.sqrt(500)

    def test_it_is_nearer_to_the_truth_than_the_ece(self) -> None:
        """Ten calibrated bins of 100 rows: E|g| is s √(2/π) a bin, and the debiased ECE 2 − √2 times that."""
        rng = np.random.default_rng(0)
        confidence = np.repeat(0.525 + 0.05 * np.arange(10), 100)
        expected = np.sqrt(confidence * (1 - confidence) / 100 * 2 / math.pi).mean()
        sets = [binary(confidence, rng.uniform(size=1000) < confidence) for _ in range(200)]
        plain = np.array([metrics.ece(p, y, 20) for p, y in sets])
        debiased = np.array([metrics.debiased_ece(p, y, 20) for p, y in sets])
        # Five standard errors, and 3 % for the normal approximation of 100 coins.
        assert abs(plain.mean() - expected) < 5 * plain.std() / math.sqrt(200) + 0.03 * expected
        aim = (2 - math.sqrt(2)) * expected
        assert abs(debiased.mean() - aim) < 5 * debiased.std() / math.sqrt(200) + 0.03 * expected

    def test_single_rows_tell_nothing_of_their_noise(self) -> None:
        probs, labels = draw(5, 3)
        assert metrics.debiased_rmsce(probs, labels, n_bins=5) == 0.0


def reflected_kernel(t: np.ndarray, at: np.ndarray, sigma: float) -> np.ndarray:
    """The Gaussian reflected at 0 and 1, by images; (T, N)."""
    images = [k + sign * at for k in range(-6, 7, 2) for sign in (1, -1)]
    return sum(np.exp(-0.5 * ((t[:, None] - x) / sigma) ** 2) for x in images) / (
        sigma * math.sqrt(2 * math.pi)
    )


class TestKernels:
    T = np.linspace(0, 1, 4001)

    def data(self, n: int = 80, shift: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(1)
        confidence = rng.uniform(0.5, 1, n)
        return confidence, rng.uniform(size=n) < confidence - shift

    @pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5, 1.0])
    def test_smoothing_equals_images_and_quadrature(self, sigma: float) -> None:
        confidence, correct = self.data()
        weights = (correct - confidence) / len(confidence)
        density = reflected_kernel(self.T, confidence, sigma) @ weights
        expected = np.trapezoid(np.abs(density), self.T)
        ours = SmoothedMeasure(torch.from_numpy(confidence), torch.from_numpy(weights)).total_variation(sigma)
        # Dividing a row between the ends of a cell of width h = 2⁻¹⁴ adds h²/8σ² at most, 1e-6; the oracle's
        # quadrature is off by about (1/4000)²/12σ², 2e-5, and the kinks of the absolute value add as much.
        assert ours == pytest.approx(expected, rel=1e-4)

    def test_the_fixed_point(self) -> None:
        for shift in (0.0, 0.1, 0.3):
            confidence, correct = self.data(300, shift)
            value = metrics.smooth_ece(*binary(confidence, correct))
            weights = torch.from_numpy((correct - confidence) / 300)
            assert SmoothedMeasure(torch.from_numpy(confidence), weights).total_variation(
                value
            ) == pytest.approx(value, rel=1e-5)

    def test_relplot(self) -> None:
        """Values of the authors' package, whose search stops at about 1e-3."""
        n = 500
        confidence = 0.5 + 0.5 * (np.arange(n) * 0.6180339887498949 % 1)
        correct = (np.arange(n) * 0.7548776662466927 % 1) < confidence - 0.08 * np.sin(12 * confidence)
        assert metrics.smooth_ece(*binary(confidence, correct)) == pytest.approx(0.04776, abs=1e-3)

    @pytest.mark.parametrize("confidence", [0.5, 0.75, 1.0])
    def test_one_sided_residuals_have_the_mean_as_error(self, confidence: float) -> None:
        labels = torch.ones(7, dtype=torch.int64)
        probs = torch.tensor([[confidence, 1 - confidence]]).repeat(7, 1)
        if confidence == 0.5:
            labels = torch.zeros(7, dtype=torch.int64)
            assert metrics.smooth_ece(probs, labels) == pytest.approx(0.5, abs=1e-6)
        else:
            assert metrics.smooth_ece(probs, labels) == pytest.approx(confidence, abs=1e-6)

    def test_certain_and_right_is_zero(self) -> None:
        assert metrics.smooth_ece(torch.eye(3), torch.arange(3)) == 0.0

    def test_it_falls_with_more_calibrated_rows(self) -> None:
        small, large = (metrics.smooth_ece(*binary(*self.data(n, 0.0))) for n in (100, 20_000))
        assert large < small / 3

    @pytest.mark.parametrize("bandwidth", [0.02, 0.1, None])
    def test_kde_by_quadrature(self, bandwidth: float | None) -> None:
        confidence, correct = self.data()
        h = bandwidth or 1.06 * confidence.std() * len(confidence) ** -0.2
        kernel = reflected_kernel(self.T, confidence, h) / len(confidence)
        density, right = kernel.sum(1), kernel @ correct
        expected = np.trapezoid(np.abs(self.T - right / np.maximum(density, 1e-300)) * density, self.T)
        assert metrics.kde_ece(*binary(confidence, correct), bandwidth) == pytest.approx(expected, rel=1e-4)

    def test_kde_of_one_confidence(self) -> None:
        probs = torch.tensor([[0.75, 0.25]]).repeat(20, 1)
        value = metrics.kde_ece(probs, torch.zeros(20, dtype=torch.int64))
        assert value == pytest.approx(0.25, abs=1e-3)
