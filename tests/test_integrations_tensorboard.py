"""Reports in TensorBoard, read back from the event files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import swag
from swag.errors import InputError
from swag.integrations.tensorboard import log_report
from swag.report.table import markdown


@pytest.fixture(scope="module")
def classification() -> swag.Report:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (80,), generator=generator)
    sure = torch.nn.functional.one_hot(labels, 3).float()  # right, and once impossibly wrong
    sure[0] = sure[0].roll(1)
    probs = {"SWA": sure, "SWAG": (torch.randn(80, 3, generator=generator) + 2 * sure).softmax(1)}
    ood = {"noise": {"SWAG": torch.full((40, 3), 1 / 3)}}
    return swag.Report(probs, labels, ood=ood, n_bootstrap=20)


@pytest.fixture(scope="module")
def regression() -> swag.Report:
    from swag.predictive import GaussianAccumulator

    generator = torch.Generator().manual_seed(1)
    accumulator = GaussianAccumulator()
    for _ in range(3):
        accumulator.add(torch.randn(50, generator=generator), torch.ones(50))
    return swag.Report({"SWAG": accumulator.compute()}, torch.randn(50, generator=generator), n_bootstrap=20)


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def test_scores_table_and_diagrams_come_back(classification: swag.Report, tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (3, 4):
            log_report(writer, classification, step)
    found = read(tmp_path)
    scalars = set(found.Tags()["scalars"])
    for method, scores in classification.results.scores.items():
        for key, estimate in scores.items():
            for end, value in (("", estimate.value), ("/low", estimate.low), ("/high", estimate.high)):
                tag = f"report/{key}/{method}{end}"
                if value is None or math.isinf(value):
                    assert tag not in scalars
                else:
                    events = found.Scalars(tag)
                    assert [event.step for event in events] == [3, 4]
                    assert events[0].value == pytest.approx(value, rel=1e-6)
    assert "report/nll/SWA" not in scalars  # infinite
    assert any(tag.startswith("report/ood/noise/auroc of ") for tag in scalars), scalars
    (tag,) = [tag for tag in found.Tags()["tensors"] if tag.startswith("report")]
    text = found.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert text == markdown(classification.results)
    images = set(found.Tags()["images"])
    assert images == {
        "report/reliability/SWA",
        "report/reliability/SWAG",
        "report/risk–coverage",
        "report/entropies/noise/SWAG",
    }
    assert found.Images("report/risk–coverage")[0].encoded_image_string.startswith(b"\x89PNG")


def test_regression_and_another_tag(regression: swag.Report, tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        log_report(writer, regression, 0, tag="validation")
    found = read(tmp_path)
    assert {"validation/rmse/SWAG", "validation/crps/SWAG"} <= set(found.Tags()["scalars"])
    assert set(found.Tags()["images"]) == {"validation/F(y)/SWAG", "validation/coverage"}


class Recorder:
    """A writer of that interface which is none of tensorboard's."""

    def __init__(self) -> None:
        self.tags: list[str] = []

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None) -> None:
        self.tags.append(tag)

    add_text = add_figure = add_scalar


class Logger:
    """As Lightning's: the writer is inside."""

    experiment = Recorder()


def test_any_writer_of_the_interface_will_do(classification: swag.Report) -> None:
    log_report(Logger.experiment, classification, 1)
    assert "report/accuracy/SWAG" in Logger.experiment.tags


def test_what_cannot_write_or_be_written_is_refused(classification: swag.Report) -> None:
    with pytest.raises(InputError, match=r"no add_scalar; pass its \.experiment"):
        log_report(Logger(), classification, 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="pass a SummaryWriter"):
        log_report("runs", classification, 1)  # type: ignore[arg-type]
    writer = Recorder()
    with pytest.raises(InputError, match="report: got a dict"):
        log_report(writer, {"nll": 1.0}, 1)  # type: ignore[arg-type]
    for step in (-1, 1.5, True):
        with pytest.raises(InputError, match="step: got"):
            log_report(writer, classification, step)  # type: ignore[arg-type]
    for tag in ("", 3):
        with pytest.raises(InputError, match="tag: got"):
            log_report(writer, classification, 1, tag=tag)  # type: ignore[arg-type]
    assert writer.tags == []
