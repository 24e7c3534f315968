"""The moments of a trajectory against a float64 oracle, where float32 is known to fail."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from swag import Collector
from swag.moments import accumulate_, all_finite, first_non_finite, non_finite_flags
from tests import oracles
from tests.checks import Array, array, assert_close


class Vector(nn.Module):
    """One parameter θ (D,)."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=dtype))


def collect(thetas: torch.Tensor, rank: int, **settings: object) -> Collector:
    """A collector that has seen the rows of `thetas` (n, D)."""
    model = Vector(thetas.shape[1], thetas.dtype)
    collector = Collector(model, rank, **settings)
    for theta in thetas:
        with torch.no_grad():
            model.theta.copy_(theta)
        collector.collect(model)
    return collector


def trajectory(
    n: int, size: int, centre: float, spread: float, dtype: torch.dtype, seed: int = 0
) -> torch.Tensor:
    """θ₁ … θ_n (n, D) = centre ± spread, as a model of this dtype holds them."""
    noise = torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (centre + spread * noise).to(dtype)


@pytest.mark.parametrize(
    ("centre", "spread", "dtype"),
    [
        (1.0, 1e-4, torch.float32),
        (10.0, 1e-4, torch.float32),
        (-10.0, 1e-4, torch.float32),
        (0.0, 1.0, torch.float32),
        (1.0, 0.05, torch.bfloat16),
        (10.0, 0.5, torch.bfloat16),
        (10.0, 0.05, torch.float16),
    ],
    ids=str,
)
def test_moments_equal_the_oracle(centre: float, spread: float, dtype: torch.dtype) -> None:
    thetas = trajectory(60, 1000, centre, spread, dtype)
    truth = oracles.moments(array(thetas), rank=7)
    collector = collect(thetas, 7)
    assert collector.mean.dtype == collector.sq_dev.dtype == torch.float32
    # The mean to float32's own rounding; squares and rows relative to what they are made of.
    assert_close(collector.mean, truth.mean, rtol=1e-6, scale=abs(centre) + spread)
    assert_close(collector.sq_dev, truth.sq_dev, rtol=1e-5)
    assert_close(collector.deviations, truth.deviations, rtol=1e-5, scale=np.sqrt(truth.sq_dev / 60))


@pytest.mark.parametrize(("centre", "spread"), [(1.0, 1e-4), (10.0, 1e-4), (10.0, 1e-9)])
def test_a_float64_model_has_float64_statistics(centre: float, spread: float) -> None:
    thetas = trajectory(60, 1000, centre, spread, torch.float64)
    truth = oracles.moments(array(thetas), rank=7)
    collector = collect(thetas, 7, deviation_dtype=torch.float64)
    assert {collector.mean.dtype, collector.sq_dev.dtype, collector.deviations.dtype} == {torch.float64}
    assert_close(collector.mean, truth.mean, rtol=1e-15)
    assert_close(collector.sq_dev, truth.sq_dev, rtol=1e-12)
    assert_close(collector.deviations, truth.deviations, rtol=1e-12, scale=np.sqrt(truth.sq_dev / 60))
    # Rows of the usual float32 are rounded once, at the end.
    rows = collect(thetas, 7).deviations
    assert torch.equal(rows, collector.deviations.float())


def test_a_thousand_bf16_snapshots_average_to_the_truth() -> None:
    """A mean kept in bfloat16 stops moving: torch's AveragedModel ends near 1.13 where the truth is 1.499."""
    ramp = torch.linspace(1, 2, 1000, dtype=torch.float64)[:, None].repeat(1, 3).bfloat16()
    model = Vector(3, torch.bfloat16)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    collector = Collector(model, rank=2)
    for theta in ramp:
        with torch.no_grad():
            model.theta.copy_(theta)
        averaged.update_parameters(model)
        collector.collect(model)
    truth = array(ramp).mean(0)
    assert_close(collector.mean, truth, rtol=1e-6)
    assert_close(collector.sq_dev, ((array(ramp) - truth) ** 2).sum(0), rtol=1e-5)
    assert (abs(array(averaged.module.theta) - truth) > 0.1).all(), "the comparison no longer shows anything"


def test_a_drifting_mean_is_followed() -> None:
    """Weights that travel far from the first snapshot: the shift must not cost what it saved."""
    drift = torch.linspace(0, 100, 200, dtype=torch.float64)[:, None]
    thetas = (drift + trajectory(200, 300, 0.0, 0.01, torch.float64)).float()
    truth = oracles.moments(array(thetas), rank=5)
    collector = collect(thetas, 5)
    assert_close(collector.mean, truth.mean, rtol=1e-6)
    assert_close(collector.sq_dev, truth.sq_dev, rtol=1e-5)
    assert_close(collector.deviations, truth.deviations, rtol=1e-5, scale=np.sqrt(truth.sq_dev / 200))


