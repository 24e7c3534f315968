"""Accuracy, NLL, Brier: against scikit-learn, naive formulas, and examples worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from swag import metrics
from swag.metrics import sweep

EPS32 = 2.0**-23


def draw(
    n: int, n_classes: int, *, seed: int = 0, sharpness: float = 2.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 probabilities and labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.softmax(sharpness * torch.randn(n, n_classes, generator=generator), dim=1)
    return probs, torch.multinomial(probs, 1, generator=generator).squeeze(1)


def tied(n: int, n_classes: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities in eighths, exact in every type, most rows with ties, and labels of any class."""
    rng = np.random.default_rng(seed)
    probs = rng.multinomial(8, np.full(n_classes, 1 / n_classes), size=n) / 8
    return torch.tensor(probs), torch.tensor(rng.integers(n_classes, size=n))


class TestAgainstScikitLearn:
    @pytest.mark.parametrize("n_classes", [2, 7, 130])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_accuracy_nll_brier(self, n_classes: int, dtype: torch.dtype) -> None:
        probs, labels = draw(2000, n_classes)
        p, y = probs.double().numpy(), labels.numpy()
        classes = np.arange(n_classes)
        if dtype == torch.float64:
            p = p / p.sum(1, keepdims=True)
            probs = torch.from_numpy(p)
        # float32: a logarithm is right to 1 ulp, a row's Σ p² to 2; then everything is summed in float64.
        unit = EPS32 if dtype == torch.float32 else 2.0**-50
        assert metrics.accuracy(probs, labels) == sk.accuracy_score(y, p.argmax(1))
        naive_nll = -np.log(p[np.arange(len(y)), y]).mean()
        assert metrics.nll(probs, labels) == pytest.approx(naive_nll, rel=unit)
        q = p / p.sum(1, keepdims=True)
        assert metrics.nll(probs, labels) == pytest.approx(sk.log_loss(y, q, labels=classes), rel=1e-6)
        naive_brier = ((p - np.eye(n_classes)[y]) ** 2).sum(1).mean()
        assert metrics.brier(probs, labels) == pytest.approx(naive_brier, abs=2 * unit)
        if n_classes == 2:
            half = sk.brier_score_loss(y, p[:, 1])
            assert metrics.brier(probs, labels) == pytest.approx(2 * half, abs=1e-6)

    @pytest.mark.parametrize("k", [1, 2, 5, 7])
    def test_top_k(self, k: int) -> None:
        probs, labels = draw(1000, 7)
        expected = 1.0 if k == 7 else sk.top_k_accuracy_score(labels, probs, k=k, labels=np.arange(7))
        assert metrics.top_k_accuracy(probs, labels, k) == expected


class TestTies:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("n_classes", [2, 3, 5])
    def test_the_first_maximum_is_the_prediction(self, n_classes: int, dtype: torch.dtype) -> None:
        probs, labels = tied(3000, n_classes)
        expected = probs.numpy().argmax(1) == labels.numpy()  # numpy's argmax is the first
        rows = metrics.row_scores(probs.to(dtype), labels)
        assert np.array_equal(rows.correct.numpy(), expected)
        assert np.array_equal(rows.confidence.numpy(), probs.numpy().max(1).astype(np.float32))
        assert metrics.accuracy(probs.to(dtype), labels) == expected.mean()
        assert metrics.top_k_accuracy(probs.to(dtype), labels, k=1) == expected.mean()

    def test_top_k_takes_the_first_of_equals(self) -> None:
        probs, labels = tied(3000, 5)
        order = np.argsort(-probs.numpy(), axis=1, kind="stable")
        for k in (2, 3, 4):
            expected = (order[:, :k] == labels.numpy()[:, None]).any(1).mean()
            assert metrics.top_k_accuracy(probs, labels, k) == expected

    def test_a_constant_prediction(self) -> None:
        probs, labels = torch.full((10, 5), 0.2), torch.arange(10) % 5
        assert metrics.accuracy(probs, labels) == 0.2
        assert metrics.nll(probs, labels) == pytest.approx(math.log(5), rel=EPS32)
        assert metrics.brier(probs, labels) == pytest.approx(0.8, abs=4 * EPS32)


