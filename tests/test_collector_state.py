"""A collector's state: carried over bit for bit, and untouched by whatever is refused."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from swag import Collector, InputError
from tests.cases import CASES, Case, MixedDtypes, Tied, lazy, plain, walk
from tests.runs import assert_same_state, trained


class TestRefusals:
    @pytest.mark.parametrize("rank", [-1, 2.0, True, None, "20"])
    def test_bad_ranks(self, rank: Any) -> None:
        with pytest.raises(InputError, match=r"rank: got .*; pass the number of deviations to keep"):
            Collector(plain(), rank)

    @pytest.mark.parametrize("dtype", [torch.int8, "bfloat16", None])
    def test_bad_row_dtypes(self, dtype: Any) -> None:
        with pytest.raises(
            InputError, match=r"deviation_dtype: got .*; pass torch\.float32 or torch\.bfloat16"
        ):
            Collector(plain(), deviation_dtype=dtype)

    def test_a_lazy_model(self) -> None:
        with pytest.raises(
            InputError, match=r"model: parameter '0\.weight' belongs to a lazy module .* forward"
        ):
            Collector(lazy())

    @pytest.mark.parametrize("n", [0, 1, 6])
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_weights_that_are_not_finite(self, n: int, bad: float) -> None:
        """The parameter is named, nothing moves, and the run goes on as if nothing had been tried."""
        model = plain()
        collector, spared = Collector(model, 3), Collector(model, 3)
        for _ in walk(model, n):
            collector.collect(model)
            spared.collect(model)
        broken = copy.deepcopy(model)
        with torch.no_grad():
            broken[2].weight[1, 2] = bad
            broken[2].bias[0] = bad
        with pytest.raises(
            InputError,
            match=rf"model: parameter '2\.weight' holds NaN or infinite values; nothing was collected "
            rf"\(still {n} snapshots\)",
        ):
            collector.collect(broken)
        assert_same_state(collector, spared)
        for _ in walk(model, 3, seed=1):
            collector.collect(model)
            spared.collect(model)
        assert_same_state(collector, spared)

    def test_bad_values_outside_the_selection_do_not_matter(self) -> None:
        model = plain()
        collector = Collector(model, 2, select=["0"])
        nn.init.constant_(model[2].weight, float("nan"))
        collector.collect(model)
        assert collector.n_collected == 1

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (
                lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)),
                r"model: parameter '2\.weight' has shape \(2, 4\), expected \(3, 4\): pass a model of the",
            ),
            (
                lambda: nn.Sequential(nn.Linear(8, 4)),
                r"model: has no parameter '2\.weight' \(2 of 4 names are missing; it has 0\.weight",
            ),
            (Tied, r"model: has no parameter '0\.weight' \(4 of 4 names are missing; it has encoder\.weight"),
            (
                lazy,
                r"model: parameter '0\.weight' belongs to a lazy module that has no shape yet; run one",
            ),
            (lambda: plain().state_dict(), r"model: got a OrderedDict; pass a torch\.nn\.Module"),
        ],
        ids=["shape", "missing", "other names", "lazy", "state_dict"],
    )
    @pytest.mark.parametrize("n", [0, 5])
    def test_another_model(self, n: int, model: Callable[[], Any], message: str) -> None:
        collector = trained(n)
        with pytest.raises(InputError, match=message):
            collector.collect(model())
        assert_same_state(collector, trained(n))

    @pytest.mark.parametrize(
        ("dtype", "large"), [(torch.float32, 1e30), (torch.bfloat16, 1e30), (torch.float16, 60000.0)], ids=str
    )
    def test_large_finite_weights_are_accepted(self, dtype: torch.dtype, large: float) -> None:
        model = plain().to(dtype)
        nn.init.constant_(model[0].weight, large)
        collector = Collector(model, 2)
        for _ in range(3):
            collector.collect(model)
        expected = float(torch.tensor(large, dtype=dtype))
        assert (collector.layout.unflatten(collector.mean)["0.weight"] == expected).all()
        assert not collector.sq_dev.any()


def through_torch_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def load(collector: Collector, state: dict[str, Any]) -> Collector:
    fresh = Collector.for_layout(collector.layout, collector.rank, deviation_dtype=collector.deviation_dtype)
    fresh.load_state_dict(state)
    return fresh


CARRY: dict[str, Callable[[Collector], Collector]] = {
    "state_dict": lambda c: load(c, c.state_dict()),
    "torch.save": lambda c: load(c, through_torch_file(c.state_dict())),
    "deepcopy": copy.deepcopy,
    "pickle": lambda c: pickle.loads(pickle.dumps(c)),
}


class TestResuming:
    @pytest.mark.parametrize("carry", CARRY)
    @pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_carried_over_and_continued_is_bit_for_bit_the_same(
        self, carry: str, n: int, dtype: torch.dtype
    ) -> None:
        """Rank 3, so 2 snapshots leave the ring half full and 7 leave it turned."""
        model = MixedDtypes()
        collector = Collector(model, 3, deviation_dtype=dtype)
        for _ in walk(model, n):
            collector.collect(model)
        carried = CARRY[carry](collector)
        assert_same_state(carried, collector)
        for _ in walk(model, 5, seed=1):
            collector.collect(model)
            carried.collect(model)
        assert_same_state(carried, collector)
        generator = torch.Generator()
        a = collector.swag().sample(3, generator=generator.manual_seed(1))
        assert torch.equal(a, carried.swag().sample(3, generator=generator.manual_seed(1)))

    @given(
        before=st.integers(0, 9), after=st.integers(0, 9), rank=st.integers(0, 5), case=st.sampled_from(CASES)
    )
    def test_any_cut_of_any_run(self, before: int, after: int, rank: int, case: Case) -> None:
        model = case.build()
        collector = Collector(model, rank)
        for _ in walk(model, before):
            collector.collect(model)
        carried = load(collector, collector.state_dict())
        for _ in walk(model, after, seed=1):
            collector.collect(model)
            carried.collect(model)
        assert_same_state(carried, collector)

    def test_loading_replaces_what_was_there(self) -> None:
        for n in (0, 4):
            collector = trained(9)
            collector.load_state_dict(trained(n).state_dict())
            assert_same_state(collector, trained(n))

    def test_a_loaded_state_is_copied(self) -> None:
        state = trained(5).state_dict()
        collector = trained(0)
        collector.load_state_dict(state)
        for value in state.values():
            if isinstance(value, Tensor):
                value.fill_(float("nan"))
        assert_same_state(collector, trained(5))

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda s: None, r"state: got a NoneType; pass what Collector\.state_dict\(\) returned"),
            (lambda s: {}, r"state: version None is unknown, this library reads 1; pass what"),
            (lambda s: {**s, "version": 99}, r"state: version 99 is unknown"),
            (lambda s: without(s, "layout"), r"state: lacks 'layout'; pass what"),
            (lambda s: without(s, "n_collected"), r"state: lacks 'n_collected'"),
            (
                lambda s: without(s, "sq_dev"),
                r"state: 'sq_dev' should be a tensor of shape \(51,\), got NoneType",
            ),
            (
                lambda s: {**s, "origin": s["origin"][1:]},
                r"state: 'origin' should be .* \(51,\), got \(50,\)",
            ),
            (
                lambda s: {**s, "deviations": s["deviations"][1:]},
                r"state: 'deviations' .* \(3, 51\), got \(2, 51\)",
            ),
            (lambda s: {**s, "n_collected": -1}, r"state: "),
            (lambda s: {**s, "layout": [{"name": "a"}]}, r"layout: an entry lacks name, shape or dtype"),
            (
                lambda s: trained(3, case=Tied).state_dict(),
                r"state: belongs to another model \('0\.weight' \(4, 8\) against 'encoder\.weight'",
            ),
            (
                lambda s: trained(3, 4).state_dict(),
                r"state: has rank 4 with float32 rows, this collector has rank 3",
            ),
            (
                lambda s: trained(3, 3, deviation_dtype=torch.bfloat16).state_dict(),
                r"state: has rank 3 with bfloat16 rows, this collector has rank 3 with float32",
            ),
        ],
    )
    def test_a_damaged_or_foreign_state(self, damage: Callable[[dict[str, Any]], Any], message: str) -> None:
        collector = trained(5)
        state = damage(trained(7).state_dict())
        with pytest.raises(InputError, match=message):
            collector.load_state_dict(state)
        assert_same_state(collector, trained(5))


def without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != key}
