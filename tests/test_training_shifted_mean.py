"""The memory behind averages, and the mask under which accelerators take snapshots in."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import swag
from swag.parameters import Layout
from swag.training.finiteness import Finiteness, check_finite_now
from swag.training.rules import EMA, Equal
from swag.training.shifted_mean import ShiftedMean, checked_mean, recentre_

LAYOUT = Layout([("a", (3, 2), torch.float32), ("b", (), torch.float32), ("c", (0, 4), torch.float32)])


def snapshots(n: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(entry.shape, generator=generator) for entry in LAYOUT.entries] for _ in range(n)]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.double().reshape(-1) for tensor in tensors])


def test_a_mask_that_is_true_changes_nothing() -> None:
    plain, masked = ShiftedMean(LAYOUT, torch.device("cpu")), ShiftedMean(LAYOUT, torch.device("cpu"))
    for n, tensors in enumerate(snapshots(5), 1):
        plain.take(tensors, Equal().share(n))
        masked.take(tensors, Equal().share(n), torch.tensor(True))
    assert torch.equal(plain.mean(), masked.mean())


@pytest.mark.parametrize("bad_at", [0, 1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_mask_that_is_false_leaves_the_mean(bad_at: int, value: float) -> None:
    """The bad snapshot is counted until it is found out; then all goes on as without it."""
    plain, masked = ShiftedMean(LAYOUT, torch.device("cpu")), ShiftedMean(LAYOUT, torch.device("cpu"))
    for i, tensors in enumerate(snapshots(5)):
        if i == bad_at:
            bad = [tensors[0] * value, *tensors[1:]]
            masked.take(bad, Equal().share(masked.n + 1), torch.tensor(False))
            masked.n -= 1
        plain.take(tensors, Equal().share(plain.n + 1))
        masked.take(tensors, Equal().share(masked.n + 1), torch.tensor(True))
    assert masked.n == 5
    torch.testing.assert_close(masked.mean(), plain.mean(), rtol=1e-6, atol=1e-7)


def test_goes_on_from_a_mean_of_elsewhere() -> None:
    seen = snapshots(9)
    mean = ShiftedMean(LAYOUT, torch.device("cpu"))
    mean.put(torch.stack([flat(tensors) for tensors in seen[:6]]).mean(0).float(), 6)
    for tensors in seen[6:]:
        mean.take(tensors, Equal().share(mean.n + 1))
    truth = torch.stack([flat(tensors) for tensors in seen]).mean(0)
    torch.testing.assert_close(mean.mean().double(), truth, rtol=1e-6, atol=2e-7)


def test_an_ema_far_from_its_origin() -> None:
    """From random weights to trained ones: the shift by the first snapshot must not hurt."""
    layout = Layout([("a", (100,), torch.float32)])
    mean, truth = ShiftedMean(layout, torch.device("cpu")), torch.zeros(100, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(100, generator=generator) * 100
    for n in range(1, 501):
        theta = theta * 0.97 + torch.randn(100, generator=generator) * 0.01
        share = EMA(0.95).share(n)
        truth = truth + share * (theta.double() - truth)
        mean.take([theta], share)
    # Rounding of θ − θ₁ with |θ₁| ~ 100 is 4e-6; beside the weights' own moves of 0.01 it is nothing.
    assert (mean.mean().double() - truth).abs().max() < 6e-5


def test_finiteness_found_at_the_next_look() -> None:
    undone: list[int] = []
    finite = Finiteness()
    finite._pending = torch.tensor([False, True]), ["a", "b"], lambda: undone.append(1)
    with pytest.raises(swag.InputError, match="'b' holds NaN or infinite values, at the snapshot before"):
        finite.settle()
    finite.settle()  # told once
    assert undone == [1]
    finite._pending = torch.tensor([False, False]), ["a", "b"], lambda: undone.append(2)
    assert finite.look([torch.ones(2)], ["a"], lambda: None) is None
    assert undone == [1]


def test_sums_that_overflow_are_finite() -> None:
    large = torch.full((10,), 3e38)
    check_finite_now([large], ["a"])
    assert Finiteness().look([large, torch.empty(0)], ["a", "b"], lambda: None) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: None,
        lambda s: {**s, "n": True},
        lambda s: {**s, "origin": torch.zeros(3)},
        lambda s: {key: value for key, value in s.items() if key != "offset_mean"},
        lambda s: {**s, "offset_mean": s["offset_mean"] * math.nan},
    ],
)
def test_damaged_states(spoil: Callable[..., object]) -> None:
    mean = ShiftedMean(LAYOUT, torch.device("cpu"))
    mean.take(snapshots(1)[0], 1.0)
    checked_mean(mean.state(), LAYOUT.size, "state")
    with pytest.raises(swag.InputError, match="state: "):
        checked_mean(spoil(mean.state()), LAYOUT.size, "state")


def test_moving_the_origin_changes_no_bit_of_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    origin = torch.randn(1000, generator=generator) * 10.0 ** torch.randint(
        -6, 6, (1000,), generator=generator
    )
    offset = torch.randn(1000, generator=generator) * 10.0 ** torch.randint(
        -6, 6, (1000,), generator=generator
    )
    powers = 10.0 ** torch.randint(-6, 6, (2, 1000), generator=generator)
    origin, offset = torch.randn(2, 1000, generator=generator) * powers
    mean, exact = origin + offset, origin.double() + offset.double()
    recentre_(origin, offset)
    assert torch.equal(origin, mean) and torch.equal(origin + offset, mean)
    assert torch.equal(origin.double() + offset.double(), exact)
