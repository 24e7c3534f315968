"""What the metrics refuse, in which words; and every shape, dtype and layout that must be read right."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from swag import InputError, metrics

GOOD = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
LABELS = torch.tensor([0, 1, 2])

WITH_LABELS: list[Callable[..., Any]] = [
    metrics.accuracy,
    metrics.nll,
    metrics.brier,
    metrics.n_impossible,
    metrics.row_scores,
    metrics.classification_scores,
    metrics.ece,
    metrics.mce,
    metrics.rmsce,
    metrics.adaptive_ece,
    metrics.classwise_ece,
    metrics.debiased_ece,
    metrics.debiased_rmsce,
    metrics.kde_ece,
    metrics.smooth_ece,
    metrics.brier_decomposition,
    metrics.reliability_curve,
    metrics.equal_mass_reliability_curve,
    metrics.risk_coverage,
    metrics.aurc,
    metrics.excess_aurc,
    metrics.calibrated_nll,
    metrics.fit_temperature,
    lambda probs, labels: metrics.top_k_accuracy(probs, labels, k=2),
    lambda probs, labels: metrics.StreamingClassification().update(probs, labels),
]


def altered(row: int, values: list[float]) -> torch.Tensor:
    probs = GOOD.clone()
    probs[row] = torch.tensor(values)
    return probs


BAD: dict[str, tuple[Any, Any, str]] = {
    "logits": (
        altered(2, [1.2, 3.4, -0.4]),
        LABELS,
        r"probs row 2 holds -0\.4; .*logits\? apply softmax first",
    ),
    "positive logits": (altered(2, [1.2, 2.0, 1.0]), LABELS, r"probs row 2 sums to 4\.2, not 1; .*logits\?"),
    "log-probabilities": (GOOD.log(), LABELS, r"probs row 0 holds -2\.303; .*log-probabilities\? apply exp"),
    "percentages": (100 * GOOD, LABELS, r"probs row 0 sums to 100; .*percentages\? divide by 100"),
    "sum a little off": (altered(1, [0.1, 0.8, 0.102]), LABELS, r"probs row 1 sums to 1\.002, not 1"),
    "negative, sum right": (altered(1, [-0.1, 0.6, 0.5]), LABELS, r"probs row 1 holds -0\.1"),
    "NaN": (altered(0, [math.nan, 0.5, 0.5]), LABELS, r"probs row 0 holds NaN or infinity"),
    "infinity": (altered(0, [math.inf, 0.5, 0.5]), LABELS, r"probs row 0 holds NaN or infinity"),
    "no rows": (GOOD[:0], LABELS[:0], r"probs is empty: its shape is \(0, 3\)"),
    "one column": (GOOD[:, 0], LABELS, r"probs has shape \(3,\), expected \(N, C\); .*torch\.stack"),
    "members": (GOOD.expand(5, 3, 3), LABELS, r"shape \(5, 3, 3\), expected \(N, C\); average the members"),
    "integers": (torch.eye(3, dtype=torch.int64), LABELS, r"probs has dtype torch\.int64, expected floating"),
    "words": (
        np.array([["a", "b"]]),
        LABELS[:1],
        r"probs is ndarray of dtype <U1; give a tensor or an array",
    ),
    "label too high": (
        GOOD,
        torch.tensor([0, 3, 1]),
        r"labels row 1 is 3, but probs has 3 classes; .*0\.\.2",
    ),
    "label negative": (GOOD, torch.tensor([0, 1, -1]), r"labels row 2 is -1, but probs has 3 classes"),
    "lengths": (
        GOOD,
        torch.tensor([0, 1]),
        r"labels has 2 rows but probs has 3; give one label for every row",
    ),
    "one-hot labels": (
        GOOD,
        torch.eye(3, dtype=torch.int64),
        r"labels has shape \(3, 3\).*labels\.argmax\(1\)",
    ),
    "float labels": (GOOD, LABELS.float(), r"labels has dtype torch\.float32.*labels\.long\(\)"),
    "NaN labels": (GOOD, torch.tensor([0.0, math.nan, 1.0]), r"labels holds NaN"),
    "boolean labels": (GOOD, LABELS > 0, r"labels has dtype torch\.bool"),
}


class TestRefused:
    @pytest.mark.parametrize("case", BAD)
    @pytest.mark.parametrize("metric", WITH_LABELS, ids=lambda f: getattr(f, "__name__", "f"))
    def test_the_message_names_the_argument_what_came_and_the_fix(
        self, metric: Callable[..., Any], case: str
    ) -> None:
        probs, labels, message = BAD[case]
        with pytest.raises(InputError, match=message):
            metric(probs, labels)

    @pytest.mark.parametrize("case", ["logits", "NaN", "negative, sum right", "sum a little off"])
    def test_numpy_arrays_are_checked_alike(self, case: str) -> None:
        probs, labels, message = BAD[case]
        with pytest.raises(InputError, match=message):
            metrics.ece(probs.numpy(), labels.numpy())

    @pytest.mark.parametrize(
        "metric", [metrics.entropy, metrics.entropy_score, metrics.max_probability_score]
    )
    @pytest.mark.parametrize("case", ["logits", "NaN", "no rows", "one column", "negative, sum right"])
    def test_without_labels_too(self, metric: Callable[..., Any], case: str) -> None:
        with pytest.raises(InputError, match=BAD[case][2]):
            metric(BAD[case][0])

    @pytest.mark.parametrize(
        "metric",
        [
            metrics.expected_entropy,
            metrics.mutual_information,
            metrics.mutual_information_score,
            metrics.disagreement,
        ],
    )
    def test_members(self, metric: Callable[..., Any]) -> None:
        with pytest.raises(InputError, match=r"member_probs has shape \(3, 3\), expected \(S, N, C\)"):
            metric(GOOD)
        with pytest.raises(InputError, match=r"member_probs row 4 sums to 4"):
            metric(torch.stack([GOOD, altered(1, [1.0, 2.0, 1.0])]))

    def test_a_bad_row_far_down_is_found_and_named(self) -> None:
        probs = torch.full((300_000, 4), 0.25)
        probs[299_999] = torch.tensor([0.5, 0.6, -0.1, 0.0])
        with pytest.raises(InputError, match=r"probs row 299999 holds -0\.1"):
            metrics.nll(probs, torch.zeros(300_000, dtype=torch.int64))

    def test_half_types_may_sum_to_one_within_a_hundredth(self) -> None:
        probs = torch.tensor([[0.5, 0.495]], dtype=torch.float16)
        assert metrics.accuracy(probs, torch.tensor([0])) == 1.0
        with pytest.raises(InputError, match=r"sums to 0\.995"):
            metrics.accuracy(probs.float(), torch.tensor([0]))
        with pytest.raises(InputError, match=r"sums to 0\.97998"):
            metrics.accuracy(torch.tensor([[0.5, 0.48]], dtype=torch.float16), torch.tensor([0]))

    @pytest.mark.parametrize("value", [0, -1, 2.5, True, "15"])
    def test_counts(self, value: Any) -> None:
        with pytest.raises(InputError, match=r"n_bins is .*; give a whole number of at least 1"):
            metrics.ece(GOOD, LABELS, n_bins=value)

    def test_k(self) -> None:
        with pytest.raises(InputError, match=r"k is 4, but probs has 3 classes; give k in 1\.\.3"):
            metrics.top_k_accuracy(GOOD, LABELS, k=4)

    def test_one_member_cannot_disagree(self) -> None:
        with pytest.raises(InputError, match="member_probs has 1 member; disagreement needs at least two"):
            metrics.disagreement(GOOD.unsqueeze(0))

    def test_one_row_cannot_be_halved(self) -> None:
        with pytest.raises(InputError, match="probs has 1 row; two halves need at least 2"):
            metrics.calibrated_nll(GOOD[:1], LABELS[:1])

    def test_bandwidth(self) -> None:
        with pytest.raises(InputError, match="bandwidth is 0; give a number above 0"):
            metrics.kde_ece(GOOD, LABELS, bandwidth=0)

    def test_nothing_to_score_yet(self) -> None:
        with pytest.raises(InputError, match="no rows to score; call update"):
            metrics.StreamingClassification().compute()
        with pytest.raises(InputError, match="no rows to score; call update"):
            metrics.StreamingRegression().compute()


class TestRead:
    EXPECTED = metrics.classification_scores(GOOD.double(), LABELS)

    def same(self, probs: Any, labels: Any = LABELS, *, rtol: float = 2.0**-22) -> None:
        scores = metrics.classification_scores(probs, labels)
        for name in ("accuracy", "nll", "brier", "ece", "mce", "rmsce"):
            expected = getattr(self.EXPECTED, name)
            assert getattr(scores, name) == pytest.approx(expected, rel=rtol, abs=rtol), name

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_tensors(self, dtype: torch.dtype) -> None:
        self.same(GOOD.to(dtype))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_types(self, dtype: torch.dtype) -> None:
        halves = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], dtype=dtype)
        labels = torch.tensor([0, 2])
        exact = metrics.classification_scores(halves.double(), labels)
        scores = metrics.classification_scores(halves, labels)
        assert scores.reliability == exact.reliability or scores.ece == exact.ece
        assert scores.nll == pytest.approx(exact.nll, rel=2.0**-22)
        assert scores.brier == pytest.approx(exact.brier, rel=2.0**-22)

    @pytest.mark.parametrize("dtype", ["float32", "float64", ">f8", ">f4", "longdouble"])
    def test_arrays(self, dtype: str) -> None:
        self.same(GOOD.numpy().astype(dtype), LABELS.numpy())

    @pytest.mark.parametrize(
        "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.uint64]
    )
    def test_integer_labels_of_any_width(self, dtype: Any) -> None:
        self.same(GOOD, LABELS.numpy().astype(dtype))

    def test_lists(self) -> None:
        self.same(GOOD.tolist(), [0, 1, 2])

    def test_layouts(self) -> None:
        self.same(GOOD.T.contiguous().T)
        self.same(torch.stack([GOOD, GOOD], dim=2)[:, :, 1])
        self.same(GOOD.numpy()[::-1], LABELS.numpy()[::-1])
        self.same(np.asfortranarray(GOOD.numpy()))

    def test_read_only_arrays_and_tensors_with_gradients(self, recwarn: pytest.WarningsRecorder) -> None:
        frozen = GOOD.numpy().copy()
        frozen.flags.writeable = False
        self.same(frozen)
        self.same(GOOD.clone().requires_grad_())
        assert not recwarn.list

    def test_the_input_is_left_as_it_was(self) -> None:
        probs, labels = torch.full((50, 4), 0.25), torch.zeros(50, dtype=torch.int64)
        metrics.classification_scores(probs, labels)
        metrics.adaptive_ece(probs, labels)
        assert torch.equal(probs, torch.full((50, 4), 0.25)) and not labels.any()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    @pytest.mark.parametrize("metric", WITH_LABELS[:-1], ids=lambda f: getattr(f, "__name__", "f"))
    def test_a_gpu_gives_what_the_processor_gives(self, metric: Callable[..., Any]) -> None:
        probs = torch.softmax(2 * torch.randn(5000, 7), 1)
        labels = torch.multinomial(probs, 1).squeeze(1)
        here, there = metric(probs, labels), metric(probs.cuda(), labels)
        if isinstance(here, float | int):
            assert there == pytest.approx(here, rel=1e-6, abs=1e-9)

    def test_negative_zero_is_zero(self) -> None:
        probs = torch.tensor([[-0.0, 1.0], [0.75, 0.25]])
        scores = metrics.classification_scores(probs, torch.tensor([1, 0]))
        assert scores.accuracy == 1.0 and scores.reliability.counts[-1] == 1
        assert metrics.nll(probs, torch.tensor([0, 0])) == math.inf

    def test_one_class_and_one_row(self) -> None:
        scores = metrics.classification_scores(torch.ones(1, 1), torch.tensor([0]))
        assert (scores.n, scores.accuracy, scores.nll, scores.brier, scores.ece) == (1, 1.0, 0.0, 0.0, 0.0)
