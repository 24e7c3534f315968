"""The collector: what it keeps, what it reads out, how it resumes, and what it refuses."""

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from swag import Collector, InputError, Layout, StateError, staging
from tests import oracles
from tests.cases import CASES, WRAPPERS, Case, MixedDtypes, Tied, compiled_part, features, lazy, plain, walk
from tests.checks import Array, assert_close


def trained(n: int, rank: int = 3, *, case: Callable[[], nn.Module] = plain, **settings: Any) -> Collector:
    """A collector after n made-up training steps."""
    torch.manual_seed(0)
    model = case()
    collector = Collector(model, rank, **settings)
    for _ in walk(model, n):
        collector.collect(model)
    return collector


def snapshots(model: nn.Module, collector: Collector, n: int, *, seed: int = 0) -> Array:
    """Collects n steps and returns θ₁ … θ_n (n, D) as an oracle reads them."""
    thetas = []
    for _ in walk(model, n, seed=seed):
        collector.collect(model)
        thetas.append(oracles.flat(model, collector.layout.names))
    return np.array(thetas)


def assert_same_state(got: Collector, expected: Collector) -> None:
    """Bit for bit, everything a collector holds and what is read out of it."""
    a, b = got.state_dict(), expected.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], Tensor):
            assert a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]), key
        else:
            assert a[key] == b[key], key
    if got.n_collected:
        assert torch.equal(got.mean, expected.mean)


