"""Draws docs/figures/schedules.svg: every schedule with its collection points.

    python docs/figures/schedules.py

The file holds no date and no random names, so drawing it again changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("svg")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

from swag import schedules  # noqa: E402

Make = Callable[[torch.optim.Optimizer], schedules.Schedule]

# Title, the schedule, epochs drawn, steps an epoch.
PANELS: list[tuple[str, Make, int, int]] = [
    (
        "swa_paper(swa_start=30, swa_lr=0.05)",
        lambda o: schedules.swa_paper(o, swa_start=30, swa_lr=0.05),
        40,
        1,
    ),
    ("constant(lr=0.05)", lambda o: schedules.constant(o, lr=0.05), 40, 1),
    (
        "cyclical(lr_max=0.1, lr_min=0.02, cycle=10)",
        lambda o: schedules.cyclical(o, lr_max=0.1, lr_min=0.02, cycle=10),
        40,
        1,
    ),
    (
        "cyclical_cosine(…, cycle=10, steps_per_epoch=8)",
        lambda o: schedules.cyclical_cosine(o, lr_max=0.1, lr_min=0.02, cycle=10, steps_per_epoch=8),
        40,
        8,
    ),
    (
        "fge_triangle(lr_max=0.1, lr_min=0.02, cycle=4)",
        lambda o: schedules.fge_triangle(o, lr_max=0.1, lr_min=0.02, cycle=4),
        16,
        8,
    ),
    ("fast_swa()", lambda o: schedules.fast_swa(o), 270, 1),
    ("fast_swa(every=3)", lambda o: schedules.fast_swa(o, every=3), 270, 1),
    ("cosine(epochs=40)", lambda o: schedules.cosine(o, epochs=40), 40, 8),
]


def trace(make: Make, epochs: int, steps: int) -> tuple[list[float], list[float], list[float]]:
    """Epochs and rates as an optimizer sees them, and the epochs at which a snapshot is due."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = make(optimizer)
    at: list[float] = []
    rates: list[float] = []
    points: list[float] = []
    for i in range(epochs * steps + (steps > 1)):
        schedule.step(i / steps)
        at.append(i / steps)
        rates.append(optimizer.param_groups[0]["lr"])
        if schedule.is_collection_point():
            points.append(i / steps)
    return at, rates, points


def main() -> None:
    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "swag", "font.size": 9, "font.family": "sans-serif"}
    )
    figure, axes = plt.subplots(4, 2, figsize=(9, 9), sharey=True, layout="constrained")
    for axis, (title, make, epochs, steps) in zip(axes.flat, PANELS, strict=True):
        at, rates, points = trace(make, epochs, steps)
        if steps == 1:  # the last epoch's rate holds to its end
            axis.step([*at, at[-1] + 1], [*rates, rates[-1]], where="post", color="#1f5fa8", lw=1.4)
        else:
            axis.plot(at, rates, color="#1f5fa8", lw=1.4)
        lowest = [rates[at.index(point)] for point in points]
        axis.plot([p + 0.5 * (steps == 1) for p in points], lowest, "o", ms=3.2, color="#c8471f", zorder=3)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylim(0, 0.11)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("rate")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.savefig(ROOT / "docs" / "figures" / "schedules.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
