"""The low-precision experiment: its batches and rates, one small seed of it, and its tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from experiments.low_precision.methods import (
    Batches,
    Data,
    Settings,
    constant,
    falling,
    run_seed,
    run_word_length,
)
from experiments.low_precision.methods import (
    test_error as wrong_rows,
)
from experiments.low_precision.networks import NETWORKS
from experiments.low_precision.table import ORDER, PAIRS, interval, table
from tests.runs import seeded

TINY = Settings(
    data="tiny",
    network="small",
    train_rows=64,
    test_rows=40,
    warm_up_epochs=1,
    tail_epochs=1,
    captures=2,
    tune_epochs=1,
    batch=16,
)


def tiny() -> Data:
    x, y = torch.randn(104, 1, 8, 8, generator=seeded()), torch.arange(104) % 3
    return Data(x[:64], y[:64], x[64:], y[64:])


def test_batches_hold_every_row_once_in_another_order_each_time() -> None:
    images = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 1, 4, 4)
    batches = Batches(images, torch.arange(50), 8, False, seeded())
    first, second = (torch.cat([y for _, y in batches]) for _ in range(2))
    assert len(batches) == len(list(batches)) == 7
    assert first.sort().values.tolist() == list(range(50)) and not torch.equal(first, second)
    assert all(torch.equal(x[:, 0, 0, 0].long(), y) for x, y in batches)


def test_augmented_images_are_windows_of_the_padded_ones() -> None:
    images = torch.arange(1.0, 1 + 20 * 16).view(20, 1, 4, 4)
    seen = set()
    batches = Batches(images, torch.arange(20), 20, True, seeded())
    for _ in range(4):
        for x, y in batches:
            padded = nn.functional.pad(images[y], (4, 4, 4, 4))
            for image, around in zip(x, padded, strict=True):
                fits = {
                    (down, right, flip)
                    for down in range(9)
                    for right in range(9)
                    for flip in (False, True)
                    if torch.equal(
                        image.flip(-1) if flip else image, around[:, down : down + 4, right : right + 4]
                    )
                }
                assert fits
                if len(fits) == 1:
                    seen |= fits
    assert {flip for *_, flip in seen} == {False, True} and len({down for down, *_ in seen}) > 4


def test_rates() -> None:
    assert [rate(0.3) for rate in constant(0.1, 2)] == [0.1, 0.1]
    rates = falling(0.1, 4)
    assert rates[0](0.0) == pytest.approx(0.1) and rates[3](1.0) == pytest.approx(0.0)
    assert rates[1](0.5) == pytest.approx(0.1 * (1 - 1.5 / 4))  # each epoch its own


def test_vgg16_is_the_papers() -> None:
    """13 convolutions and three linear layers of 512, 512 and 10; 15,245,130 weights, 8,448 of batch norm."""
    network = NETWORKS["vgg16"](3, 10)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 13
    assert sum(p.numel() for p in network.parameters()) == 15_253_578


def test_a_seed_measures_all_methods_and_a_word_length_repeats_two() -> None:
    data = tiny()
    found = run_seed(TINY, data, 0)
    assert set(found["errors"]) == set(ORDER)
    assert all(0 <= error <= 100 for error in found["errors"].values())
    assert found["bytes"]["SQWA"] < found["bytes"]["SWALP, average rounded"]
    words = run_word_length(TINY, data, 0)
    assert words["errors"] == {name: found["errors"][name] for name in ("SGD-LP", "SWALP")}


def test_errors_count_rows_that_are_wrong() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 1.0, 0.5]]).expand(len(x), 3)

    data = tiny()
    assert wrong_rows(Constant(), data) == 100 * (data.test_labels != 1).double().mean().item()


def test_intervals_are_students() -> None:
    # Mean 2, standard deviation 1, n = 3: 4.303/√3.
    assert interval([1.0, 2.0, 3.0]) == f"2.00 ± {4.302653 / math.sqrt(3):.2f}"
    assert interval([2.0]) == "2.00"


def result(name: str, seed: int) -> dict[str, Any]:
    """A results file whose method number i has the error 10 + i + seed."""
    return {
        "settings": {**TINY.__dict__, "data": name},
        "seed": seed,
        "environment": {"versions": {"python": "3", "torch": "2", "swag": "1"}, "cpu": "a", "threads": 1},
        "errors": {method: 10.0 + index + seed for index, method in enumerate(ORDER)},
        "bytes": {"SQWA": 1234},
        "int8": {"error": 5.0, "float32 rows per second": 10, "int8 rows per second": 20},
        "cpu_seconds": {"all": 1.0},
    }


def test_the_tables_pair_seeds_and_stand_beside_the_published_rows() -> None:
    text = table([result("cifar100", 0), result("cifar100", 2)])
    half = f"{12.7062 * math.sqrt(2) / math.sqrt(2):.2f}"
    assert f"| SGD-FP | 11.00 ± {half} | 10.00, 12.00 |  | 27.23 |" in text
    assert "| SWALP − SGD-LP | 1.00 ± 0.00 | +1.00, +1.00 |" in text  # the seed's own effect is gone
    assert text.count("−") == len(PAIRS) and "1,234" in text and "seeds 0, 2" in text
    words = {**result("tiny", 0), "errors": {"SGD-LP": 30.0, "SWALP": 20.0}}
    words["settings"] = {**words["settings"], "word_length": 4}
    assert "| 4 | 30.00 | 20.00 | -10.00 | 1 |" in table([result("tiny", 0)], [words])
    assert table([]) == "no results yet"
