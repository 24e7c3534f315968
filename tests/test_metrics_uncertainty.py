"""Entropy, mutual information, disagreement, selective prediction, and the temperature that calibrates."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from swag import InputError, metrics
from tests.test_metrics_classification import draw, tied

MEMBERS = torch.softmax(2 * torch.randn(6, 200, 5, generator=torch.Generator().manual_seed(0)), dim=-1)


class TestEntropies:
    def test_scipy(self) -> None:
        expected = stats.entropy(MEMBERS[0].double().numpy(), axis=1)
        # Five float32 terms of at most 1/e each, every one right to an ulp.
        assert np.allclose(metrics.entropy(MEMBERS[0]), expected, atol=8 * 2.0**-24)
        assert np.allclose(metrics.entropy(MEMBERS[0].numpy()), expected, atol=8 * 2.0**-24)
        inner = stats.entropy(MEMBERS.double().numpy(), axis=2).mean(0)
        assert np.allclose(metrics.expected_entropy(MEMBERS), inner, atol=2.0**-23)

    def test_total_is_expected_plus_mutual(self) -> None:
        members = MEMBERS.double()
        members = members / members.sum(-1, keepdim=True)
        total = metrics.entropy(members.mean(0))
        parts = metrics.expected_entropy(members) + metrics.mutual_information(members)
        assert torch.allclose(total, parts, atol=1e-14)

    def test_mutual_information_of_members_that_agree_or_not(self) -> None:
        assert metrics.mutual_information(MEMBERS[:1].expand(4, -1, -1)).abs().max() < 1e-12
        apart = torch.eye(3).unsqueeze(1)
        assert float(metrics.mutual_information(apart)) == pytest.approx(math.log(3), rel=2.0**-23)
        assert metrics.mutual_information(MEMBERS).min() > 0

    def test_zeros_and_ones(self) -> None:
        assert metrics.entropy(torch.eye(4)).tolist() == [0.0] * 4

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_types(self, dtype: torch.dtype) -> None:
        values = metrics.entropy(MEMBERS[0].to(dtype))
        assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert metrics.mutual_information(MEMBERS.to(dtype)).dtype == values.dtype
        assert isinstance(metrics.mutual_information(MEMBERS.numpy()), np.ndarray)

    def test_disagreement_by_pairs(self) -> None:
        votes = MEMBERS.numpy().argmax(2)
        pairs = [(votes[s] != votes[t]).mean() for s, t in itertools.combinations(range(6), 2)]
        assert metrics.disagreement(MEMBERS) == pytest.approx(np.mean(pairs), rel=1e-12)

    def test_disagreement_takes_the_first_maximum(self) -> None:
        members = torch.stack([tied(300, 4, seed=s)[0] for s in range(3)])
        votes = members.numpy().argmax(2)
        pairs = [(votes[s] != votes[t]).mean() for s, t in itertools.combinations(range(3), 2)]
        assert metrics.disagreement(members) == pytest.approx(np.mean(pairs), rel=1e-12)


class TestSelective:
    def naive(self, confidence: np.ndarray, errors: np.ndarray) -> float:
        """The area, averaged over every order of the rows that a sort by confidence allows."""
        orders = itertools.permutations(range(len(errors)))
        areas = [
            np.mean(np.cumsum(errors[list(order)]) / np.arange(1, len(errors) + 1))
            for order in orders
            if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order))
        ]
        return float(np.mean(areas))

    @pytest.mark.parametrize("seed", range(5))
    def test_ties_count_with_their_mean(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        confidence, errors = rng.integers(0, 3, 6).astype(float), rng.integers(0, 2, 6).astype(float)
        curve = metrics.risk_coverage_from_scores(confidence, errors)
        assert curve.aurc == pytest.approx(self.naive(confidence, errors), rel=1e-12)
        best = self.naive(-errors, errors)
        assert curve.excess_aurc == pytest.approx(curve.aurc - best, abs=1e-12)

    def test_a_naive_loop_without_ties(self) -> None:
        probs, labels = draw(500, 4)
        order = np.argsort(-probs.max(1).values.numpy(), kind="stable")
        wrong = (probs.numpy().argmax(1) != labels.numpy())[order]
        risk = np.cumsum(wrong) / np.arange(1, 501)
        curve = metrics.risk_coverage(probs, labels)
        assert curve.risk == pytest.approx(risk, rel=1e-12)
        assert curve.coverage == pytest.approx(np.arange(1, 501) / 500)
        assert metrics.aurc(probs, labels) == curve.aurc == pytest.approx(risk.mean(), rel=1e-12)
        assert metrics.excess_aurc(probs, labels) == curve.excess_aurc

    def test_fewer_points_than_rows(self) -> None:
        probs, labels = draw(503, 4)
        few, all_points = (metrics.risk_coverage(probs, labels, max_points=n) for n in (10, 503))
        assert len(few.risk) == 10 and few.coverage[-1] == 1.0
        assert few.risk[-1] == pytest.approx(1 - metrics.accuracy(probs, labels))
        assert set(few.risk) <= set(all_points.risk) and few.aurc == all_points.aurc

    def test_all_right_all_wrong(self) -> None:
        assert metrics.aurc(torch.eye(3), torch.arange(3)) == 0.0
        assert metrics.aurc(torch.eye(3), torch.tensor([1, 2, 0])) == 1.0
        assert metrics.excess_aurc(torch.eye(3), torch.tensor([1, 2, 0])) == 0.0

    @given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40))
    def test_ranges_and_order(self, rows: list[tuple[int, bool]]) -> None:
        confidence, errors = np.array(rows, dtype=float).T
        curve = metrics.risk_coverage_from_scores(confidence, errors)
        assert 0 <= curve.excess_aurc <= curve.aurc <= 1 + 1e-12
        again = metrics.risk_coverage_from_scores(confidence[::-1], errors[::-1])
        assert again.risk == pytest.approx(curve.risk, rel=1e-12)

    def test_refused(self) -> None:
        with pytest.raises(InputError, match="errors row 1 is -1; it must not be negative"):
            metrics.risk_coverage_from_scores([0.5, 0.5], [0.0, -1.0])
        with pytest.raises(InputError, match=r"errors has shape \(1,\) but confidence has \(2,\)"):
            metrics.risk_coverage_from_scores([0.5, 0.5], [0.0])
        with pytest.raises(InputError, match="max_points is 0"):
            metrics.risk_coverage_from_scores([0.5], [0.0], max_points=0)


class TestTemperature:
    def objective(self, probs: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
        logs = torch.log_softmax(probs.double().log() / temperature, 1)
        return float(torch.nn.functional.nll_loss(logs, labels))

    @pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0, 20.0])
    def test_scipy_s_minimum(self, sharpness: float) -> None:
        probs, labels = draw(1000, 5)
        probs = torch.softmax(probs.double().log() * sharpness, 1)
        found = optimize.minimize_scalar(
            lambda x: self.objective(probs, labels, math.exp(x)),
            bounds=(-4, 4),
            method="bounded",
            options={"xatol": 1e-9},
        )
        # The labels were drawn at sharpness 1, so T is near it; a flat minimum is found to √ε by its values.
        value = metrics.fit_temperature(probs, labels)
        assert value == pytest.approx(math.exp(found.x), rel=1e-6)
        assert value == pytest.approx(sharpness, rel=0.15)

    def test_the_slope_is_zero(self) -> None:
        probs, labels = draw(500, 7)
        log_t = torch.tensor(
            math.log(metrics.fit_temperature(probs, labels)), dtype=torch.float64, requires_grad=True
        )
        logs = torch.log_softmax(probs.double().log() / log_t.exp(), 1)
        torch.nn.functional.nll_loss(logs, labels).backward()
        assert log_t.grad is not None and abs(float(log_t.grad)) < 1e-12

    def test_the_ends_are_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        right = torch.tensor([[0.6, 0.4], [0.4, 0.6]])
        with caplog.at_level(logging.WARNING, logger="swag"):
            assert metrics.fit_temperature(right, torch.tensor([0, 1])) == 0.01
            assert "at or below 0.01" in caplog.text
            assert metrics.fit_temperature(right, torch.tensor([1, 0])) == 100.0
            assert "at or above 100" in caplog.text

    def test_nothing_to_learn_is_one(self) -> None:
        assert metrics.fit_temperature(torch.full((4, 3), 1 / 3), torch.tensor([0, 1, 2, 0])) == 1.0
        assert metrics.fit_temperature(torch.eye(2), torch.tensor([0, 1])) == 1.0
        assert (
            metrics.fit_temperature(torch.eye(2), torch.tensor([1, 0])) == 1.0
        )  # impossible at any temperature

    def test_zero_probabilities(self) -> None:
        """A class of probability 0 takes no part; a row whose own class has it is left out."""
        probs, labels = draw(300, 3)
        padded = torch.cat([probs, torch.zeros(300, 1)], 1)
        expected = metrics.fit_temperature(probs, labels)
        assert metrics.fit_temperature(padded, labels) == pytest.approx(expected, rel=1e-10)
        extra = torch.cat([padded, torch.tensor([[0.5, 0.5, 0.0, 0.0]])])
        assert metrics.fit_temperature(extra, torch.cat([labels, torch.tensor([3])])) == pytest.approx(
            expected
        )

    @given(st.integers(0, 1000), st.floats(0.2, 8.0))
    def test_it_never_makes_the_nll_worse(self, seed: int, sharpness: float) -> None:
        probs, labels = draw(40, 3, seed=seed, sharpness=sharpness)
        best = metrics.fit_temperature(probs, labels)
        value = self.objective(probs, labels, best)
        assert value <= metrics.nll(probs, labels) + 1e-6
        for other in (0.9 * best, 1.1 * best):
            assert value <= self.objective(probs, labels, min(100, max(0.01, other))) + 1e-12

    def test_calibrated_nll_by_a_naive_loop(self) -> None:
        probs, labels = draw(301, 4)
        probs = torch.softmax(3 * probs.double().log(), 1)
        generator, values = torch.Generator().manual_seed(7), []
        for _ in range(3):
            order = torch.randperm(301, generator=generator)
            for half, other in ((order[:150], order[150:]), (order[150:], order[:150])):
                t = metrics.fit_temperature(probs[half], labels[half])
                values.append((self.objective(probs[other], labels[other], t), len(other)))
        expected = sum(v * n for v, n in values) / sum(n for _, n in values)
        value = metrics.calibrated_nll(probs, labels, n_splits=3, seed=7)
        assert value == pytest.approx(expected, rel=1e-10)
        assert metrics.calibrated_log_likelihood(probs, labels, n_splits=3, seed=7) == -value
        assert value < metrics.nll(probs, labels)

    def test_calibrated_nll_is_infinite_where_the_nll_must_be(self) -> None:
        assert (
            metrics.calibrated_nll(torch.eye(2).repeat(5, 1), torch.ones(10, dtype=torch.int64)) == math.inf
        )
        assert metrics.calibrated_nll(torch.eye(2), torch.tensor([0, 1])) == 0.0
