"""The collector's other ways: finiteness known later (as on an accelerator), and the compiled kernel."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import swag
from swag import moments
from swag.collector import Collector


def walk(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def collected(n: int, rank: int, **options: object) -> Collector:
    torch.manual_seed(0)
    model, generator = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)), torch.Generator().manual_seed(1)
    collector = Collector(model, rank, **options)  # type: ignore[arg-type]
    for _ in range(n):
        walk(model, generator)
        collector.collect(model)
    return collector


def same(one: Collector, other: Collector) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


@pytest.fixture
def deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collector, "_defers", lambda self, tensors: True)


@pytest.mark.parametrize("rank", [0, 2, 4, 20])
@pytest.mark.parametrize("row_dtype", [torch.float32, torch.bfloat16])
def test_deferring_changes_no_statistic(
    rank: int, row_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = collected(7, rank, deviation_dtype=row_dtype)
    monkeypatch.setattr(Collector, "_defers", lambda self, tensors: True)
    assert same(collected(7, rank, deviation_dtype=row_dtype), at_once)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("n_before", [0, 1, 3, 9])
@pytest.mark.usefixtures("deferred")
def test_a_bad_snapshot_is_named_later_and_leaves_no_trace(n_before: int, value: float) -> None:
    clean = collected(n_before, rank=3)
    collector = copy.deepcopy(clean)
    bad = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    with torch.no_grad():
        bad[1].weight[1, 2] = value
    collector.collect(bad)  # no error yet: that would have to wait for the device
    with pytest.raises(swag.InputError, match=rf"snapshot before.*'1\.weight'.*still {n_before} snapshots"):
        collector.collect(bad)
    assert collector.n_collected == n_before
    assert same(collector, clean)
    good = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    collector.collect(good)
    clean.collect(good)
    assert same(collector, clean)


@pytest.mark.parametrize("read", ["mean", "sq_dev", "deviations", "n_collected", "swa", "swag", "state_dict"])
@pytest.mark.usefixtures("deferred")
def test_every_read_says_it(read: str) -> None:
    collector = collected(4, rank=3)
    bad = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    nn.init.constant_(bad[0].bias, float("nan"))
    collector.collect(bad)
    with pytest.raises(swag.InputError, match=r"'0\.bias'"):
        value = getattr(collector, read)
        value()
    assert collector.n_collected == 4


@pytest.mark.usefixtures("deferred")
def test_values_whose_squares_and_sums_overflow_are_good() -> None:
    model = nn.Linear(4, 4)
    nn.init.constant_(model.weight, 3e38)
    collector = Collector(model, 2)
    collector.collect(model)
    collector.collect(model)
    assert collector.n_collected == 2


def test_the_compiled_kernel_gives_the_same_to_rounding(caplog: pytest.LogCaptureFixture) -> None:
    kernel = moments.compiled_kernel()
    eager, fused = collected(6, rank=3), collected(6, rank=3, kernel=kernel)
    if "torch.compile failed" in caplog.text:
        pytest.skip("no compiler on this machine: the eager kernel took over")
    for name in ("mean", "sq_dev", "deviations"):
        # Two roundings differ: the fused kernel keeps δ in registers.
        torch.testing.assert_close(getattr(fused, name), getattr(eager, name), rtol=1e-6, atol=1e-7)
    assert pickle.loads(pickle.dumps(kernel)) is not None


def test_a_kernel_that_cannot_be_compiled_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **options: object) -> object:
        def fail(*args: object) -> None:
            raise RuntimeError("no compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    collector = collected(6, rank=3, kernel=moments.compiled_kernel())
    assert "no compiler here" in caplog.text
    assert same(collector, collected(6, rank=3))
