"""The families of networks, and their quick versions."""

from __future__ import annotations

from dataclasses import replace

from experiments.double_descent.study import Recipe

FAMILIES: dict[str, Recipe] = {
    "convnets": Recipe(),
    "resnets": Recipe(
        data="CIFAR-100",
        widths=(2, 4, 6, 8, 12, 16, 24, 32, 48, 64),
        train_rows=40_000,
        held_rows=5_000,
        test_rows=10_000,
        seeds=(0, 1, 2),
        members=3,
        batch=256,
        epochs=60,
        rate=0.05,
        n_samples=15,
    ),
}
_SMALL = replace(
    Recipe(),
    seeds=(0, 1),
    members=2,
    epochs=12,
    rank=3,
    n_samples=4,
    scales=(0.5, 8.0),
)
QUICK: dict[str, Recipe] = {
    "convnets": replace(
        _SMALL, data="digits", widths=(1, 4, 8), train_rows=150, held_rows=100, test_rows=200, rate=0.05
    ),
    "resnets": replace(
        _SMALL, data="noise", widths=(1, 2), train_rows=60, held_rows=40, test_rows=40, seeds=(0,), epochs=8
    ),
}
