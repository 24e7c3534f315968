"""The figures, from results alone: calibration under shift, entropies, and one basin against several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import record
from experiments.corruptions import CORRUPTIONS
from experiments.uncertainty import basins_plot
from experiments.uncertainty.basins import BASINS
from experiments.uncertainty.table import Found, by_method, read

SHOWN = ("SGD", "SWA", "SWAG", "MC dropout", "deep ensemble", "MultiSWA", "MultiSWAG")
GREYS = ("0.85", "0.15")


def draw(out: Path, to: Path) -> None:
    """Writes SVG files; those for which there are no results yet are left out."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "uncertainty", "svg.fonttype": "none", "font.size": 9}
    contents = read(out)
    to.mkdir(parents=True, exist_ok=True)
    for task in ("ten", "five"):
        found = by_method([c for c in contents if c["settings"]["task"] == task])
        if task == "ten" and found:
            save(shift(found), to / "shift.svg")
        if found:
            first = next(iter(next(iter(found.values())).values()))
            save(entropies(found, next(iter(first["scores"]["ood"]))), to / f"entropy_{task}.svg")
    if (out / "basins.json").exists():
        save(basins_plot.figure(record.read(out / "basins.json", BASINS)), to / "basins.svg")


def save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def shift(found: Found) -> Any:
    """By severity: boxes over corruptions and groups of seeds, one colour a method, NLL above ECE."""
    import matplotlib.pyplot as plt

    methods = [method for method in SHOWN if method in found]
    colours = plt.get_cmap("viridis")
    figure, axes = plt.subplots(2, 1, figsize=(9, 6.5), sharex=True, layout="constrained")
    for axis, key, label, factor in zip(axes, ("nll", "ece"), ("NLL, nats", "ECE, %"), (1, 100), strict=True):
        for place, method in enumerate(methods):
            values = [spread(found, method, severity, key, factor) for severity in range(6)]
            middle = [s + (place - (len(methods) - 1) / 2) * 0.11 for s in range(6)]
            colour = colours(place / max(1, len(methods) - 1))
            boxes = axis.boxplot(
                values, positions=middle, widths=0.09, whis=(0, 100), patch_artist=True, manage_ticks=False
            )
            for box in boxes["boxes"]:
                box.set(facecolor=colour, edgecolor="0.3", linewidth=0.6)
            for part in ("medians", "whiskers", "caps"):
                for line in boxes[part]:
                    line.set(color="0.3", linewidth=0.6)
            axis.plot([], [], "s", color=colour, label=method)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(ncols=4, frameon=False, loc="upper left")
    axes[1].set_xticks(range(6), ["as they are", *map(str, range(1, 6))])
    axes[1].set_xlabel(f"severity; each box: {', '.join(CORRUPTIONS)}, every group of seeds")
    return figure


def spread(found: Found, method: str, severity: int, key: str, factor: float) -> list[float]:
    runs = [content["scores"] for content in found[method].values()]
    if severity == 0:
        return [factor * run["unshifted"][key] for run in runs]
    return [factor * levels[severity - 1][key] for run in runs for levels in run["shift"].values()]


def entropies(found: Found, name: str) -> Any:
    """Shares of rows by entropy, inside and outside, all groups of seeds together."""
    import matplotlib.pyplot as plt

    methods: Sequence[str] = [method for method in found if "Laplace" not in method or "full" in method]
    columns = math.ceil(len(methods) / 3)
    figure, axes = plt.subplots(3, columns, figsize=(2.4 * columns, 6), sharex=True, layout="constrained")
    classes = 10 if next(iter(found["SGD"].values()))["settings"]["task"] == "ten" else 5
    for axis, method in zip(axes.flat, methods, strict=False):
        runs = [content["scores"]["ood"][name] for content in found[method].values()]
        for index, (label, colour) in enumerate((("in", "#3b6fb6"), ("out", "#d1603d"))):
            counts = [sum(column) for column in zip(*(run["histograms"][index] for run in runs), strict=True)]
            edges = [math.log(classes) * i / len(counts) for i in range(len(counts) + 1)]
            axis.stairs(
                [c / sum(counts) for c in counts], edges, fill=True, alpha=0.55, color=colour, label=label
            )
        area = sum(run["auroc entropy"] for run in runs) / len(runs)
        axis.set_title(f"{method}: {area:.3f}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yscale("log")
        axis.set_ylim(1e-3, 1)
    for axis in axes.flat[len(methods) :]:
        axis.set_axis_off()
    for axis in axes.flat[max(0, len(methods) - columns) : len(methods)]:
        axis.tick_params(labelbottom=True)  # the lowest of a column, which need not be in the last row
    axes.flat[0].legend(frameon=False)
    figure.supxlabel(f"entropy, nats; in: test images, out: {name}; the figure in a title is the AUROC")
    figure.supylabel("share of images")
    return figure
