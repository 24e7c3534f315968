"""Rounding to grids: against the formulas written out in Python's exact fractions, and by statistics."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from swag.errors import InputError
from swag.lowprecision import (
    BlockFloatingPoint,
    FixedPoint,
    Format,
    SymmetricUniform,
    block_floating_point,
    compiled_kernel,
    fixed_point,
    symmetric_steps,
    symmetric_uniform,
)
from swag.lowprecision.kernel import uniforms
from tests.checks import array, assert_distributed, assert_means, assert_proportions
from tests.runs import seeded

DRAWS = 20_000
ROUNDINGS = ("stochastic", "nearest")


def exact_block_step(values: list[float], wl: int) -> Fraction:
    """2^(e−wl+2) with the largest e for which 2^e ≤ max|x|, by trial; blocks on the grid of e − 1 stay."""
    e, limit = -200, 2 ** (wl - 1)
    while Fraction(2) ** (e + 1) <= max(abs(Fraction(x)) for x in values):
        e += 1
    found, finer = (Fraction(2) ** max(k - wl + 2, -126) for k in (e, e - 1))
    codes = [Fraction(x) / finer for x in values]
    stays = all(code.denominator == 1 and -limit <= code < limit for code in codes)
    return finer if stays else found


def exact_nearest(x: float, step: Fraction, low: int, high: int) -> float:
    # Python's round of a fraction takes ties to even.
    return float(max(low, min(high, round(Fraction(x) / step))) * step)


def blocks_of(x: Tensor, dim: int | None, block: int | None) -> list[Tensor]:
    if block is not None:
        return list(x.reshape(-1).split(block))
    return [x] if dim is None else list(x.unbind(dim))


# --- grids -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
@settings(max_examples=60)
def test_fixed_point_to_nearest_is_the_formula(values: list[float]) -> None:
    for wl, fl in ((1, 0), (3, 1), (8, 6), (8, -2), (16, 20)):
        got = fixed_point(torch.tensor(values), wl, fl, rounding="nearest").tolist()
        limit = 2 ** (wl - 1)
        expected = [exact_nearest(x, Fraction(2) ** -fl, -limit, limit - 1) for x in values]
        assert got == expected


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=6), st.integers(1, 16))
@settings(max_examples=80)
def test_block_floating_point_to_nearest_is_the_formula(values: list[float], wl: int) -> None:
    got = block_floating_point(torch.tensor(values), wl, rounding="nearest").tolist()
    step = exact_block_step(values, wl)
    expected = [exact_nearest(x, step, -(2 ** (wl - 1)), 2 ** (wl - 1) - 1) for x in values]
    assert got == expected


@pytest.mark.parametrize("wl", [1, 2, 4, 8, 16])
def test_the_published_exponent(wl: int) -> None:
    """e = ⌊log₂ max|x|⌋ and its clamp, written out; also where max|x| is a power of two, of either sign."""
    normal = torch.randn(1000, generator=seeded(1))
    ends = [torch.tensor([*ends, 0.3, -0.777]) for ends in ([-1.0], [1.0], [1.0, -1.0], [-4.0, 3.9])]
    for x in (normal, *ends):
        delta = 2.0 ** (math.floor(math.log2(x.abs().max().item())) - wl + 2)
        expected = (x.double() / delta).round().clamp(-(2 ** (wl - 1)), 2 ** (wl - 1) - 1) * delta
        q = block_floating_point(x, wl, rounding="nearest")
        assert torch.equal(q.double(), expected)
        assert torch.equal(block_floating_point(q, wl, generator=seeded(2)), q)


FORMATS: list[Format] = [
    *(FixedPoint(wl, fl, r) for wl, fl in ((1, 0), (4, 2), (8, 6), (16, 12)) for r in ROUNDINGS),
    *(
        BlockFloatingPoint(wl, dim, block, r)
        for wl in (1, 2, 3, 8, 16)
        for dim, block in ((None, None), (0, None), (-1, None), (None, 5))
        for r in ROUNDINGS
    ),
    *(SymmetricUniform(bits, dim, r) for bits in (2, 3, 8) for dim in (None, 1) for r in ROUNDINGS),
]


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_outputs_are_on_the_grid_and_stay(form: Format) -> None:
    """Codes are whole, inside the word, and rounding again changes nothing, whatever the numbers drawn."""
    generator = seeded(2)
    for scale in (1e-20, 0.3, 1.0, 1e6):
        x = torch.randn(7, 9, generator=generator) * scale
        q = form(x, generator=generator)
        steps = form.steps(x)
        codes = form.arranged(q).double() / steps.double()
        assert torch.equal(codes, codes.round())
        assert form.codes[0] <= codes.min() and codes.max() <= form.codes[1]
        assert torch.equal(form.on(q, steps, 12345), q)
        if not isinstance(form, SymmetricUniform):  # whose step is fitted anew
            assert torch.equal(form(q, generator=generator), q)


@pytest.mark.parametrize("wl", [2, 4, 8])
def test_a_block_that_ends_at_a_negative_power_of_two_keeps_its_grid(wl: int) -> None:
    delta = 2.0**-5
    x = torch.arange(-(2 ** (wl - 1)), 2 ** (wl - 1)) * delta
    assert torch.equal(block_floating_point(x, wl), x)


def test_float32_sums_would_move_numbers_of_the_grid() -> None:
    """⌊x/δ + u⌋ in float32 moves codes near 2¹⁵ with probability 2⁻⁹; here none of 100,000 moves."""
    x = torch.full((100_000,), float(2**15 - 3))
    assert torch.equal(fixed_point(x, 16, 0, generator=seeded()), x)
    moved = (x + uniforms(len(x), 0)).floor() != x
    assert moved.any()


# --- statistics of stochastic rounding --------------------------------------------------------------


@pytest.mark.parametrize("value", [0.3, -0.3, 0.0078, 1.96, -1.99, 1.0])
def test_stochastic_rounding_is_unbiased_with_the_formulas_variance(value: float) -> None:
    """E[Q] = x; Var[Q] = δ²f(1 − f): each within five of its standard errors over 20,000 draws."""
    delta = 2.0**-6
    for q in (
        fixed_point(torch.full((DRAWS,), value), 8, 6, generator=seeded(4)),
        # The 1.5 sets the exponent to 0, so δ is 2^(0−8+2).
        block_floating_point(torch.tensor([value] * DRAWS + [1.5]), 8, generator=seeded(5))[:-1],
    ):
        x = np.float64(np.float32(value))
        f = x / delta - math.floor(x / delta)
        variance = delta**2 * f * (1 - f)
        assert abs(array(q).mean() - x) <= 5 * math.sqrt(variance / DRAWS) + 1e-9
        fourth = delta**4 * f * (1 - f) * (1 - 3 * f * (1 - f))
        error = math.sqrt(max(fourth - variance**2, 0) / DRAWS)
        assert abs(((array(q) - x) ** 2).mean() - variance) <= 5 * error + 1e-12


def test_every_value_of_a_tensor_is_unbiased() -> None:
    """Over 2,000 seeds, at 40 places of one tensor, slice exponents included."""
    x = torch.randn(4, 10, generator=seeded(6)).clamp(-1.9, 1.9) * torch.tensor([[1.0], [8.0], [0.1], [1e-6]])
    x[:, 0] = -1.95 * torch.tensor([1.0, 8.0, 0.1, 1e-6])  # the largest magnitude is negative: no clamp above
    generator = seeded(7)
    drawn = torch.stack([block_floating_point(x, 5, dim=0, generator=generator) for _ in range(2000)])
    scale = x.abs().amax(1, keepdim=True)
    assert_means((drawn / scale).view(2000, -1), (x / scale).view(-1))


def test_the_clamps_bias_at_the_top() -> None:
    """Within one step of the top, E[Q] − x = x_max − x; at the bottom there is none."""
    delta, top = 2.0**-2, 2.0 - 2.0**-2
    for x in (1.8, 1.9, 1.99):
        q = block_floating_point(torch.full((DRAWS,), x), 4, generator=seeded(8))
        assert (q == top).all()  # ⌊x/δ⌋ is the largest code already
        assert array(q).mean() - x == pytest.approx(top - x)
    q = block_floating_point(torch.full((DRAWS,), -1.9), 4, generator=seeded(9))
    f = (-1.9 / delta) % 1
    assert abs(array(q).mean() + 1.9) <= 5 * delta * math.sqrt(f * (1 - f) / DRAWS)
    assert (fixed_point(torch.tensor([5.0]), 4, 2) == top).all()


def test_the_uniform_numbers() -> None:
    for seed in (0, 1, 2**63):
        u = uniforms(100_000, seed)
        assert u.min() >= 0 and u.max() < 1
        assert_distributed(u, stats.uniform)
    pairs = torch.stack([uniforms(100_000, 1), uniforms(100_000, 2), uniforms(100_001, 1)[1:]])
    correlation = torch.corrcoef(pairs) - torch.eye(3)
    assert correlation.abs().max() < 5 / math.sqrt(100_000)
    # Neighbours together fill the square: 16 × 16 cells, by a chi-square test; of one stream and of two.
    u, v = uniforms(200_000, 5), uniforms(200_000, 6)
    for a, b in ((u[::2], u[1::2]), (u, v), (u[:-64:64], u[64::64])):
        cells = ((a * 16).long() * 16 + (b * 16).long()).bincount(minlength=256)
        assert_proportions(cells, torch.full((256,), 1 / 256))


def test_a_seed_draws_the_same_and_takes_one_number() -> None:
    x = torch.randn(1000, generator=seeded())
    assert torch.equal(fixed_point(x, 8, 4, generator=seeded(1)), fixed_point(x, 8, 4, generator=seeded(1)))
    assert not torch.equal(
        fixed_point(x, 8, 4, generator=seeded(1)), fixed_point(x, 8, 4, generator=seeded(2))
    )
    generator = seeded(3)
    fixed_point(x, 8, 4, generator=generator)
    after = torch.rand(1, generator=generator)
    generator = seeded(3)
    block_floating_point(x[:3], 8, generator=generator)
    assert torch.equal(after, torch.rand(1, generator=generator))
    state = torch.get_rng_state()
    fixed_point(x, 8, 4, rounding="nearest")
    for call in (
        lambda g: fixed_point(x, 8, 4, generator=g),
        lambda g: block_floating_point(x, 8, generator=g),
    ):
        call(generator)
    assert torch.equal(state, torch.get_rng_state())


# --- blocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim,block", [(0, None), (1, None), (-1, None), (None, 1), (None, 4), (None, 1000)])
def test_each_block_is_rounded_by_its_own_exponent(dim: int | None, block: int | None) -> None:
    """A block together with others gives what it gives alone; one exponent for all would not."""
    x = torch.randn(6, 5, 7, generator=seeded(10)) * 10.0 ** torch.arange(-3, 3).view(6, 1, 1)
    whole = block_floating_point(x, 4, dim=dim, block=block, rounding="nearest")
    for got, alone in zip(blocks_of(whole, dim, block), blocks_of(x, dim, block), strict=True):
        assert torch.equal(got, block_floating_point(alone, 4, rounding="nearest"))
    if block != 1000:
        assert not torch.equal(whole, block_floating_point(x, 4, rounding="nearest"))


@pytest.mark.parametrize("dim,block", [(None, None), (0, None), (1, None), (-1, None), (None, 6)])
@pytest.mark.parametrize("wl", [1, 2, 5])
def test_a_block_that_reaches_down_to_a_power_of_two(dim: int | None, block: int | None, wl: int) -> None:
    """Each block by itself takes the formula's exponent, or stays where it is on the finer grid already."""
    x = torch.randn(4, 6, generator=seeded(14)).clamp(-0.99, 0.99)
    x[:2, 0] = -1.0
    x[0, 1:] = (x[0, 1:] * 16).round() / 16  # on the finer grid of 5 bits
    got = block_floating_point(x, wl, dim=dim, block=block, rounding="nearest")
    for q, alone in zip(blocks_of(got, dim, block), blocks_of(x, dim, block), strict=True):
        values = alone.flatten().tolist()
        step, limit = exact_block_step(values, wl), 2 ** (wl - 1)
        assert q.flatten().tolist() == [exact_nearest(v, step, -limit, limit - 1) for v in values]
    assert torch.equal(block_floating_point(got, wl, dim=dim, block=block, generator=seeded(1)), got)