class TestPieces:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_chunks_and_blocks_change_nothing(
        self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        probs, labels = tied(501, 6)
        probs = probs.to(dtype)
        whole = metrics.row_scores(probs, labels)
        monkeypatch.setattr(sweep, "CHUNK_ELEMENTS", 6 * 7)
        monkeypatch.setattr(sweep, "BLOCK_ROWS", 40)
        pieces = metrics.row_scores(probs, labels)
        for name in ("confidence", "correct", "nll", "brier"):
            assert torch.equal(getattr(whole, name), getattr(pieces, name)), name

    def test_row_scores_average_to_the_scores(self) -> None:
        probs, labels = draw(500, 4)
        rows = metrics.row_scores(probs, labels)
        assert rows.nll.dtype == rows.brier.dtype == torch.float64
        assert float(rows.correct.double().mean()) == metrics.accuracy(probs, labels)
        assert float(rows.nll.mean()) == pytest.approx(metrics.nll(probs, labels), rel=1e-12)
        assert float(rows.brier.mean()) == pytest.approx(metrics.brier(probs, labels), rel=1e-12)


class TestExtremes:
    CERTAIN = torch.eye(3)

    def test_all_right_and_certain(self) -> None:
        labels = torch.arange(3)
        scores = metrics.classification_scores(self.CERTAIN, labels)
        assert (scores.accuracy, scores.nll, scores.brier, scores.ece) == (1.0, 0.0, 0.0, 0.0)
        assert scores.n_impossible == 0

    def test_all_wrong_and_certain(self) -> None:
        labels = torch.tensor([1, 2, 0])
        scores = metrics.classification_scores(self.CERTAIN, labels)
        assert (scores.accuracy, scores.nll, scores.brier, scores.ece) == (0.0, math.inf, 2.0, 1.0)
        assert scores.n_impossible == metrics.n_impossible(self.CERTAIN, labels) == 3
        assert metrics.nll(self.CERTAIN, labels) == math.inf

    def test_one_impossible_row_among_many_is_not_clipped(self) -> None:
        probs, labels = draw(1000, 3)
        probs[17] = torch.tensor([0.0, 0.5, 0.5])
        labels[17] = 0
        assert metrics.nll(probs, labels) == math.inf
        assert metrics.n_impossible(probs, labels) == 1

    def test_the_smallest_probabilities_count(self) -> None:
        tiny = torch.tensor([[1e-30, 1.0]])
        assert metrics.nll(tiny, torch.tensor([0])) == pytest.approx(30 * math.log(10), rel=EPS32)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_many_rows_of_half_precision(self, dtype: torch.dtype) -> None:
        """A sum kept in float16 overflows or stalls here; the naive mean is over the same rounded values."""
        probs, labels = draw(100_000, 4)
        probs = probs.to(dtype)
        p, y = probs.double().numpy(), labels.numpy()
        assert metrics.accuracy(probs, labels) == (p.argmax(1) == y).mean()
        assert metrics.nll(probs, labels) == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), rel=EPS32)
        naive = ((p - np.eye(4)[y]) ** 2).sum(1).mean()
        assert metrics.brier(probs, labels) == pytest.approx(naive, abs=2 * EPS32)


rows_of_probs = st.lists(
    st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda r: sum(r) > 1e-3), min_size=1
)


class TestRanges:
    @given(rows_of_probs, st.integers(0, 2**32 - 1))
    def test_scores_lie_where_they_must(self, rows: list[list[float]], seed: int) -> None:
        probs = torch.tensor(rows, dtype=torch.float64)
        probs = probs / probs.sum(1, keepdim=True)
        rng = np.random.default_rng(seed)
        labels = rng.integers(3, size=len(rows))
        scores = metrics.classification_scores(probs, labels)
        assert 0 <= scores.accuracy <= 1 and scores.nll >= 0 and 0 <= scores.brier <= 2 + 1e-12
        assert 0 <= scores.ece <= scores.rmsce + 1e-12 and scores.rmsce <= scores.mce + 1e-12 <= 1 + 2e-12
        order = rng.permutation(len(rows))
        again = metrics.classification_scores(probs[order], labels[order])
        assert again.accuracy == scores.accuracy and again.reliability.counts == scores.reliability.counts
        for name in ("nll", "brier", "ece", "rmsce"):
            assert getattr(again, name) == pytest.approx(getattr(scores, name), rel=1e-12, abs=1e-14)


class TestDeepEnsembleEquivalent:
    ENSEMBLE = (0.50, 0.40, 0.35, 0.36, 0.30)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (0.6, 1.0),
            (0.5, 1.0),
            (0.45, 1.5),
            (0.4, 2.0),
            (0.35, 3.0),
            (0.325, 4.5),
            (0.30, 5.0),
            (0.2, math.inf),
        ],
    )
    def test_by_hand(self, value: float, expected: float) -> None:
        assert metrics.deep_ensemble_equivalent(value, self.ENSEMBLE) == pytest.approx(expected)

    def test_an_infinite_value_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nll_value is inf; give a finite NLL in nats"):
            metrics.deep_ensemble_equivalent(math.inf, self.ENSEMBLE)


class TestBrierDecomposition:
    def naive(self, p: np.ndarray, y: np.ndarray, n_bins: int) -> tuple[float, float, float]:
        reliability = resolution = uncertainty = 0.0
        for c in range(p.shape[1]):
            share = (y == c).mean()
            uncertainty += share * (1 - share)
            for b in range(n_bins):
                low, high = b / n_bins, (b + 1) / n_bins
                inside = ((p[:, c] > low) | (b == 0)) & (p[:, c] <= high)
                if inside.any():
                    observed = (y[inside] == c).mean()
                    reliability += inside.mean() * (p[inside, c].mean() - observed) ** 2
                    resolution += inside.mean() * (observed - share) ** 2
        return reliability, resolution, uncertainty

    @pytest.mark.parametrize("n_bins", [1, 4, 15])
    def test_the_parts(self, n_bins: int) -> None:
        probs, labels = draw(800, 4)
        probs = probs.double()
        probs /= probs.sum(1, keepdim=True)
        parts = metrics.brier_decomposition(probs, labels, n_bins)
        expected = self.naive(probs.numpy(), labels.numpy(), n_bins)
        assert (parts.reliability, parts.resolution, parts.uncertainty) == pytest.approx(expected, rel=1e-10)
        total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bin
        assert total == pytest.approx(parts.brier, rel=1e-12)

    def test_nothing_is_left_where_each_bin_holds_one_probability(self) -> None:
        probs, labels = tied(500, 3)
        parts = metrics.brier_decomposition(probs, labels, n_bins=16)  # 0 and ⅛ apart
        assert parts.within_bin == pytest.approx(0, abs=1e-12)
        assert parts.brier == pytest.approx(metrics.brier(probs, labels))
