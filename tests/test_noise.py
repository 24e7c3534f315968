"""Randomness: what a sampler takes from its generator, normal numbers by position, balanced sequences."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from swag import InputError
from swag.noise import NormalSource, balanced_uniform, balanced_weighted, key_for, split_seeds, take_seed
from tests.checks import array, assert_covariance_close, assert_distributed, assert_means, assert_proportions

SOURCE = NormalSource("cpu")
seeds = st.integers(0, 2**63 - 1)


def normals(n: int, key: int, *, start: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    out = torch.empty(n, dtype=dtype)
    SOURCE.fill_(out, key=key, start=start)
    return out


class TestSeeds:
    def test_one_number_is_taken_from_the_generator(self) -> None:
        ours, theirs = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
        seed = take_seed(ours)
        torch.randint(2**63 - 1, (), generator=theirs)
        assert torch.equal(ours.get_state(), theirs.get_state())
        assert 0 <= seed < 2**63 and seed == take_seed(torch.Generator().manual_seed(5))

    def test_torch_s_own_generator_only_where_none_is_given(self) -> None:
        before = torch.get_rng_state()
        take_seed(torch.Generator().manual_seed(0))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(5)
        seed = take_seed()
        assert not torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(5)
        assert seed == take_seed(None)

    @pytest.mark.parametrize("wrong", [0, "cpu", np.random.default_rng(0)])
    def test_a_seed_is_no_generator(self, wrong: object) -> None:
        with pytest.raises(InputError, match=r"generator: got .*; pass torch\.Generator\(\)\.manual_seed"):
            take_seed(wrong)  # type: ignore[arg-type]

    def test_seeds_use_all_their_bits(self) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = np.array([take_seed(generator) for _ in range(500)], dtype=np.float64)
        assert_distributed(drawn / 2.0**63, stats.uniform())

    @given(seed=seeds, m=st.integers(0, 20), n=st.integers(0, 20))
    def test_split_seeds_are_a_prefix_of_more(self, seed: int, m: int, n: int) -> None:
        more = split_seeds(seed, m + n)
        assert split_seeds(seed, m) == more[:m]
        assert len(set(more)) == m + n
        assert all(0 <= s < 2**63 for s in more)

    def test_keys_differ_in_every_place(self) -> None:
        """Small seeds and numbers are what users choose: none may meet another, in any order."""
        keys = {key_for(seed, i, j) for seed in range(20) for i in range(20) for j in range(20)}
        keys |= {key_for(seed, i) for seed in range(20) for i in range(20)}
        keys |= {key_for(seed) for seed in range(20)}
        assert len(keys) == 20**3 + 20**2 + 20
        assert key_for(3, 1) == key_for(3, 1)


class TestNormals:
    def test_their_distribution(self) -> None:
        values = normals(200_000, key=key_for(0))
        assert_distributed(values, stats.norm())
        assert_means(values.double()[:, None] ** torch.arange(1, 5), [0.0, 1.0, 0.0, 3.0])

    def test_their_tails(self) -> None:
        """How many of 16 million lie beyond 3 … 4.9, each side, against a Poisson's spread.

        At 4.9 that is 16 on both sides together, and all of them would be missing from 16-bit uniforms.
        """
        source = torch.empty(1 << 20)
        counts, limits = np.zeros(4), [3.0, 4.0, 4.5, 4.9]
        for part in range(16):
            SOURCE.fill_(source, key=key_for(1), start=part << 20)
            assert source.isfinite().all()
            counts += [int((source.abs() > limit).sum()) for limit in limits]
        for count, limit in zip(counts, limits, strict=True):
            low, high = stats.poisson.ppf(stats.norm.cdf([-5, 5]), 2 * stats.norm.sf(limit) * (1 << 24))
            assert max(low, 1) <= count <= high, (limit, count, low, high)

    @pytest.mark.parametrize("lag", [1, 2, 512, 1024, 1536, 65536])
    def test_positions_are_independent(self, lag: int) -> None:
        """Neither values nor their sizes are related; at 512 lie the two numbers of one pair."""
        values = normals(200_000 + lag, key=key_for(2)).double()
        a, b = values[:-lag], values[lag:]
        assert_means(torch.stack([a * b, a * (b**2 - 1), (a**2 - 1) * (b**2 - 1)], 1), [0.0, 0.0, 0.0])

    def test_keys_are_independent(self) -> None:
        """Neighbouring samples, the two streams of one sample, and samples of neighbouring seeds."""
        keys = [key_for(s, i, stream) for s in (0, 1) for i in (0, 1, 2) for stream in (0, 1)]
        values = torch.stack([normals(20_000, key) for key in keys], 1)
        assert_covariance_close(values, np.eye(len(keys)), mean=np.zeros(len(keys)))
        sizes = values.double() ** 2 - 1
        pairs = torch.triu_indices(len(keys), len(keys), offset=1)
        assert_means(sizes[:, pairs[0]] * sizes[:, pairs[1]], np.zeros(pairs.shape[1]))

    def test_the_first_positions_over_many_keys(self) -> None:
        """A posterior of few weights sees only these."""
        values = torch.stack([normals(4, key_for(9, index, 0)) for index in range(3000)])
        assert_distributed(values.flatten(), stats.norm())
        assert_covariance_close(values, np.eye(4), mean=np.zeros(4))

    @given(start=st.integers(0, 5000), length=st.integers(0, 3000), key=st.integers(-(2**63), 2**64))
    def test_any_piece_is_a_piece_of_the_whole(self, start: int, length: int, key: int) -> None:
        assert torch.equal(normals(length, key, start=start), normals(8192, key)[start : start + length])

    def test_a_long_draw_is_the_short_ones_in_a_row(self) -> None:
        """Over the edges of the inner chunks."""
        whole = normals(300_001, key=3)
        parts = [
            normals(100_000, 3, start=0),
            normals(100_000, 3, start=100_000),
            normals(100_001, 3, start=200_000),
        ]
        assert torch.equal(torch.cat(parts), whole)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_dtypes_are_the_same_numbers(self, dtype: torch.dtype) -> None:
        assert torch.equal(normals(3000, 4, start=7, dtype=dtype), normals(3000, 4, start=7).to(dtype))

    def test_an_output_with_gaps(self) -> None:
        out = torch.zeros(2048, 2)
        NormalSource("cpu").fill_(out[:, 1], key=4)
        assert torch.equal(out[:, 1], normals(2048, 4)) and not out[:, 0].any()


class TestBalanced:
    def test_thirty_over_three(self) -> None:
        assert balanced_uniform(30, 3, seed=0).bincount().tolist() == [10, 10, 10]

    @given(n=st.integers(0, 200), n_items=st.integers(1, 12), seed=seeds)
    def test_every_prefix_is_balanced(self, n: int, n_items: int, seed: int) -> None:
        chosen = array(balanced_uniform(n, n_items, seed))
        assert chosen.shape == (n,)
        counts = np.cumsum(chosen[:, None] == np.arange(n_items), axis=0)
        assert (np.ptp(counts, axis=1) <= 1).all() if n else True
        assert (counts[n_items - 1 :: n_items].min(1) == np.arange(1, n // n_items + 1)).all()

    @given(n=st.integers(1, 100), m=st.integers(0, 100), n_items=st.integers(1, 7), seed=seeds)
    def test_fewer_are_a_prefix_of_more(self, n: int, m: int, n_items: int, seed: int) -> None:
        assert torch.equal(balanced_uniform(n, n_items, seed), balanced_uniform(n + m, n_items, seed)[:n])
        weights = torch.arange(1, n_items + 1, dtype=torch.float64)
        weights /= weights.sum()
        assert torch.equal(balanced_weighted(n, weights, seed), balanced_weighted(n + m, weights, seed)[:n])

    def test_blocks_are_random_permutations(self) -> None:
        """All six orders of three, in the first block and in the second, over 1,200 seeds."""
        orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
        drawn = [tuple(balanced_uniform(6, 3, seed).tolist()) for seed in range(1200)]
        for block in (slice(0, 3), slice(3, 6)):
            counts = [sum(d[block] == order for d in drawn) for order in orders]
            assert_proportions(counts, [1 / 6] * 6)

    WEIGHTS = (
        [0.5, 0.3, 0.2],
        [0.01, 0.99],
        [0.25, 0.0, 0.75],
        [0.0, 1.0, 0.0],
        [0.1] * 10,
        [0.6, 0.4, 0.0],
    )

    @pytest.mark.parametrize("weights", WEIGHTS, ids=str)
    def test_each_choice_has_the_weights_exactly(self, weights: list[float]) -> None:
        """Over 3,000 seeds, at the first place and at later ones: no item of weight zero, ever."""
        w = torch.tensor(weights, dtype=torch.float64)
        drawn = torch.stack([balanced_weighted(40, w, seed) for seed in range(3000)])
        for place in (0, 1, 7, 39):
            assert_proportions(drawn[:, place].bincount(minlength=len(w)), w)

    @pytest.mark.parametrize("weights", WEIGHTS, ids=str)
    @pytest.mark.parametrize("seed", range(5))
    def test_every_prefix_is_near_the_weights(self, weights: list[float], seed: int) -> None:
        """Counts of n draws are off by at most 2 + 0.3·ln n.

        The golden-ratio sequence has a star discrepancy of 0.15·ln n asymptotically (Dupain & Sós 1984),
        and an arc is the difference of two. At n = 4,000 that is 4.5; independent draws are off by 32
        (one standard deviation, at weight ½).
        """
        w = np.array(weights)
        chosen = array(balanced_weighted(4000, torch.from_numpy(w), seed))
        n = np.arange(1, 4001)[:, None]
        off = np.abs(np.cumsum(chosen[:, None] == np.arange(len(w)), axis=0) - n * w)
        assert (off <= 2 + 0.3 * np.log(n)).all(), off.max()

    def test_what_is_missing_from_a_sum_of_one_goes_to_the_last_item_with_weight(self) -> None:
        """Rounding leaves a gap of 1e-16 at the end; here it is wide enough to be hit."""
        w = torch.tensor([0.5, 0.3, 0.0], dtype=torch.float64)
        drawn = torch.cat([balanced_weighted(100, w, seed) for seed in range(5)])
        assert set(drawn.tolist()) == {0, 1}

    def test_the_default_device_does_not_matter(self) -> None:
        """Scripts that make new tensors land on an accelerator; "meta" stands for it."""
        expected = (
            balanced_uniform(7, 3, 0),
            balanced_weighted(7, torch.tensor([0.4, 0.6]), 0),
            take_seed(None),
        )
        torch.manual_seed(0)
        weights = torch.tensor([0.4, 0.6])
        with torch.device("meta"):
            got = balanced_uniform(7, 3, 0), balanced_weighted(7, weights, 0), take_seed(None)
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1]) and got[2] == expected[2]
