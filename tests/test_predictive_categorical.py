"""The classification predictive: streaming equals the stacked float64 formulas, and its identities hold."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, logsumexp
from torch import Tensor

import swag
from swag.predictive import CategoricalAccumulator, CategoricalPredictive, Predictive
from tests.checks import Array, array, assert_close

EPSILON = float(torch.finfo(torch.float32).eps)
STATISTICS = ("probs", "log_probs", "entropy", "expected_entropy", "mutual_information", "variance")
SCORES = ("energy", "max_logit")


def oracle(logits: Array) -> dict[str, Array]:
    """Every statistic of stacked logits (S, N, C), as its definition says."""
    log_p = log_softmax(logits, -1)
    p = np.exp(log_p)
    log_mean = logsumexp(log_p, 0) - np.log(len(logits))
    mean = np.exp(log_mean)
    entropy = -np.where(mean > 0, mean * log_mean, 0).sum(-1)
    expected = -np.where(p > 0, p * log_p, 0).sum(-1).mean(0)
    return {
        "probs": mean,
        "log_probs": log_mean,
        "entropy": entropy,
        "expected_entropy": expected,
        "mutual_information": entropy - expected,
        "variance": p.var(0),
        "energy": -logsumexp(logits, -1).mean(0),
        "max_logit": logits.max(-1).mean(0),
    }


def assert_equals_oracle(
    predictive: CategoricalPredictive, logits: Array, *, epsilon: float = EPSILON
) -> None:
    """Within rounding: each member adds a few roundings of numbers as large as those given as scale."""
    expected, rtol = oracle(logits), (len(logits) + 10) * epsilon
    log_scale = 1 + np.abs(expected["log_probs"])
    # A relative error of log p by ε makes one of Σ p (1 + |log p|)² ε in −Σ p log p.
    entropy_scale = (1 + math.log(logits.shape[-1])) ** 2
    scales: dict[str, Any] = {
        "probs": expected["probs"] * log_scale + 1e-30,  # the derivative of exp; float32 underflows
        "log_probs": log_scale,
        "entropy": entropy_scale,
        "expected_entropy": entropy_scale,
        "mutual_information": 2 * entropy_scale,
        "variance": 1,
        "energy": 1 + np.abs(logits).max(),
        "max_logit": 1 + np.abs(logits).max(),
    }
    for name, scale in scales.items():
        assert_close(getattr(predictive, name), expected[name], rtol=rtol, scale=scale)


def streamed(logits: Tensor, **arguments: Any) -> CategoricalPredictive:
    accumulator = CategoricalAccumulator(**arguments)
    for member in logits:
        accumulator.update(member)
    return accumulator.compute()


def members(*shape: int, size: float = 3.0, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def logits_of(limit: float) -> st.SearchStrategy[Array]:
    shapes = st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 6))
    elements = st.floats(-limit, limit, width=32)
    return hnp.arrays(np.float32, shapes, elements=elements)


# --- streaming is stacking -------------------------------------------------------------------------------


@given(logits_of(10))
def test_streaming_equals_the_stacked_oracle(logits: Array) -> None:
    assert_equals_oracle(streamed(torch.from_numpy(logits)), logits.astype(np.float64))


@given(logits_of(10))
def test_float64_is_kept(logits: Array) -> None:
    predictive = streamed(torch.from_numpy(logits).double())
    assert predictive.log_probs.dtype == torch.float64
    assert_equals_oracle(predictive, logits.astype(np.float64), epsilon=2.3e-16)


@given(logits_of(1e4))
def test_extreme_logits_have_finite_log_probs(logits: Array) -> None:
    predictive = streamed(torch.from_numpy(logits))
    assert predictive.log_probs.isfinite().all()
    assert_equals_oracle(predictive, logits.astype(np.float64))


def test_probabilities_that_underflow_have_their_logarithm() -> None:
    predictive = streamed(torch.tensor([[[1e4, -1e4, 0.0]], [[1e4, -1e4, 0.0]]]))
    assert predictive.probs.tolist() == [[1.0, 0.0, 0.0]]
    assert predictive.log_probs.tolist() == [[0.0, -2e4, -1e4]]
    assert predictive.entropy.item() == predictive.expected_entropy.item() == 0.0


@pytest.mark.parametrize("offset", [0.0, 100.0, -1e4, 1e4])
def test_a_common_offset_of_the_logits_does_not_matter(offset: float) -> None:
    base = torch.tensor([[[0.0, 0.5, 1.0]], [[2.0, 0.5, -1.0]]])  # exact in float32 with any of the offsets
    predictive, expected = streamed(base + offset), streamed(base)
    for name in STATISTICS:
        assert torch.equal(getattr(predictive, name), getattr(expected, name))
    assert predictive.energy.item() == pytest.approx(expected.energy.item() - offset, rel=1e-6)
    assert predictive.max_logit.item() == pytest.approx(expected.max_logit.item() + offset, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_added_in_float32(dtype: torch.dtype) -> None:
    logits = members(500, 3, 4, dtype=dtype)
    predictive = streamed(logits)
    assert predictive.log_probs.dtype == torch.float32
    assert_equals_oracle(predictive, array(logits))


def test_masked_classes() -> None:
    logits = members(3, 2, 4)
    logits[:, :, 1] = -torch.inf
    predictive, without = streamed(logits), streamed(logits[:, :, [0, 2, 3]])
    assert (predictive.probs[:, 1] == 0).all()
    assert (predictive.log_probs[:, 1] == -torch.inf).all()
    for name in ("entropy", "expected_entropy", "mutual_information", *SCORES):
        assert_close(getattr(predictive, name), getattr(without, name), rtol=1e-6, scale=1)


def test_one_member() -> None:
    logits = members(1, 5, 3)
    predictive = streamed(logits)
    assert_close(predictive.probs, torch.softmax(logits[0].double(), 1), rtol=4 * EPSILON)
    assert torch.equal(predictive.entropy, predictive.expected_entropy)
    assert (predictive.mutual_information == 0).all() and (predictive.variance == 0).all()


def test_by_hand() -> None:
    predictive = CategoricalPredictive.from_probs(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert predictive.probs.tolist() == [[0.5, 0.5]]
    assert predictive.expected_entropy.tolist() == [0.0]
    assert predictive.entropy.item() == pytest.approx(math.log(2), rel=1e-6)
    assert predictive.mutual_information.item() == pytest.approx(math.log(2), rel=1e-6)
    assert predictive.variance.tolist() == [[0.25, 0.25]]  # population variance
    assert predictive.energy is None and predictive.max_logit is None
    scores = CategoricalPredictive.from_logits(torch.tensor([[[0.0, 0.0]], [[3.0, 1.0]]]))
    assert scores.energy.item() == pytest.approx(-(math.log(2) + math.log(math.e**3 + math.e)) / 2)
    assert scores.max_logit.item() == 1.5


# --- identities ------------------------------------------------------------------------------------------


@given(logits_of(30))
def test_identities(logits: Array) -> None:
    predictive = streamed(torch.from_numpy(logits))
    s, _, c = logits.shape
    # Rounding of one p·log p is ε/e; S members and C classes of them.
    tolerance = (s + 10) * c * EPSILON
    total = predictive.expected_entropy + predictive.mutual_information
    # The mutual information is cut at 0, so the sum is the entropy, or exceeds it by rounding.
    assert (total >= predictive.entropy - EPSILON * predictive.entropy).all()
    assert (total - predictive.entropy <= tolerance * (1 + math.log(c))).all()
    assert (predictive.mutual_information >= 0).all()
    assert (predictive.mutual_information <= math.log(min(s, c)) + tolerance * (1 + math.log(c))).all()
    assert (predictive.entropy >= 0).all() and (predictive.expected_entropy >= 0).all()
    assert (predictive.entropy <= math.log(c) * (1 + 1e-6) + tolerance).all()
    assert (predictive.log_probs <= 0).all() and (predictive.probs <= 1).all()
    assert_close(predictive.probs.sum(1), np.ones(logits.shape[1]), rtol=tolerance)
    assert (predictive.variance >= 0).all()
    assert (predictive.variance <= 0.25 + tolerance).all()


@pytest.mark.parametrize("n", range(1, 50))
def test_members_that_agree_have_no_mutual_information_and_no_probability_above_one(n: int) -> None:
    """For some n the difference of entropies, or the sum of n logarithms of 1, rounds the wrong way."""
    predictive = streamed(torch.cat([members(8, 3), torch.tensor([[200.0, 0.0, 0.0]])]).repeat(n, 1, 1))
    assert (predictive.log_probs <= 0).all()
    assert (predictive.mutual_information >= 0).all()
    assert_close(predictive.mutual_information, np.zeros(9), rtol=n * EPSILON, scale=4)
    assert predictive.entropy[-1].item() == pytest.approx(0, abs=n * EPSILON)


@given(logits_of(10), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(logits: Array, random: Any) -> None:
    order = list(range(len(logits)))
    random.shuffle(order)
    assert_equals_oracle(streamed(torch.from_numpy(logits[order].copy())), logits.astype(np.float64))


@given(logits_of(10))
def test_monte_carlo_error_is_the_standard_error_of_the_average(logits: Array) -> None:
    predictive = streamed(torch.from_numpy(logits))
    if len(logits) == 1:
        assert math.isnan(predictive.monte_carlo_error)
        return
    p = np.exp(log_softmax(logits.astype(np.float64), -1))
    error = p.std(0, ddof=1) / math.sqrt(len(p))
    # √ε of a variance that is 0 but for rounding.
    assert predictive.monte_carlo_error == pytest.approx(error.max(1).mean(), rel=1e-4, abs=EPSILON)


# --- merge and concatenate -------------------------------------------------------------------------------


@given(logits_of(10), st.data())
def test_merging_equals_accumulating_all(logits: Array, data: st.DataObject) -> None:
    both = np.concatenate([logits, logits[::-1] * np.float32(0.5)])
    cut = data.draw(st.integers(1, len(both) - 1))
    first, second = streamed(torch.from_numpy(both[:cut])), streamed(torch.from_numpy(both[cut:].copy()))
    merged = first.merge(second)
    assert merged.n_samples == len(both)
    assert_equals_oracle(merged, both.astype(np.float64))
    assert_equals_oracle(second.merge(first), both.astype(np.float64))


def test_merging_weights_by_the_number_of_members() -> None:
    zero, one = torch.tensor([[[20.0, -20.0]]]), torch.tensor([[[-20.0, 20.0]]])
    merged = streamed(zero.repeat(3, 1, 1)).merge(streamed(one))
    assert_close(merged.probs, [[0.75, 0.25]], rtol=1e-6)
    assert_close(merged.variance, [[0.1875, 0.1875]], rtol=1e-6)


def test_merging_keeps_members_and_scores_where_both_have_them() -> None:
    logits = members(5, 3, 4)
    kept = streamed(logits, keep_members=True)
    merged = streamed(logits[:2], keep_members=True).merge(streamed(logits[2:], keep_members=True))
    assert torch.equal(merged.member_probs, kept.member_probs)
    half = streamed(logits[:2], keep_members=True).merge(streamed(logits[2:]))
    assert half.members is None
    without_scores = streamed(logits).merge(CategoricalPredictive.from_probs(logits.softmax(-1)))
    assert without_scores.energy is None and without_scores.max_logit is None


def test_merging_refuses_other_rows() -> None:
    with pytest.raises(swag.InputError, match=r"other: predicts \(4, 3\), this one \(5, 3\)"):
        streamed(members(2, 5, 3)).merge(streamed(members(2, 4, 3)))


def test_concatenating_equals_predicting_all_rows() -> None:
    logits = members(4, 10, 3)
    whole = streamed(logits, keep_members=True)
    parts = [streamed(part, keep_members=True) for part in logits.split([3, 1, 6], 1)]
    joined = CategoricalPredictive.concatenate(parts)
    assert joined.n_rows == 10 and joined.n_samples == 4
    for name in (*STATISTICS, *SCORES, "member_probs"):
        # Rows do not mix, but vector instructions may round a row's last digit by its place.
        assert_close(getattr(joined, name), getattr(whole, name), rtol=8 * EPSILON, scale=20)
        dim = 1 if name == "member_probs" else 0
        assert torch.equal(getattr(joined, name), torch.cat([getattr(part, name) for part in parts], dim))
    mixed = CategoricalPredictive.concatenate([whole, streamed(logits)])
    assert mixed.members is None and mixed.n_rows == 20


def test_concatenating_refuses_what_does_not_fit() -> None:
    for parts in (
        [],
        [streamed(members(2, 5, 3)), streamed(members(3, 5, 3))],
        [streamed(members(2, 5, 3)), streamed(members(2, 5, 4))],
    ):
        with pytest.raises(swag.InputError, match="parts: need at least one, all with the same"):
            CategoricalPredictive.concatenate(parts)


# --- memory, members, devices ----------------------------------------------------------------------------


def held(obj: object) -> int:
    """Numbers in the tensors an object holds, in lists too."""
    values = [
        item for value in vars(obj).values() for item in (value if isinstance(value, list) else [value])
    ]
    return sum(value.numel() for value in values if isinstance(value, Tensor))


def test_memory_does_not_grow_with_the_members() -> None:
    def accumulator(n: int, *, keep_members: bool) -> CategoricalAccumulator:
        result = CategoricalAccumulator(keep_members=keep_members)
        for member in members(n, 5, 3):
            result.update(member)
        return result

    few, many = accumulator(2, keep_members=False), accumulator(50, keep_members=False)
    assert held(few) == held(many) <= 4 * 5 * 3
    assert held(few.compute()) == held(many.compute())
    assert held(accumulator(50, keep_members=True)) == held(few) + 50 * 5 * 3


def test_members_are_kept_only_where_they_were_asked_for() -> None:
    logits = members(4, 5, 3)
    kept = streamed(logits, keep_members=True)
    assert_close(kept.member_probs, torch.softmax(logits.double(), -1), rtol=8 * EPSILON)
    assert torch.equal(
        CategoricalPredictive.from_logits(logits, keep_members=True).member_probs, kept.members
    )
    with pytest.raises(swag.StateError, match=r"member_probs: .*keep_members=True"):
        _ = streamed(logits).member_probs


def test_later_updates_do_not_reach_earlier_results() -> None:
    accumulator = CategoricalAccumulator(keep_members=True)
    logits = members(3, 5, 3)
    accumulator.update(logits[0])
    first = accumulator.compute()
    before = {f.name: getattr(first, f.name) for f in fields(first)}
    before = {name: value.clone() if isinstance(value, Tensor) else value for name, value in before.items()}
    accumulator.update(logits[1])
    accumulator.update(logits[2])
    for name, value in before.items():
        now = getattr(first, name)
        assert torch.equal(now, value) if isinstance(value, Tensor) else now == value
    assert_equals_oracle(accumulator.compute(), array(logits))


def test_the_callers_logits_are_neither_kept_nor_written() -> None:
    logits = members(2, 5, 3)
    before = logits.clone()
    accumulator = CategoricalAccumulator(keep_members=True)
    for member in logits:
        accumulator.update(member)
    assert torch.equal(logits, before)
    logits.zero_()
    assert_equals_oracle(accumulator.compute(), array(before))


@pytest.mark.parametrize("n", [1, 3])
def test_logits_with_a_gradient(n: int) -> None:
    predictive = CategoricalPredictive.from_logits(members(n, 5, 3).requires_grad_())
    assert not any(getattr(predictive, name).requires_grad for name in (*STATISTICS, *SCORES))


def test_to_another_device_moves_every_tensor() -> None:
    predictive = streamed(members(4, 5, 3), keep_members=True)
    moved = predictive.to("meta")
    for f in fields(predictive):
        value = getattr(moved, f.name)
        assert value.device.type == "meta" if isinstance(value, Tensor) else value == 4
    assert predictive.log_probs.device.type == "cpu"
    assert isinstance(predictive, Predictive)


def test_repr() -> None:
    assert repr(streamed(members(4, 1500, 3))) == "CategoricalPredictive(N=1,500, C=3, n_samples=4)"


# --- from logits, from probabilities ---------------------------------------------------------------------


def test_from_logits_takes_one_model_or_members() -> None:
    logits = members(4, 5, 3)
    assert CategoricalPredictive.from_logits(logits[0]).n_samples == 1
    assert_equals_oracle(CategoricalPredictive.from_logits(logits), array(logits))


@given(logits_of(10))
def test_from_probs_equals_from_logits(logits: Array) -> None:
    probs = torch.softmax(torch.from_numpy(logits).double(), -1)
    predictive = CategoricalPredictive.from_probs(probs)
    expected = oracle(logits.astype(np.float64))
    for name in STATISTICS:
        assert_close(getattr(predictive, name), expected[name], rtol=1e-13, scale=100)


def test_from_probs_in_half_precision_and_with_exact_zeros_and_ones() -> None:
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]], dtype=torch.float16)
    predictive = CategoricalPredictive.from_probs(probs)
    assert predictive.probs.dtype == torch.float32
    assert_close(predictive.probs, probs, rtol=1e-6)
    assert_close(predictive.entropy, [0.0, 1.5 * math.log(2)], rtol=1e-6)


@pytest.mark.parametrize(
    ("probs", "complaint"),
    [
        (torch.tensor([[2.0, -1.0]]), r"probs: rows must be ≥ 0 and sum to 1"),
        (torch.tensor([[0.5, 0.6]]), r"probs: .* sums from 1.1 to 1.1; for logits use from_logits"),
        (torch.tensor([[0.5, torch.nan]]), r"probs: rows must be"),
        (torch.tensor([0.5, 0.5]), r"probs: got shape \(2,\); pass \(N, C\), or \(S, N, C\)"),
        (torch.zeros(1, 1, 1, 1), r"probs: got shape \(1, 1, 1, 1\)"),
    ],
)
def test_bad_probabilities(probs: Tensor, complaint: str) -> None:
    with pytest.raises(swag.InputError, match=complaint):
        CategoricalPredictive.from_probs(probs)


@pytest.mark.parametrize(
    ("logits", "complaint"),
    [
        (torch.zeros(3), r"logits \(N, C\), the model gave shape \(3,\)"),
        (torch.zeros(2, 3, 4), r"shape \(2, 3, 4\)"),
        (torch.zeros(2, 3, dtype=torch.int64), r"torch.int64"),
    ],
)
def test_bad_logits_leave_the_accumulator_as_it_was(logits: Tensor, complaint: str) -> None:
    accumulator, good = CategoricalAccumulator(), members(2, 2, 3)
    accumulator.update(good[0])
    with pytest.raises(swag.InputError, match=complaint):
        accumulator.update(logits)
    with pytest.raises(swag.InputError, match=r"this member gave \(4, 3\), the ones before \(2, 3\)"):
        accumulator.update(torch.zeros(4, 3))
    accumulator.update(good[1])
    assert_equals_oracle(accumulator.compute(), array(good))


def test_nothing_was_added_yet() -> None:
    with pytest.raises(swag.StateError, match=r"compute: no member's outputs were added yet; call update"):
        CategoricalAccumulator().compute()


def test_no_rows() -> None:
    predictive = streamed(torch.zeros(2, 0, 3))
    assert predictive.probs.shape == (0, 3) and predictive.entropy.shape == (0,)


@pytest.mark.parametrize(("keep_members", "kept"), [(None, False), (False, False), (True, True)])
def test_the_likelihood_keeps_members_where_it_is_told_to(keep_members: bool | None, kept: bool) -> None:
    accumulator = swag.Categorical().accumulator(keep_members=keep_members)
    accumulator.update(torch.zeros(2, 3))
    assert (accumulator.compute().members is not None) == kept


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_outputs_are_refused(bad: float) -> None:
    logits = torch.zeros(3, 2)
    logits[1] = bad
    with pytest.raises(swag.InputError, match=r"outputs: a member's outputs are NaN.*smaller scale"):
        CategoricalPredictive.from_logits(logits)
