"""Error and NLL against width, as a picture; it reads results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.double_descent.table import methods_of, values
from experiments.record import mean_and_spread
from swag.atomic import replacing

SHOWN = {
    "SGD": "#4c4c4c",
    "SWAG": "#0072b2",
    "deep ensemble": "#e69f00",
    "MultiSWAG": "#009e73",
    "MultiSWAG, scale chosen": "#cc79a7",
}


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Two panels over the width, lines through means, bands of one standard deviation over groups."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = sorted(runs, key=lambda run: run["settings"]["width"])
    widths = [run["settings"]["width"] for run in runs]
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for panel, (key, title, factor) in zip(
        panels, (("error", "test error, %", 100), ("nll", "test NLL, nats", 1)), strict=True
    ):
        for method in [method for method in SHOWN if method in methods_of(runs)]:
            found = [mean_and_spread(factor * v for v in values(run, method, key).values()) for run in runs]
            middle = [mean for mean, _ in found]
            panel.plot(widths, middle, "o-", ms=3, color=SHOWN[method], label=method)
            low, high = [mean - sd for mean, sd in found], [mean + sd for mean, sd in found]
            panel.fill_between(widths, low, high, color=SHOWN[method], alpha=0.15, lw=0)
        panel.set(xscale="log", xlabel="width", title=title)
        panel.set_xticks(widths, [str(width) for width in widths], minor=False)
        panel.tick_params(axis="x", labelsize=7)
        panel.minorticks_off()
    panels[0].legend(fontsize=8, frameon=False)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
    pyplot.close(figure)