def test_weights_that_never_move_are_exact() -> None:
    theta = trajectory(1, 100, 0.1, 1.0, torch.float32)
    collector = collect(theta.repeat(37, 1), 4)
    assert torch.equal(collector.mean, theta[0])
    assert not collector.sq_dev.any()
    assert not collector.deviations.any()


def test_the_variance_is_the_population_s() -> None:
    """Divided by n, not by n − 1: with n = 3 the difference is a half."""
    thetas = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])
    assert collect(thetas, 2).swag_diag().cov_diag.tolist() == pytest.approx([14 / 3, 2.0])


def test_the_mean_starts_with_the_first_snapshot_not_with_the_weights_at_construction() -> None:
    model = Vector(2, torch.float32)
    nn.init.constant_(model.theta, 100.0)
    collector = Collector(model, rank=2)
    for value in (1.0, 2.0):
        nn.init.constant_(model.theta, value)
        collector.collect(model)
    assert collector.mean.tolist() == [1.5, 1.5]
    assert collector.sq_dev.tolist() == [0.5, 0.5]


def test_one_step_is_welford_s() -> None:
    """The kernel's formulas, in its docstring's symbols, by hand: θ₁ = 10, then x = 1, 4."""
    origin, m, big_m, r = torch.tensor([10.0]), torch.zeros(1), torch.zeros(1), torch.zeros(1)
    accumulate_(torch.tensor([11.0]), origin, m, big_m, r, 2)  # x₁ = 0, x₂ = 1
    assert (m.item(), big_m.item(), r.item()) == (0.5, 0.5, 0.5)
    accumulate_(torch.tensor([14.0]), origin, m, big_m, r, 3)  # x₃ = 4: mean 5/3, Σ(x − m)² = 26/3
    assert (m.item(), big_m.item(), r.item()) == pytest.approx((5 / 3, 26 / 3, 7 / 3))
    assert origin.item() == 10.0


@given(
    n=st.integers(1, 12),
    size=st.integers(1, 20),
    rank=st.integers(0, 6),
    centre=st.sampled_from([0.0, 1.0, -1000.0]),
    seed=st.integers(0, 2**31),
)
def test_any_short_trajectory_equals_the_oracle(
    n: int, size: int, rank: int, centre: float, seed: int
) -> None:
    thetas = trajectory(n, size, centre, 0.1, torch.float32, seed)
    truth = oracles.moments(array(thetas), rank)
    collector = collect(thetas, rank)
    assert collector.n_collected == n
    spread: Array = np.sqrt(truth.sq_dev / n)
    assert_close(collector.mean, truth.mean, rtol=1e-6, scale=abs(centre) + 1)
    assert_close(collector.sq_dev, truth.sq_dev, rtol=1e-5)
    assert_close(collector.deviations, truth.deviations, rtol=1e-5, scale=spread)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_first_bad_tensor_is_found(bad: float, dtype: torch.dtype) -> None:
    tensors = [torch.ones(3), torch.empty(0), torch.ones(2, 2, dtype=dtype), torch.ones(())]
    assert all_finite(tensors) and first_non_finite(tensors) is None
    tensors[2][1, 0] = bad
    assert not all_finite(tensors) and first_non_finite(tensors) == 2
    tensors[3].fill_(-bad)  # opposite infinities add up to a NaN, not to a number
    assert not all_finite(tensors) and first_non_finite(tensors) == 2
    assert first_non_finite([torch.empty(0), torch.empty(0, 3)]) is None


@pytest.mark.parametrize(
    ("dtype", "large"),
    [(torch.float32, 3e38), (torch.float64, 1e308), (torch.bfloat16, 3e38), (torch.float16, 60000.0)],
    ids=str,
)
def test_large_values_are_not_taken_for_infinite(dtype: torch.dtype, large: float) -> None:
    """Their sum and their squares overflow; the values themselves are finite."""
    tensors = [torch.full((1000,), large, dtype=dtype), torch.ones(3)]
    assert all_finite(tensors) and first_non_finite(tensors) is None
    tensors[0][500] = float("nan")
    assert not all_finite(tensors) and first_non_finite(tensors) == 0


def test_flags_leave_empty_tensors_out() -> None:
    tensors = [torch.empty(0, 3), torch.ones(2), torch.tensor([1.0, float("nan")]), torch.empty(0)]
    assert non_finite_flags(tensors).tolist() == [False, False, True, False]
