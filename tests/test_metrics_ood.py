"""Out-of-distribution figures: against scikit-learn, naive loops, and the laws they must obey."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from swag import InputError, metrics

RNG = np.random.default_rng(0)
SMOOTH = RNG.normal(size=400), RNG.normal(1.0, 1.0, size=250)
TIED = RNG.integers(0, 8, size=400).astype(float), RNG.integers(2, 10, size=250).astype(float)
SETS = pytest.mark.parametrize("scores", [SMOOTH, TIED], ids=["smooth", "tied"])

Scores = tuple[np.ndarray, np.ndarray]
PAIRS: list[Callable[..., float]] = [
    metrics.auroc,
    metrics.aupr,
    metrics.aupr_in,
    metrics.aupr_out,
    metrics.fpr_at_tpr,
    metrics.fpr_at_tpr_in,
    metrics.detection_error,
]
whole_scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


def stacked(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Labels, 1 out of distribution, and scores."""
    inside, outside = scores
    return np.r_[np.zeros(len(inside)), np.ones(len(outside))], np.r_[inside, outside]


class TestAgainstScikitLearn:
    @SETS
    def test_auroc(self, scores: Scores) -> None:
        labels, values = stacked(scores)
        assert metrics.auroc(*scores) == pytest.approx(sk.roc_auc_score(labels, values), rel=1e-12)

    @SETS
    def test_aupr(self, scores: Scores) -> None:
        labels, values = stacked(scores)
        out = sk.average_precision_score(labels, values)
        assert metrics.aupr(*scores) == metrics.aupr_out(*scores) == pytest.approx(out, rel=1e-12)
        inside = sk.average_precision_score(1 - labels, -values)
        assert metrics.aupr_in(*scores) == pytest.approx(inside, rel=1e-12)

    @SETS
    @pytest.mark.parametrize("tpr", [0.5, 0.8, 0.95, 0.999])
    def test_fpr_at_tpr(self, scores: Scores, tpr: float) -> None:
        labels, values = stacked(scores)
        false, true, _ = sk.roc_curve(labels, values, drop_intermediate=False)
        assert metrics.fpr_at_tpr(*scores, tpr) == pytest.approx(false[true >= tpr - 1e-12].min(), abs=1e-12)
        false, true, _ = sk.roc_curve(1 - labels, -values, drop_intermediate=False)
        assert metrics.fpr_at_tpr_in(*scores, tpr) == pytest.approx(
            false[true >= tpr - 1e-12].min(), abs=1e-12
        )

    @SETS
    def test_detection_error(self, scores: Scores) -> None:
        labels, values = stacked(scores)
        false, true, _ = sk.roc_curve(labels, values, drop_intermediate=False)
        assert metrics.detection_error(*scores) == pytest.approx((0.5 * (1 - true) + 0.5 * false).min())


class TestLaws:
    @given(whole_scores, whole_scores)
    def test_pairs_counted_one_by_one(self, inside: list[int], outside: list[int]) -> None:
        pairs = [(o > i) + 0.5 * (o == i) for i in inside for o in outside]
        assert metrics.auroc(inside, outside) == pytest.approx(np.mean(pairs), abs=1e-12)
        assert metrics.auroc(outside, inside) == pytest.approx(1 - np.mean(pairs), abs=1e-12)
        negated = [-i for i in inside], [-o for o in outside]
        assert metrics.detection_error(inside, outside) == pytest.approx(
            metrics.detection_error(*negated[::-1])
        )
        for figure in PAIRS:
            assert 0 <= figure(inside, outside) <= 1
        assert metrics.detection_error(inside, outside) <= 0.5

    @SETS
    def test_only_the_order_of_scores_matters(self, scores: Scores) -> None:
        bent = np.exp(scores[0] / 2), np.exp(scores[1] / 2)
        shuffled = RNG.permutation(scores[0]), RNG.permutation(scores[1])
        for figure in PAIRS:
            assert figure(*bent) == figure(*shuffled) == figure(*scores)

    def test_perfect_and_useless_scores(self) -> None:
        perfect, useless = ([0.1, 0.2], [0.8, 0.9]), ([0.5, 0.5, 0.5], [0.5])
        assert [figure(*perfect) for figure in PAIRS] == [1, 1, 1, 1, 0, 0, 0]
        assert [figure(*useless) for figure in PAIRS] == [0.5, 0.25, 0.75, 0.25, 1, 1, 0.5]

    def test_a_rate_reached_exactly_counts(self) -> None:
        """19 of 20 flagged is a rate of .95, though .95 · 20 may round to above 19."""
        assert metrics.fpr_at_tpr(np.full(3, -1.0), np.r_[np.full(19, 1.0), -2.0], tpr=0.95) == 0.0