def test_small_blocks_exponents() -> None:
    x = torch.tensor([[1.0, -3.0], [0.001, 0.0], [0.0, 0.0], [-4.0, 1.0], [-4.0, 0.3]])
    steps = BlockFloatingPoint(8, dim=0).steps(x)
    smallest = 2.0**-126
    assert steps.shape == (5, 1)
    # max 3 → e = 1; 0.001 → e = −10; zeros → the smallest; −4 and 1 are on the grid of e = 1, which ends
    # there; with 0.3 beside it → e = 2.
    assert steps.view(-1).tolist() == [2.0**-5, 2.0**-16, smallest, 2.0**-5, 2.0**-4]


def test_formats_take_a_vector_as_one_block() -> None:
    x = torch.tensor([0.3, 100.0])
    assert torch.equal(BlockFloatingPoint(4, dim=0).to_nearest()(x), torch.tensor([0.0, 96.0]))
    assert torch.equal(block_floating_point(x, 4, dim=0, rounding="nearest"), torch.tensor([0.3125, 96.0]))


# --- zeros, denormals, extremes ---------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_zeros_and_denormals(rounding: str) -> None:
    zeros = torch.zeros(3, 4)
    for dim in (None, 0):
        assert torch.equal(block_floating_point(zeros, 8, dim=dim, rounding=rounding), zeros)
    assert torch.equal(fixed_point(zeros, 8, 4, rounding=rounding), zeros)
    assert torch.equal(symmetric_uniform(zeros, 2, rounding=rounding), zeros)
    tiny = torch.tensor([1e-44, -3e-42, 2e-39])
    q = block_floating_point(tiny, 8, rounding=rounding)
    assert q.isfinite().all() and (q.abs() <= 2.0**-126).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extremes_stay_finite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor([largest, -largest, 1.0, torch.finfo(dtype).smallest_normal], dtype=dtype)
    for wl in (1, 2, 8):
        q = block_floating_point(x, wl)
        assert q.dtype == dtype and q.isfinite().all()
        assert q[1] <= -largest / 4
    assert fixed_point(x, 8, 4).tolist() == [
        8 - 2.0**-4,
        -8.0,
        1.0,
        fixed_point(x, 8, 4, rounding="nearest")[3],
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("wl", [2, 5, 8])
def test_the_topmost_block_is_the_formulas(wl: int, dtype: torch.dtype) -> None:
    """e is the dtype's largest exponent, where −2^(wl−1)·δ would be −∞: the code after it ends the range."""
    largest = torch.finfo(dtype).max
    x = torch.tensor([[largest, -largest, 0.6 * largest, -0.3 * largest], [1.0, -2.0, 0.3, 0.5]], dtype=dtype)
    delta = 2.0 ** (math.floor(math.log2(0.75 * largest)) - wl + 2)
    top = 2 ** (wl - 1) - 1
    expected = (x[0].double() / delta).round().clamp(-top, top) * delta
    for q in (
        block_floating_point(x[0], wl, rounding="nearest"),
        block_floating_point(x, wl, dim=0, rounding="nearest")[0],
    ):
        assert torch.equal(q.double(), expected)
    q = block_floating_point(x, wl, dim=0, generator=seeded(1))
    assert q.isfinite().all() and torch.equal(block_floating_point(q, wl, dim=0, generator=seeded(2)), q)
    assert torch.equal(q[1], block_floating_point(q[1], wl))  # the other block reaches −2^(wl−1)·δ


def test_infinities() -> None:
    x = torch.tensor([torch.inf, -torch.inf, 0.5])
    for rounding in ROUNDINGS:
        assert fixed_point(x, 4, 1, rounding=rounding).tolist() == [3.5, -4.0, 0.5]
    with pytest.raises(InputError, match=r"x: holds 2 infinite values; a block with one has no exponent"):
        block_floating_point(x, 8)
    with pytest.raises(InputError, match="x: holds NaN or infinite"):
        symmetric_uniform(x, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_have_the_same_grid(dtype: torch.dtype) -> None:
    x = torch.randn(50, generator=seeded(11)).to(dtype)
    for form in (FixedPoint(8, 5, "nearest"), BlockFloatingPoint(8, rounding="nearest")):
        assert torch.equal(form(x).double(), form(x.float()).double())


@pytest.mark.parametrize("shape", [(0,), (), (3, 0, 2), (1,)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 0.7)
    for form in (
        FixedPoint(8, 4),
        BlockFloatingPoint(8),
        BlockFloatingPoint(8, block=3),
        SymmetricUniform(2),
    ):
        assert form(x).shape == shape
    x = torch.randn(4, 3, 5, 5, generator=seeded()).to(memory_format=torch.channels_last)
    a = block_floating_point(x, 8, dim=1, generator=seeded(1))
    assert torch.equal(a, block_floating_point(x.contiguous(), 8, dim=1, generator=seeded(1)))
    assert a.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(4, 6, generator=seeded()).t()
    a = block_floating_point(x, 8, block=5, generator=seeded(1))
    assert torch.equal(a, block_floating_point(x.contiguous(), 8, block=5, generator=seeded(1)))


# --- the symmetric grid -------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_steps_are_near_the_best(bits: int) -> None:
    """Within 5 % of the error of the best of 4,000 steps, for two distributions, slice by slice."""
    x = torch.stack([torch.randn(500, generator=seeded(12)), torch.randn(500, generator=seeded(13)) ** 3])
    levels = 2 ** (bits - 1) - 1
    got = symmetric_uniform(x, bits, dim=0)
    for row, found in zip(x, got, strict=True):
        steps = row.abs().max() / levels * torch.linspace(0.02, 1.2, 4000)[:, None]
        best = ((row - (row / steps).round().clamp(-levels, levels) * steps) ** 2).sum(1).min()
        assert ((row - found) ** 2).sum() <= 1.05 * best
        assert len(found.unique()) <= 2 * levels + 1


def test_a_given_step_is_used() -> None:
    x = torch.tensor([0.9, -0.2, 5.0])
    assert symmetric_uniform(x, 3, step=torch.tensor(0.5)).tolist() == [1.0, 0.0, 1.5]
    with pytest.raises(InputError, match="step: holds values that are not positive"):
        symmetric_uniform(x, 3, step=torch.tensor(0.0))
    assert torch.equal(symmetric_steps(symmetric_uniform(x, 3), 3), symmetric_steps(x, 3))
    assert symmetric_uniform(x, 3, step=0.5).tolist() == [1.0, 0.0, 1.5]
    with pytest.raises(InputError, match="x: holds NaN or infinite"):
        symmetric_uniform(torch.tensor([1.0, torch.nan]), 3, step=0.5)


def test_a_given_step_broadcasts_as_torch_does() -> None:
    """Along the last dimension too, where a square tensor would hide a mistake."""
    x = torch.randn(5, 5, generator=seeded(15))
    step = torch.linspace(0.1, 0.9, 5)
    for shaped in (step, step.view(1, 5), step.view(5, 1)):
        expected = (x / shaped).round().clamp(-3, 3) * shaped
        assert torch.equal(symmetric_uniform(x, 3, step=shaped), expected)
    for bad in (torch.ones(5, 5), torch.ones(4), torch.ones(1, 1, 5)):
        with pytest.raises(InputError, match=r"step: got shape .* for x of shape \(5, 5\)"):
            symmetric_uniform(x, 3, step=bad)


def test_a_refused_tensor_takes_no_random_number() -> None:
    state = torch.get_rng_state()
    for call in (
        lambda: fixed_point(torch.ones(2, dtype=torch.int64), 8, 4),
        lambda: block_floating_point(torch.tensor([torch.nan]), 8),
        lambda: symmetric_uniform(torch.tensor([torch.inf]), 8, rounding="stochastic"),
    ):
        with pytest.raises(InputError):
            call()
    assert torch.equal(state, torch.get_rng_state())


# --- gradients, compilation, refusals ----------------------------------------------------------------


@pytest.mark.parametrize(
    "form", [FixedPoint(3, 1), BlockFloatingPoint(3, dim=0), SymmetricUniform(2)], ids=str
)
def test_gradients_pass_straight_through(form: Format) -> None:
    x = (3 * torch.randn(4, 5, generator=seeded())).requires_grad_()
    y = form(x)
    weight = torch.randn(4, 5, generator=seeded(1))
    (y * weight).sum().backward()
    assert torch.equal(x.grad, weight)
    assert not form(x.detach()).requires_grad


@pytest.mark.slow
def test_the_compiled_kernel_gives_the_same_bits() -> None:
    kernel = compiled_kernel()
    x = torch.randn(3, 5, 70, generator=seeded()) * 100
    for dim in (None, 1):
        a = block_floating_point(x, 8, dim=dim, generator=seeded(2), kernel=kernel)
        assert torch.equal(a, block_floating_point(x, 8, dim=dim, generator=seeded(2))), dim
    a = fixed_point(x, 6, 2, generator=seeded(3), kernel=kernel)
    assert torch.equal(a, fixed_point(x, 6, 2, generator=seeded(3)))
    assert kernel._fused is not None  # it did compile


def test_a_compiler_that_fails_leaves_the_eager_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Tensor:
        calls.append(args)
        raise RuntimeError("no compiler")

    calls: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, **settings: broken)
    kernel = compiled_kernel()
    x = torch.randn(100, generator=seeded())
    for _ in range(2):
        a = fixed_point(x, 8, 4, generator=seeded(1), kernel=kernel)
        assert torch.equal(a, fixed_point(x, 8, 4, generator=seeded(1)))
    assert len(calls) == 1  # it is not tried again


@pytest.mark.parametrize("wl", [0, 17, -3, 2.5, True, "8", None])
def test_word_lengths_out_of_range(wl: object) -> None:
    for call in (lambda: fixed_point(torch.ones(2), wl, 2), lambda: block_floating_point(torch.ones(2), wl)):
        with pytest.raises(InputError, match=r"wl: got .*; pass a word length of 1 to 16 bits"):
            call()
    with pytest.raises(InputError, match=r"bits: got .*; pass a word length of 2 to 8 bits"):
        symmetric_uniform(torch.ones(2), wl)


@pytest.mark.parametrize("form", [FixedPoint(8, 4), BlockFloatingPoint(8), SymmetricUniform(2)], ids=str)
def test_bad_tensors(form: Format) -> None:
    with pytest.raises(InputError, match=r"x: got dtype torch.int64; only real floating-point"):
        form(torch.ones(3, dtype=torch.int64))
    with pytest.raises(InputError, match=r"x: got dtype torch.complex64"):
        form(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(InputError, match="x: got a list"):
        form([1.0])
    for rounded in (form, form.to_nearest()):
        with pytest.raises(InputError, match=r"x: holds .*NaN"):
            rounded(torch.tensor([1.0, torch.nan]))


def test_bad_settings() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(InputError, match="dim: got 2 for a tensor of 2 dimensions"):
        block_floating_point(x, 8, dim=2)
    with pytest.raises(InputError, match="block: got 4 beside dim=0; pass one of the two"):
        block_floating_point(x, 8, dim=0, block=4)
    with pytest.raises(InputError, match="block: got 0"):
        block_floating_point(x, 8, block=0)
    for call in (fixed_point, lambda x, wl, fl, **kw: block_floating_point(x, wl, **kw)):
        with pytest.raises(InputError, match="rounding: got 'floor'; pass 'stochastic' or 'nearest'"):
            call(x, 8, 4, rounding="floor")
        with pytest.raises(InputError, match=r"generator: got 3"):
            call(x, 8, 4, generator=3)
    with pytest.raises(InputError, match=r"fl: got 0.5"):
        fixed_point(x, 8, 0.5)
    with pytest.raises(InputError, match=r"fl: got 200 with wl=8; .* pass fl from -120 to 126"):
        fixed_point(x, 8, 200)
    with pytest.raises(
        InputError, match=r"x: torch.bfloat16 has 8 significant bits, too few for codes of 12"
    ):
        fixed_point(x.bfloat16(), 12, 4)
