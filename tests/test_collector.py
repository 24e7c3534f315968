"""The collector: what it keeps of a run, and what it reads out of it. (Resuming, refusing: next file.)"""

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from swag import Collector, InputError, Layout, StateError, staging
from tests import oracles
from tests.cases import CASES, WRAPPERS, Case, compiled_part, features, plain, walk
from tests.checks import Array, assert_close
from tests.runs import assert_same_state, snapshots, trained


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

    def test_more_memory_than_there_is_is_refused_at_once(self) -> None:
        with pytest.raises(InputError, match=r"rank.*fit"):
            Collector(plain(), rank=10**12)

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
