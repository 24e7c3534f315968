"""Streams of pieces: the same figures as in one shot, merged in any order, saved and taken over."""

import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swag import InputError, metrics
from tests.test_metrics_classification import draw, tied

FIGURES = ("accuracy", "nll", "brier", "ece", "mce", "rmsce")
cuts = st.lists(st.integers(0, 400), max_size=6).map(lambda xs: sorted({0, *xs, 400}))


def stream(probs: torch.Tensor, labels: torch.Tensor) -> metrics.StreamingClassification:
    made = metrics.StreamingClassification()
    made.update(probs, labels)
    return made


def assert_same(one: metrics.ClassificationScores, other: metrics.ClassificationScores) -> None:
    """Counts equal; sums to float64 rounding of 400 terms."""
    assert (one.n, one.n_impossible, one.accuracy) == (other.n, other.n_impossible, other.accuracy)
    assert one.reliability.counts == other.reliability.counts
    for name in FIGURES:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-13, abs=1e-14), name


class TestClassification:
    @given(cuts, st.integers(0, 100))
    def test_pieces_merged_in_any_order(self, bounds: list[int], seed: int) -> None:
        probs, labels = draw(400, 4)
        pieces = [stream(probs[a:b], labels[a:b]) for a, b in itertools.pairwise(bounds)]
        total = metrics.StreamingClassification()
        for index in np.random.default_rng(seed).permutation(len(pieces)):
            total.merge(pieces[index])
        assert_same(total.compute(), metrics.classification_scores(probs, labels))

    def test_merging_counts_is_exact(self) -> None:
        """In eighths every sum is exact, so nothing may differ at all."""
        probs, labels = tied(400, 4)
        one, other = stream(probs[:123], labels[:123]), stream(probs[123:], labels[123:])
        one.merge(other)
        whole = metrics.classification_scores(probs, labels)
        assert one.compute().reliability == whole.reliability
        assert (one.compute().accuracy, one.compute().ece) == (whole.accuracy, whole.ece)

    def test_the_one_shot_functions_agree(self) -> None:
        probs, labels = draw(400, 4)
        scores = metrics.classification_scores(probs, labels, n_bins=12)
        assert scores.accuracy == metrics.accuracy(probs, labels)
        assert scores.nll == metrics.nll(probs, labels) and scores.brier == metrics.brier(probs, labels)
        assert scores.ece == metrics.ece(probs, labels, 12) and scores.mce == metrics.mce(probs, labels, 12)
        assert scores.rmsce == metrics.rmsce(probs, labels, 12)

    def test_impossible_rows_are_counted_across_pieces(self) -> None:
        total = stream(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 1]))
        total.merge(stream(torch.tensor([[1.0, 0.0]]), torch.tensor([1])))
        assert (total.compute().nll, total.compute().n_impossible, total.n) == (math.inf, 2, 3)

    def test_pieces_of_different_types(self) -> None:
        probs, labels = tied(100, 4)
        total = stream(probs[:50].half(), labels[:50])
        total.update(probs[50:].float().numpy(), labels[50:].numpy())
        assert_same(total.compute(), metrics.classification_scores(probs.float(), labels))

    def test_a_refused_piece_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("swag.metrics.sweep.BLOCK_ROWS", 10)
        probs, labels = draw(100, 3)
        total = stream(probs, labels)
        before = total.compute()
        bad = probs.clone()
        bad[95] = torch.tensor([1.0, 1.0, 1.0])
        with pytest.raises(InputError, match="probs row 95 sums to 3"):
            total.update(bad, labels)
        assert total.compute() == before or total.n == 100

    def test_saved_and_taken_over(self) -> None:
        probs, labels = draw(100, 3)
        total = stream(probs, labels)
        file = io.BytesIO()
        torch.save(total.state_dict(), file)
        file.seek(0)
        again = metrics.StreamingClassification()
        again.load_state_dict(torch.load(file, weights_only=True))
        total.update(probs, labels)  # what was saved is a copy
        assert again.n == 100
        again.update(probs, labels)
        assert_same(again.compute(), total.compute())

    def test_refused(self) -> None:
        total = metrics.StreamingClassification(n_bins=10)
        with pytest.raises(InputError, match="other has 15 bins but this has 10"):
            total.merge(metrics.StreamingClassification())
        with pytest.raises(InputError, match="state has 15 bins but this has 10"):
            total.load_state_dict(metrics.StreamingClassification().state_dict())
        with pytest.raises(InputError, match=r"state lacks \['brier_sum'"):
            total.load_state_dict({"n_bins": 10})


class TestRegression:
    RNG = np.random.default_rng(0)
    MEAN, VARIANCE, Y = RNG.normal(size=400), RNG.gamma(2.0, size=400), RNG.normal(size=400)

    def test_it_equals_the_functions(self) -> None:
        m, v, y = self.MEAN, self.VARIANCE, self.Y
        scores = metrics.regression_scores(m, v, y, level=0.9)
        assert scores.nll == pytest.approx(metrics.gaussian_nll(m, v, y), rel=1e-13)
        assert scores.crps == pytest.approx(metrics.crps(m, v, y), rel=1e-13)
        assert scores.rmse == pytest.approx(metrics.rmse(m, y), rel=1e-13)
        assert scores.sharpness == pytest.approx(metrics.sharpness(v), rel=1e-13)
        assert scores.coverage == metrics.coverage(m, v, y, 0.9)
        assert scores.pit == metrics.pit_histogram(metrics.pit(m, v, y))
        assert (scores.n, scores.level) == (400, 0.9)

    @given(cuts, st.integers(0, 100))
    def test_pieces_merged_in_any_order(self, bounds: list[int], seed: int) -> None:
        pieces = []
        for a, b in itertools.pairwise(bounds):
            pieces.append(metrics.StreamingRegression())
            pieces[-1].update(self.MEAN[a:b], self.VARIANCE[a:b], self.Y[a:b])
        total = metrics.StreamingRegression()
        for index in np.random.default_rng(seed).permutation(len(pieces)):
            total.merge(pieces[index])
        whole, merged = metrics.regression_scores(self.MEAN, self.VARIANCE, self.Y), total.compute()
        assert (merged.n, merged.coverage, merged.pit) == (whole.n, whole.coverage, whole.pit)
        for name in ("nll", "crps", "rmse", "sharpness"):
            assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-13)

    def test_saved_and_taken_over(self) -> None:
        total, again = metrics.StreamingRegression(), metrics.StreamingRegression()
        total.update(self.MEAN, self.VARIANCE, self.Y)
        again.load_state_dict(total.state_dict())
        assert again.compute() == total.compute()

    def test_refused(self) -> None:
        total = metrics.StreamingRegression(level=0.9)
        with pytest.raises(InputError, match=r"other has level 0\.95 and 20 bins but this has 0\.9 and 20"):
            total.merge(metrics.StreamingRegression())
        with pytest.raises(InputError, match=r"state has level 0\.95"):
            total.load_state_dict(metrics.StreamingRegression().state_dict())
        with pytest.raises(InputError, match="state lacks"):
            total.load_state_dict({})
        with pytest.raises(InputError, match="variance row 0 is 0"):
            total.update([0.0], [0.0], [0.0])
        assert total.n == 0