class TestRows:
    @pytest.mark.parametrize("rank", [0, 1, 2, 3, 5])
    def test_the_last_rows_oldest_first(self, rank: int) -> None:
        """After every snapshot, while the ring fills, when it is full, and over two turns of it."""
        model = plain()
        collector = Collector(model, rank)
        thetas: list[Array] = []
        for n, _ in enumerate(walk(model, 2 * rank + 3), start=1):
            collector.collect(model)
            thetas.append(oracles.flat(model, collector.layout.names))
            truth = oracles.moments(np.array(thetas), rank)
            assert collector.n_collected == n
            assert collector.deviations.shape == (min(n, rank), collector.layout.size)
            assert_close(collector.deviations, truth.deviations, rtol=1e-5, scale=0.05)

    def test_the_first_row_is_zero(self) -> None:
        collector = trained(3)
        assert not collector.deviations[0].any()
        assert collector.deviations[1:].all()

    def test_rows_are_taken_from_the_running_mean(self) -> None:
        """θ_i − θ̄_i, which is δ·(i−1)/i, neither θ_i − θ̄_{i−1} nor θ_i − θ̄_n."""
        model = nn.Linear(1, 1, bias=False)
        collector = Collector(model, 4)
        for value in (0.0, 2.0, 7.0):
            nn.init.constant_(model.weight, value)
            collector.collect(model)
        assert collector.deviations.flatten().tolist() == pytest.approx([0.0, 1.0, 4.0])
        assert (collector.mean.item(), collector.sq_dev.item()) == pytest.approx((3.0, 26.0))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_rows_of_half_precision(self, dtype: torch.dtype) -> None:
        """Rounded once; the mean and the squared deviations do not notice."""
        exact, low = trained(9, 4), trained(9, 4, deviation_dtype=dtype)
        assert low.deviations.dtype == dtype
        assert torch.equal(low.deviations, exact.deviations.to(dtype))
        assert torch.equal(low.mean, exact.mean) and torch.equal(low.sq_dev, exact.sq_dev)
        assert torch.equal(low.swag().cov_diag, exact.swag().cov_diag)
        eps = torch.finfo(dtype).eps
        assert_close(low.swag().cov_factor, exact.swag().cov_factor, rtol=eps, scale=0.1)

    @pytest.mark.parametrize("chunk", [1, 5, 64])
    def test_cutting_into_chunks_changes_nothing(self, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Large tensors are cut and small ones share a chunk; no weight is lost between them."""
        for case in CASES:
            with monkeypatch.context() as patch:
                patch.setattr(staging, "_CPU_PIECE", chunk)
                cut = trained(5, 2, case=case.factory)
            whole = trained(5, 2, case=case.factory)
            for name in ("mean", "sq_dev", "deviations"):
                torch.testing.assert_close(getattr(cut, name), getattr(whole, name), rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("n", [1, 3, 5])
    def test_what_is_handed_out_is_a_copy(self, n: int) -> None:
        """While the ring of 3 fills, when it is full, and when it has turned."""
        collector, same = trained(n), trained(n)
        for value in (collector.mean, collector.sq_dev, collector.deviations):
            value.fill_(float("nan"))
        for value in collector.state_dict().values():
            if isinstance(value, Tensor):
                value.fill_(float("nan"))
        assert_same_state(collector, same)


class TestOddModels:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_statistics_equal_the_oracle(self, case: Case) -> None:
        model = case.build()
        collector = Collector(model, 3)
        thetas = snapshots(model, collector, 8)
        truth = oracles.moments(thetas, 3)
        assert_close(collector.mean, truth.mean, rtol=1e-6, scale=np.abs(truth.mean) + 1)
        assert_close(collector.sq_dev, truth.sq_dev, rtol=1e-5)
        assert_close(collector.deviations, truth.deviations, rtol=1e-5, scale=np.sqrt(truth.sq_dev / 8))

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_samples_go_back_into_the_model(self, case: Case) -> None:
        model = case.build()
        collector = Collector(model, 3)
        snapshots(model, collector, 4)
        theta = collector.swag().sample(generator=torch.Generator().manual_seed(0))[0]
        collector.layout.write_(model, theta)
        expected = {
            n: t.to(model.get_parameter(n).dtype) for n, t in collector.layout.unflatten(theta).items()
        }
        for name, value in expected.items():
            assert torch.equal(model.get_parameter(name), value)
        assert model(features()).isfinite().all()

    @pytest.mark.parametrize("outer", WRAPPERS)
    def test_wrappers_at_either_end(self, outer: str, process_group: None) -> None:
        """Built from the plain model and fed the wrapped one, the other way round, and both."""
        straight = trained(5)
        for built_from_wrapper, fed_wrapper in [(False, True), (True, False), (True, True)]:
            torch.manual_seed(0)
            model = plain()
            wrapped = WRAPPERS[outer](model)
            inside = wrapped.module if outer == "AveragedModel" else model
            collector = Collector(wrapped if built_from_wrapper else model, 3)
            for _ in walk(inside, 5):
                collector.collect(wrapped if fed_wrapper else inside)
            assert_same_state(collector, straight)

    def test_a_compiled_part_at_one_end(self) -> None:
        torch.manual_seed(0)
        model = compiled_part()
        collector = Collector(plain(), 3)
        for _ in walk(model, 5):
            collector.collect(model)
        assert_same_state(collector, trained(5))

    def test_values_at_construction_are_not_read(self) -> None:
        """A model may be wrapped or initialised late: NaNs before the first snapshot do not matter."""
        model = plain()
        nn.init.constant_(model[0].weight, float("nan"))
        collector = Collector(model, 2)
        nn.init.ones_(model[0].weight)
        collector.collect(model)
        assert collector.mean.isfinite().all()

    def test_the_model_is_only_read(self) -> None:
        model = plain()
        model(features()).sum().backward()
        before, rng = copy.deepcopy(model), torch.get_rng_state()
        grads = [parameter.grad.clone() for parameter in model.parameters()]
        collector = Collector(model, 2)
        collector.collect(model)
        assert torch.equal(torch.get_rng_state(), rng)
        assert model.training
        for got, expected, grad in zip(model.parameters(), before.parameters(), grads, strict=True):
            assert torch.equal(got, expected) and torch.equal(got.grad, grad) and got.requires_grad

    def test_select(self) -> None:
        model = plain()
        collector = Collector(model, 2, select=["2"])
        thetas = snapshots(model, collector, 3)
        assert collector.layout.names == ("2.weight", "2.bias")
        assert_close(collector.mean, thetas.mean(0), rtol=1e-6, scale=1.0)

    def test_a_model_whose_parameters_are_all_empty(self) -> None:
        model = nn.Module()
        model.nothing = nn.Parameter(torch.empty(0, 3))
        collector = Collector(model, 2)
        collector.collect(model)
        collector.collect(model)
        assert collector.swag().sample(2).shape == (2, 0)


class TestSurroundings:
    def test_no_reference_to_the_model_is_kept(self) -> None:
        model = plain()
        collector = Collector(model, 2, select=lambda name, parameter: True)
        for _ in walk(model, 3):
            collector.collect(model)
        kept = collector.swag(), collector.swa(), collector.state_dict()
        watched = [weakref.ref(model), *(weakref.ref(parameter) for parameter in model.parameters())]
        del model, _
        gc.collect()
        assert [ref() for ref in watched] == [None] * 5
        assert collector.n_collected == 3 and kept[0].mean.isfinite().all()

    @pytest.mark.parametrize("n", [2, 3, 7])
    def test_posteriors_do_not_change_when_collecting_goes_on(self, n: int) -> None:
        model = plain()
        collector = Collector(model, 3)
        for _ in walk(model, n):
            collector.collect(model)
        posteriors = [collector.swa(), collector.swag_diag(), collector.swag()]
        generator = torch.Generator()
        before = [p.sample(2, generator=generator.manual_seed(0)) for p in posteriors]
        state = collector.state_dict()
        kept = copy.deepcopy(state)
        for _ in walk(model, 4, seed=1):
            collector.collect(model)
        for posterior, samples in zip(posteriors, before, strict=True):
            assert torch.equal(posterior.sample(2, generator=generator.manual_seed(0)), samples)
        assert all(torch.equal(state[key], kept[key]) for key in ("origin", "sq_dev", "deviations"))

    @pytest.mark.parametrize(
        "outside", ["no_grad", "inference_mode", "autocast", "default_dtype", "default_device"]
    )
    def test_the_caller_s_context_does_not_matter(self, outside: str) -> None:
        """One snapshot inside the context, the next outside, read out inside again."""
        torch.manual_seed(0)
        model = plain()
        collector = Collector(model, 3)
        for index, _ in enumerate(walk(model, 5)):
            if index % 2:
                collector.collect(model)
            else:
                with context(outside):
                    collector.collect(model)
        straight = trained(5)
        with context(outside):
            collector.swag().sample(2)
            mean, row = collector.mean, collector.deviations[-1]
            again = Collector.for_layout(collector.layout, 3)
            again.load_state_dict(collector.state_dict())
        assert mean.dtype == row.dtype == torch.float32 and mean.device.type == "cpu"
        assert_same_state(collector, straight)
        assert_same_state(again, straight)

    def test_device(self) -> None:
        """Where it was asked for, or beside the model; the meta device stands for an accelerator."""
        model = plain()
        assert Collector(model).device == Collector(model, device="cpu").device == torch.device("cpu")
        assert Collector(plain().to("meta")).device == torch.device("meta")
        away = Collector(model, 3, device="meta")
        away.load_state_dict(trained(5).state_dict())
        assert {x.device.type for x in (away.mean, away.sq_dev, away.deviations)} == {"meta"}
        brought = Collector(plain(), 3, device=torch.device("cpu"))
        brought.load_state_dict(trained(5).state_dict())
        assert brought.mean.device.type == "cpu"

    def test_memory_comes_with_the_first_snapshot(self) -> None:
        """Building one for a large rank costs nothing yet: 10¹² rows would not fit anywhere."""
        collector = Collector(plain(), rank=10**12)
        assert collector.n_collected == 0

    def test_a_collector_for_a_layout_alone(self) -> None:
        torch.manual_seed(0)
        model = plain()
        collector = Collector.for_layout(Layout.of(model), 3)
        for _ in walk(model, 5):
            collector.collect(model)
        assert_same_state(collector, trained(5))

    def test_what_it_says_of_itself(self) -> None:
        collector = trained(1)
        assert repr(collector) == "Collector(1 snapshot, rank=3, D=51)"
        assert repr(trained(12)) == "Collector(12 snapshots, rank=3, D=51)"


def context(name: str) -> Any:
    if name == "no_grad":
        return torch.no_grad()
    if name == "inference_mode":
        return torch.inference_mode()
    if name == "autocast":
        return torch.autocast("cpu", torch.bfloat16)
    if name == "default_dtype":
        return DefaultDtype()
    # Whatever is made without naming a device lands on "meta", as it lands on a GPU in scripts that say so.
    return torch.device("meta")


class DefaultDtype:
    def __enter__(self) -> None:
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *error: object) -> None:
        torch.set_default_dtype(torch.float32)


class TestReadout:
    def test_swa_is_the_mean(self) -> None:
        collector = trained(4)
        assert torch.equal(collector.swa().mean, collector.mean)
        assert collector.swa().layout == collector.layout

    @pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
    def test_swag_diag(self, scale: float) -> None:
        model = plain()
        collector = Collector(model, 3)
        thetas = snapshots(model, collector, 6)
        posterior = collector.swag_diag(scale)
        assert posterior.rank == 0 and posterior.layout == collector.layout
        assert_close(posterior.mean, thetas.mean(0), rtol=1e-6, scale=1.0)
        assert_close(posterior.cov_diag, scale * thetas.var(0), rtol=1e-5)

    @pytest.mark.parametrize(("n", "rank"), [(2, 20), (5, 20), (20, 20), (21, 20), (9, 2), (9, 4)])
    @pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
    def test_swag_divides_by_the_rows_present(self, n: int, rank: int, scale: float) -> None:
        """With 5 snapshots and rank 20 the low-rank part is divided by 4, not by 19."""
        model = plain()
        collector = Collector(model, rank)
        thetas = snapshots(model, collector, n)
        posterior = collector.swag(scale)
        assert posterior.rank == min(n, rank)
        expected = oracles.swag_covariance(thetas, rank, scale)
        assert_close(posterior.covariance_matrix(), expected, rtol=1e-5, scale=scale * 0.05**2)
        assert_close(posterior.variance, np.diag(expected), rtol=1e-5)

    def test_the_usual_scales(self) -> None:
        """0.5 is the paper's SWAG, 1.0 the usual choice for SWAG-diag, 0 gives SWA."""
        collector = trained(6)
        assert torch.equal(collector.swag().cov_diag, collector.swag(0.5).cov_diag)
        assert torch.equal(collector.swag().cov_factor, collector.swag(0.5).cov_factor)
        assert torch.equal(collector.swag_diag().cov_diag, collector.swag_diag(1.0).cov_diag)
        for posterior in (collector.swag(0.0), collector.swag_diag(0), collector.swa()):
            assert torch.equal(posterior.sample(3), collector.mean.repeat(3, 1))

    @pytest.mark.parametrize("rank", [0, 1])
    def test_small_ranks_serve_the_diagonal(self, rank: int) -> None:
        collector = trained(5, rank)
        assert torch.equal(collector.swag_diag().cov_diag, trained(5).swag_diag().cov_diag)
        with pytest.raises(
            InputError, match=rf"rank: .* needs rank 2 or more and this collector has {rank}; .*swag_diag\(\)"
        ):
            collector.swag()

    @pytest.mark.parametrize("read", ["mean", "sq_dev", "deviations"])
    def test_nothing_to_read_before_the_first_snapshot(self, read: str) -> None:
        with pytest.raises(
            StateError, match=rf"{read}: needs 1 snapshot or more .* has 0; call collector\.collect"
        ):
            getattr(trained(0), read)

    @pytest.mark.parametrize(
        ("n", "read", "message"),
        [
            (0, "swa", r"mean: needs 1 snapshot or more and this collector has 0; call collector\.collect"),
            (0, "swag", r"swag\(\): needs 2 snapshots or more and this collector has 0"),
            (0, "swag_diag", r"swag_diag\(\): needs 2 snapshots or more and this collector has 0"),
            (
                1,
                "swag",
                r"swag\(\): needs 2 snapshots or more and this collector has 1; call collector\.collect",
            ),
            (1, "swag_diag", r"swag_diag\(\): needs 2 snapshots or more and this collector has 1"),
        ],
    )
    def test_too_few_snapshots(self, n: int, read: str, message: str) -> None:
        with pytest.raises(StateError, match=message):
            getattr(trained(n), read)()

    @pytest.mark.parametrize("scale", [-0.5, float("nan"), float("inf")])
    @pytest.mark.parametrize("read", ["swag", "swag_diag"])
    def test_bad_scales(self, scale: float, read: str) -> None:
        with pytest.raises(
            InputError, match=r"scale: got .*; it multiplies the covariance: pass a finite number"
        ):
            getattr(trained(3), read)(scale)


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
