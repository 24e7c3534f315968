"""Mean and variance of one batch, in every shape, memory format and dtype, far from zero and sorted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from swag.batchnorm import batch_statistics
from tests.batchnorm_truth import (
    EPSILON,
    normal,
    rows,
)
from tests.checks import assert_close

# Two-dimensional, short and long, images small and large enough to be read in several pieces, volumes.
SHAPES = [(7, 5), (64, 5), (5000, 40), (63, 3, 4, 4), (70, 3, 4, 4), (300, 8, 16, 16), (65, 4, 3, 5, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels last", "sliced"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_statistics_equal_float64(
    shape: tuple[int, ...], memory_format: str, dtype: torch.dtype
) -> None:
    """Channels far from zero, and a first row unlike all others: what sums around a shift could get wrong."""
    channels = torch.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    x = normal(*shape) * 0.1 ** (channels % 3) + 10 * channels
    x[:1] += 5
    x = x.to(dtype)
    if memory_format == "channels last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    elif memory_format == "sliced":
        x = torch.stack([x, -x], -1)[..., 0]
    mean, variance, n = batch_statistics(x)
    assert (mean.dtype, variance.dtype) == (torch.promote_types(dtype, torch.float32),) * 2
    assert n == x.numel() // shape[1]
    epsilon = torch.finfo(mean.dtype).eps
    exact = rows(x)
    assert_close(mean, exact.mean(0), rtol=epsilon, scale=np.abs(exact).max(0))
    # Sums of squares around a shift that is up to 10 standard deviations off, which costs 10² roundings.
    # (In float64 the oracle is no better: numpy adds up 5,000 rows one after the other.)
    assert_close(variance, exact.var(0), rtol=max(100 * epsilon, 1e-12))


@pytest.mark.parametrize("jump", [1.0, 30.0, 1e3, 1e6])
def test_batch_statistics_when_the_first_rows_say_nothing_about_the_others(jump: float) -> None:
    """Sorted data: the first rows' mean lies `jump` standard deviations away from all the rest."""
    x = normal(20_000, 3)
    x[:64] += jump
    mean, variance, _ = batch_statistics(x)
    assert_close(mean, rows(x).mean(0), rtol=EPSILON, scale=np.abs(rows(x)).mean(0) + 1)
    # A shift that is more than 10 standard deviations off is replaced by a better one.
    assert_close(variance, rows(x).var(0), rtol=100 * EPSILON)


def test_batch_statistics_of_constant_channels() -> None:
    for value in (0.0, 0.1, 1e6, -3e-30):
        mean, variance, _ = batch_statistics(torch.full((1000, 2, 3), value))
        assert_close(mean, [value, value], rtol=EPSILON)
        assert (variance >= 0).all()
        assert_close(variance, [0.0, 0.0], rtol=EPSILON**2, scale=value**2)


def test_batch_statistics_by_hand() -> None:
    mean, variance, n = batch_statistics(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert (mean.tolist(), variance.tolist(), n) == ([2.0, 5.0], [1.0, 0.0], 2)
    mean, _, n = batch_statistics(torch.arange(12.0).reshape(2, 3, 2))
    assert (mean.tolist(), n) == ([3.5, 5.5, 7.5], 4)
