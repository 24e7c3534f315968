"""Scores as torchmetrics metrics: the stream's to the last bit, torchmetrics' own where both are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchmetrics")

import torchmetrics

from swag.errors import InputError
from swag.integrations.torchmetrics import ClassificationMetric, RegressionMetric
from swag.metrics import StreamingClassification, StreamingRegression
from tests.checks import assert_close
from tests.distributed_runs import run


def batches(
    n_batches: int = 4, n: int = 37, dtype: torch.dtype = torch.float32
) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(n_batches):
        logits = 2 * torch.randn(n, 5, generator=generator)
        made.append((logits.softmax(1).to(dtype), torch.randint(5, (n,), generator=generator)))
    return made


def outcomes(n_batches: int = 4, n: int = 37) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, generator=generator),
            torch.rand(n, generator=generator) + 0.1,
            torch.randn(n, generator=generator),
        )
        for _ in range(n_batches)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_classification_is_the_stream_bit_for_bit(dtype: torch.dtype) -> None:
    metric, stream = ClassificationMetric(n_bins=10), StreamingClassification(10)
    for probs, labels in batches(dtype=dtype):
        metric.update(probs, labels)
        stream.update(probs, labels)
    assert metric.scores() == stream.compute()
    assert metric.compute()["ece"].item() == stream.compute().ece


def test_regression_is_the_stream_bit_for_bit() -> None:
    metric, stream = RegressionMetric(level=0.9), StreamingRegression(level=0.9)
    for rows in outcomes():
        metric.update(*rows)
        stream.update(*rows)
    assert metric.scores() == stream.compute()
    assert set(metric.compute()) == {"rmse", "nll", "crps", "coverage", "sharpness"}


def test_where_definitions_coincide_torchmetrics_agrees() -> None:
    ours = ClassificationMetric(n_bins=15)
    accuracy = torchmetrics.classification.MulticlassAccuracy(5, average="micro")
    ece = torchmetrics.classification.MulticlassCalibrationError(5, n_bins=15, norm="l1")
    mce = torchmetrics.classification.MulticlassCalibrationError(5, n_bins=15, norm="max")
    rmse = torchmetrics.MeanSquaredError(squared=False)
    regression = RegressionMetric()
    for probs, labels in batches():
        for metric in (ours, accuracy, ece, mce):
            metric.update(probs, labels)
    for mean, variance, y in outcomes():
        regression.update(mean, variance, y)
        rmse.update(mean, y)
    got = ours.compute()
    assert_close(got["accuracy"], accuracy.compute(), rtol=1e-6)
    assert_close(got["ece"], ece.compute(), rtol=1e-5)
    assert_close(got["mce"], mce.compute(), rtol=1e-5)
    assert_close(regression.compute()["rmse"], rmse.compute(), rtol=1e-6)


def test_forward_gives_the_batch_and_adds_it() -> None:
    metric = ClassificationMetric()
    for probs, labels in batches():
        alone = StreamingClassification()
        alone.update(probs, labels)
        assert metric(probs, labels)["nll"].item() == alone.compute().nll
    stream = StreamingClassification()
    for probs, labels in batches():
        stream.update(probs, labels)
    assert metric.scores() == stream.compute()


def test_reset_and_state_dict() -> None:
    metric = ClassificationMetric()
    metric.update(*batches()[0])
    restored = ClassificationMetric()
    restored.load_state_dict(metric.state_dict())
    assert restored.scores() == metric.scores()
    metric.reset()
    with pytest.raises(InputError, match="no rows"):
        metric.scores()
    metric.update(*batches()[1])
    assert metric.scores().n == 37


@pytest.mark.parametrize(
    ("make", "other", "rows"),
    [
        (ClassificationMetric, {"n_bins": 5}, batches()[0]),
        (RegressionMetric, {"n_bins": 5}, outcomes()[0]),
        (RegressionMetric, {"level": 0.5}, outcomes()[0]),
    ],
)
def test_states_of_other_bins_or_another_level_are_refused(make: Any, other: Any, rows: Any) -> None:
    saved, metric = make(), make(**other)
    saved.update(*rows)
    metric.update(*rows)
    before = metric.scores()
    with pytest.raises(RuntimeError, match=f"is of a {make.__name__} with other arguments"):
        metric.load_state_dict(saved.state_dict())
    assert metric.scores() == before


def test_in_a_collection_with_others_and_with_its_like() -> None:
    metrics = torchmetrics.MetricCollection(
        {"wide": RegressionMetric(level=0.95), "narrow": RegressionMetric(level=0.949)}
    )
    alone = {"wide": RegressionMetric(level=0.95), "narrow": RegressionMetric(level=0.949)}
    # The first batch is covered by both intervals alike, so that their sums are equal after it.
    first = (torch.zeros(4), torch.ones(4), torch.zeros(4))
    between = (torch.zeros(4), torch.ones(4), torch.full((4,), 1.955))
    for rows in (first, between):
        metrics.update(*rows)
        for metric in alone.values():
            metric.update(*rows)
    got = metrics.compute()
    assert got["wide_coverage"].item() == alone["wide"].compute()["coverage"].item() == 1.0
    assert got["narrow_coverage"].item() == alone["narrow"].compute()["coverage"].item() == 0.5


def test_keyword_arguments_find_their_metric_in_a_collection() -> None:
    metrics = torchmetrics.MetricCollection({"a": ClassificationMetric(), "b": RegressionMetric()})
    probs, labels = batches()[0]
    mean, variance, y = outcomes()[0]
    metrics.update(probs=probs, labels=labels, mean=mean, variance=variance, y=y)
    found = metrics.compute()
    # Both have an nll, so that all bear their metric's name.
    assert {key.partition("_")[0] for key in found} == {"a", "b"} and len(found) == 11
    alone = RegressionMetric()
    alone.update(mean, variance, y)
    assert found["b_nll"].item() == alone.compute()["nll"].item() != found["a_nll"].item()


@pytest.mark.parametrize(
    "cast", [lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.set_dtype(torch.float16)]
)
def test_sums_keep_their_precision(cast) -> None:  # type: ignore[no-untyped-def]
    metric = ClassificationMetric()
    metric.update(*batches()[0])
    before = metric.scores()
    assert cast(metric).scores() == before
    assert metric.nll_sum.dtype == torch.float64 and metric.counts.dtype == torch.int64


def test_refused_rows_change_nothing() -> None:
    metric = ClassificationMetric()
    metric.update(*batches()[0])
    before = metric.scores()
    for probs, labels in (
        (torch.randn(4, 5), torch.zeros(4, dtype=torch.int64)),  # logits
        (batches()[0][0], batches()[0][1] + 1),  # a label out of range
    ):
        with pytest.raises(InputError):
            metric.update(probs, labels)
    assert metric.scores() == before
    with pytest.raises(InputError, match="n_bins"):
        ClassificationMetric(n_bins=0)
    with pytest.raises(InputError, match="variance"):
        RegressionMetric().update(torch.zeros(2), torch.zeros(2), torch.zeros(2))


def test_merged_states_are_those_of_all_rows() -> None:
    whole, parts = ClassificationMetric(), [ClassificationMetric(), ClassificationMetric()]
    for index, rows in enumerate(batches()):
        whole.update(*rows)
        parts[index % 2].update(*rows)
    parts[0].merge_state(parts[1])
    assert_close(
        torch.stack([*parts[0].compute().values()]), torch.stack([*whole.compute().values()]), rtol=1e-12
    )


def scores_of_a_rank(rank: int, size: int, folder: Path) -> tuple[float, float, int]:
    metric = ClassificationMetric()
    for rows in batches()[rank::size][: size - rank]:  # an uneven division
        metric.update(*rows)
    return metric.compute()["nll"].item(), metric.compute()["ece"].item(), metric.scores().n


def test_two_processes_agree_on_the_scores_of_all_rows(tmp_path: Path) -> None:
    got = run(scores_of_a_rank, 2, tmp_path)
    metric = ClassificationMetric()
    for index in (0, 2, 1):
        metric.update(*batches()[index])
    expected = [metric.compute()["nll"].item(), metric.compute()["ece"].item()]
    for *scores, _ in got:
        assert_close(scores, expected, rtol=1e-12)
    assert sorted(n for *_, n in got) == [37, 74]  # afterwards each has its own rows again