class TestSymmetrisedKL:
    def test_scipy(self) -> None:
        inside, outside = np.abs(SMOOTH[0]) / 5, np.abs(SMOOTH[1]) / 5
        for smoothing in (0.5, 1.0):
            histograms = [np.histogram(x, 20, (0, 2))[0] + smoothing for x in (inside, outside)]
            p, q = (h / h.sum() for h in histograms)
            expected = stats.entropy(p, q) + stats.entropy(q, p)
            value = metrics.symmetrised_kl(inside, outside, 20, smoothing=smoothing, upper=2.0)
            assert value == pytest.approx(expected, rel=1e-12)
            assert value == pytest.approx(
                metrics.symmetrised_kl(outside, inside, 20, smoothing=smoothing, upper=2.0)
            )

    def test_smoothing_decides_where_the_sets_are_apart(self) -> None:
        assert metrics.symmetrised_kl([0.0], [1.0], smoothing=0) == math.inf
        assert metrics.symmetrised_kl([0.0, 1.0], [0.0, 1.0], smoothing=0) == 0.0
        assert metrics.symmetrised_kl([0.0], [0.0]) == 0.0

    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            (([0.5], [1.5]), {"upper": 1.0}, r"upper is 1 but an entropy is 1\.5; give ln C in nats"),
            (([0.5], [-0.5]), {}, r"entropies_out row 0 is -0\.5; it must not be negative"),
            (([0.5], [0.5]), {"smoothing": -1}, r"smoothing is -1; give a number of rows"),
            (([], [0.5]), {}, r"entropies_in is empty"),
        ],
    )
    def test_refused(self, arguments: Any, options: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            metrics.symmetrised_kl(*arguments, **options)


class TestRefused:
    @pytest.mark.parametrize("figure", PAIRS)
    def test_an_empty_set(self, figure: Callable[..., float]) -> None:
        with pytest.raises(InputError, match=r"scores_out is empty: its shape is \(0,\)"):
            figure([0.5], np.zeros(0))
        with pytest.raises(InputError, match="scores_in is empty"):
            figure(torch.zeros(0), torch.ones(1))

    @pytest.mark.parametrize("figure", PAIRS)
    def test_nan(self, figure: Callable[..., float]) -> None:
        with pytest.raises(InputError, match="scores_in row 1 is nan; every value must be finite"):
            figure([0.5, math.nan], [0.5])

    def test_a_percentage(self) -> None:
        with pytest.raises(InputError, match=r"tpr is 95; .*as a fraction: 0\.95"):
            metrics.fpr_at_tpr([0.5], [0.5], tpr=95)


class TestScores:
    LOGITS = torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0)) * 3
    PROBS = LOGITS.softmax(-1)

    def test_formulas(self) -> None:
        logits, probs = self.LOGITS[0], self.PROBS[0]
        assert torch.equal(metrics.max_probability_score(probs), 1 - probs.max(1).values)
        assert torch.allclose(metrics.energy_score(logits), -logits.exp().sum(1).log(), atol=1e-5)
        assert torch.equal(metrics.max_logit_score(logits), -logits.max(1).values)
        assert torch.equal(metrics.entropy_score(probs), metrics.entropy(probs))
        assert torch.equal(
            metrics.mutual_information_score(self.PROBS), metrics.mutual_information(self.PROBS)
        )

    @pytest.mark.parametrize("score", [metrics.energy_score, metrics.max_logit_score])
    def test_averaged_over_members(self, score: Callable[..., Any]) -> None:
        expected = torch.stack([score(member) for member in self.LOGITS]).mean(0)
        assert torch.allclose(metrics.averaged_over_members(score, self.LOGITS), expected, atol=1e-6)
        arrays = metrics.averaged_over_members(score, self.LOGITS.numpy())
        assert isinstance(arrays, np.ndarray) and np.allclose(arrays, expected, atol=1e-6)

    def test_higher_is_further_out(self) -> None:
        """Flat rows score above sharp ones, by every score."""
        sharp, flat = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
        for score in (metrics.energy_score, metrics.max_logit_score):
            assert score(flat) > score(sharp)
        for score in (metrics.entropy_score, metrics.max_probability_score):
            assert score(flat.softmax(1)) > score(sharp.softmax(1))

    def test_half_logits(self) -> None:
        half = self.LOGITS[0].half()
        assert torch.equal(metrics.energy_score(half), metrics.energy_score(half.float()))

    @pytest.mark.parametrize(
        ("logits", "message"),
        [
            (
                torch.zeros(2, 3, 4),
                r"logits has shape \(2, 3, 4\), expected \(N, C\); .*averaged_over_members",
            ),
            (torch.zeros(0, 3), r"logits has shape \(0, 3\)"),
            (torch.zeros(2, 3, dtype=torch.int64), r"logits has dtype torch\.int64"),
            (torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), r"logits row 1 holds NaN or infinity"),
        ],
    )
    def test_refused(self, logits: torch.Tensor, message: str) -> None:
        with pytest.raises(InputError, match=message):
            metrics.energy_score(logits)

    def test_members_refused(self) -> None:
        with pytest.raises(InputError, match=r"members has shape \(50, 6\), expected \(S, N, C\)"):
            metrics.averaged_over_members(metrics.energy_score, self.LOGITS[0])
