"""Random subsets of a loader's rows: uniform, without replacement, independent, whatever the batches."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict, UserDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import swag
from swag.batchnorm.rows import RowSampler
from tests.checks import assert_proportions

DIVISIONS = [[6], [1] * 6, [1, 0, 5]]


def drawn(batches: Sequence[Any], n_rows: int, *, n_subsets: int = 1, seed: int = 0) -> list[Any]:
    sampler = RowSampler(n_rows, n_subsets, seed)
    for batch in batches:
        sampler.take(batch)
    return sampler.subsets()


def rows_of(sizes: Sequence[int]) -> list[Tensor]:
    return list(torch.arange(sum(sizes)).split(list(sizes)))


# --- the distribution ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", DIVISIONS, ids=str)
def test_each_pair_of_six_rows_is_equally_likely_over_seeds(sizes: list[int]) -> None:
    counts = Counter(tuple(sorted(drawn(rows_of(sizes), 2, seed=seed)[0].tolist())) for seed in range(600))
    pairs = list(itertools.combinations(range(6), 2))
    assert set(counts) <= set(pairs)  # each row at most once
    assert_proportions([counts[pair] for pair in pairs], [1 / 15] * 15)


@pytest.mark.parametrize("sizes", DIVISIONS, ids=str)
def test_each_pair_is_equally_likely_over_the_subsets_of_one_seed(sizes: list[int]) -> None:
    subsets = drawn(rows_of(sizes), 2, n_subsets=600)
    counts = Counter(tuple(sorted(subset.tolist())) for subset in subsets)
    assert_proportions([counts[pair] for pair in itertools.combinations(range(6), 2)], [1 / 15] * 15)


@pytest.mark.parametrize("other", ["subset", "seed"])
def test_subsets_are_independent_of_each_other(other: str) -> None:
    """Of two draws of one row out of four, all 16 outcomes are equally likely."""
    counts: Counter[tuple[int, int]] = Counter()
    for seed in range(600):
        one, two = drawn(rows_of([3, 1]), 1, n_subsets=2, seed=seed)
        if other == "seed":
            (two,) = drawn(rows_of([3, 1]), 1, seed=seed + 1)
        counts[one.item(), two.item()] += 1
    cells = list(itertools.product(range(4), range(4)))
    assert_proportions([counts[cell] for cell in cells], [1 / 16] * 16)


def test_large_data_keep_each_row_at_most_once_and_favour_no_part() -> None:
    subsets = drawn(rows_of([1000] * 20), 128, n_subsets=40)
    assert all(len(set(subset.tolist())) == 128 for subset in subsets)
    tenths = torch.cat(subsets).div(2000, rounding_mode="floor").bincount(minlength=10)
    assert_proportions(tenths, [0.1] * 10)


def test_a_seed_repeats_its_subsets_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = (drawn(rows_of([50, 50]), 10, n_subsets=3, seed=seed) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbouring_seeds_have_no_subset_in_common() -> None:
    subsets = [
        tuple(subset.tolist())
        for seed in range(5)
        for subset in drawn(rows_of([99]), 9, n_subsets=5, seed=seed)
    ]
    assert len(set(subsets)) == len(subsets)


def test_the_first_subsets_do_not_depend_on_how_many_there_are() -> None:
    few, many = (drawn(rows_of([50, 50]), 10, n_subsets=n) for n in (2, 7))
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))


# --- small data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", DIVISIONS, ids=str)
def test_a_subset_as_large_as_the_data_is_all_of_it(sizes: list[int]) -> None:
    for subset in drawn(rows_of(sizes), 6, n_subsets=3):
        assert subset.tolist() == list(range(6))


@pytest.mark.parametrize("sizes", [[5], [2, 3], [0, 5, 0]])
def test_a_subset_larger_than_the_data_is_refused(sizes: list[int]) -> None:
    with pytest.raises(
        swag.InputError, match=r"rows: asked for a subset of 6 and bn_loader gave 5 rows.*Exact"
    ):
        drawn(rows_of(sizes), 6)


def test_no_data_at_all_is_refused() -> None:
    with pytest.raises(swag.InputError, match="gave 0 rows"):
        drawn([], 2)


# --- what batches may be ---------------------------------------------------------------------------------


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


BATCHES = {
    "tuple": lambda x: (x, 10 * x),
    "list": lambda x: [x, 10 * x],
    "named tuple": lambda x: Pair(x, 10 * x),
    "dict": lambda x: {"x": x, "y": 10 * x},
    "ordered dict": lambda x: OrderedDict(x=x, y=10 * x),
    "user dict": lambda x: UserDict(x=x, y=10 * x),
    "nested": lambda x: (x, {"labels": [10 * x]}),
}


def parts(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    values = batch.values() if hasattr(batch, "values") else batch
    return [tensor for value in values for tensor in parts(value)]


@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES)
def test_rows_of_all_parts_stay_together_and_batches_keep_their_kind(make: Any) -> None:
    batches = [make(x) for x in rows_of([30, 1, 19])]
    (subset,) = drawn(batches, 8)
    (expected,) = drawn(rows_of([30, 1, 19]), 8)
    x, y = parts(subset)
    assert torch.equal(x, expected) and torch.equal(y, 10 * expected)
    assert type(subset) is type(batches[0])
    assert [len(part) for part in parts(batches[0])] == [30, 30]  # the loader's own batch is as it was


def test_what_has_no_rows_is_passed_on_as_the_first_batch_had_it() -> None:
    table, scalar = torch.arange(7), torch.tensor(3.0)
    # The second batch has as many rows as the table has.
    batches = [
        {"x": x, "table": table + 100 * number, "scalar": scalar, "name": f"batch {number}", "none": None}
        for number, x in enumerate(rows_of([20, 7, 13]))
    ]
    for subset in drawn(batches, 7, n_subsets=20):
        assert subset["table"].tolist() == table.tolist() and subset["scalar"].item() == 3.0
        assert subset["name"] == "batch 0" and subset["none"] is None
        assert len(set(subset["x"].tolist())) == 7


def test_a_table_as_long_as_the_first_batch_is_told_apart_later() -> None:
    batches = [(x, torch.arange(4)) for x in rows_of([4, 5, 4])]
    for x, table in drawn(batches, 2, n_subsets=10):
        assert table.tolist() == [0, 1, 2, 3] and len(set(x.tolist())) == 2


def test_rows_are_copies_so_a_loader_may_reuse_its_memory() -> None:
    memory = torch.empty(10, dtype=torch.int64)

    sampler = RowSampler(5, 3, seed=0)
    for batch in rows_of([10, 10, 10]):
        sampler.take(memory.copy_(batch))
    memory.fill_(-1)
    for subset, expected in zip(sampler.subsets(), drawn(rows_of([10, 10, 10]), 5, n_subsets=3), strict=True):
        assert torch.equal(subset, expected)


@pytest.mark.parametrize("batch", ["text", ("a", 1), torch.tensor(1.0), {}, None, object()], ids=repr)
def test_batches_without_rows_are_refused(batch: Any) -> None:
    with pytest.raises(swag.InputError, match="bn_loader: cannot pick rows out of a"):
        drawn([batch], 2)


def test_batches_that_are_not_alike_are_refused() -> None:
    x = torch.arange(4)
    with pytest.raises(swag.InputError, match="bn_loader: gave a batch of 1 tensors after one of 2"):
        drawn([(x, x), (x,)], 2)
