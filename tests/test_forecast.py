"""The forecast is what is then taken, byte for byte; and a collector whose memory is not there refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import swag
from swag import forecast as module
from swag.forecast import available_memory, forecast, readable
from swag.parameters import Layout
from tests.cases import CASES, Case, plain, walk

CPU = torch.device("cpu")


def n_bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_is_taken(case: Case, dtype: torch.dtype) -> None:
    model = case.build()
    found = swag.Collector.forecast(model, rank=3, deviation_dtype=dtype, n_samples=4)
    collector = swag.Collector(model, 3, deviation_dtype=dtype)
    for step in walk(model, 5):
        collector.collect(step)
    views = collector.state_views()
    assert found.statistics == n_bytes(views["origin"], views["offset_mean"], views["sq_dev"])
    assert found.deviations == n_bytes(*views["deviations"])
    assert found.collecting == found.statistics + found.deviations
    posterior = collector.swag()
    assert found.posterior == n_bytes(posterior.mean, posterior.cov_diag, posterior.rows)
    assert found.sampling - n_bytes(posterior.sample(4)) == 8 << 20
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert found.prediction == n_bytes(posterior.sample(4), *trainable)
    assert found.n_parameters == posterior.mean.numel()


def test_select_and_disk() -> None:
    model = nn.Linear(999, 1000)
    assert swag.Collector.forecast(model, 20, select=["bias"]).n_parameters == 1000
    on_disk = swag.Collector.forecast(model, 20, deviation_folder="/somewhere")
    assert (on_disk.collecting, on_disk.deviations) == (12_000_000, 80_000_000)
    text = str(swag.Collector.forecast(model, 20))
    for words in ("1,000,000 parameters", "12 MB", "80 MB", "92 MB", "20 rows", "30 drawn"):
        assert words in text


def test_a_collector_that_does_not_fit_says_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(999, 1000)  # a million weights: 12 MB, and 4 MB a row
    monkeypatch.setattr(module, "available_memory", lambda device: 50_000_000)
    with pytest.raises(
        swag.InputError, match="rank: 20 with float32 rows takes 92 MB for 1,000,000"
    ) as caught:
        swag.Collector(model, 20)
    text = str(caught.value)
    assert "50 MB are free on cpu" in text
    assert "rank=9 with float32 rows, rank=19 with bfloat16 rows, deviation_folder= on a disk, rank=0" in text
    # What it names fits, and one more does not.
    swag.Collector(model, 9)
    swag.Collector(model, 19, deviation_dtype=torch.bfloat16)
    swag.Collector(model, 0)
    swag.Collector(model, 20, deviation_folder="/tmp")
    for rank, dtype in ((10, torch.float32), (20, torch.bfloat16)):
        with pytest.raises(swag.InputError, match="would fit"):
            swag.Collector(model, rank, deviation_dtype=dtype)
    monkeypatch.setattr(module, "available_memory", lambda device: 5_000_000)
    with pytest.raises(swag.InputError, match="these would fit: fewer parameters with select="):
        swag.Collector(model, 0)


def test_memory_that_is_gone_at_the_first_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain()
    collector = swag.Collector(model, 3)
    monkeypatch.setattr(module, "available_memory", lambda device: 100)
    with pytest.raises(swag.InputError, match="100 B are free"):
        collector.collect(model)
    monkeypatch.undo()
    collector.collect(model)
    monkeypatch.setattr(module, "available_memory", lambda device: 0)
    collector.collect(model)  # it has its memory


def test_no_machine_has_this_much() -> None:
    layout = Layout([("w", (10**14,), torch.float32)])
    with pytest.raises(swag.InputError, match=r"rank: 20 .* takes 9,200 TB"):
        swag.Collector.for_layout(layout, 20)


def test_what_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = available_memory(CPU)
    assert free is not None and 0 < free < 1 << 50
    assert available_memory(torch.device("meta")) is None
    # A container's limit counts, without the file cache, which it can free.
    for name, text in [
        ("memory.max", "1000000"),
        ("memory.current", "700000"),
        ("memory.stat", "anon 400000\ninactive_file 200000\nactive_file 100000\n"),
    ]:
        (tmp_path / name).write_text(text)
    names = ("memory.max", "memory.current", ("inactive_file", "active_file"))
    monkeypatch.setattr(module, "_GROUPS", ((str(tmp_path), *names),))
    assert available_memory(CPU) == 600_000
    (tmp_path / "memory.max").write_text("max")
    assert available_memory(CPU) == pytest.approx(free, rel=0.5)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (92e6, "92 MB"), (1.5e12, "1.5 TB")]
)
def test_readable(size: float, text: str) -> None:
    assert readable(int(size)) == text


def test_a_layout_alone() -> None:
    assert forecast(Layout.of(plain()), 0).deviations == 0
