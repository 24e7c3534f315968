"""The report's plots. Each takes an axes and results, draws, and returns the axes.

They read results only, never predictions, so a report loaded from JSON draws the same. Colours are Okabe and
Ito's; methods also differ by dash and marker. Nothing here imports pyplot or touches its state.

    figure, ax = matplotlib.pyplot.subplots()
    swag.report.plot_reliability(ax, report.results.classification.reliability["SWAG"])
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from swag.report.results import Curve, Histogram, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
CYCLE = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY, "#6E6E6E", "#8C6D1F")
DASHES: tuple[tuple[float, tuple[float, ...] | None], ...] = (
    (0, None),
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (5, 1.5, 1.2, 1.5)),
)
INK = "#3B3F45"


def plot_reliability(ax: "Axes", reliability: Reliability, *, label: str = "", color: str = BLUE) -> "Axes":
    """Accuracy against confidence: a dot a bin, a box for its interval, the diagonal for calibration.

    Args:
        ax: Where to draw.
        reliability: One method's diagram.
        label: The method's name, for a legend.
        color: Of dots and boxes.
    """
    ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    edges = np.array(reliability.edges)
    filled = [b for b, n in enumerate(reliability.counts) if n]
    low, high = (
        np.array([values[b] for b in filled], dtype=float) for values in (reliability.low, reliability.high)
    )
    left, right = edges[filled], edges[[b + 1 for b in filled]]
    ax.bar(
        left,
        high - low,
        width=right - left,
        bottom=low,
        align="edge",
        color=color,
        alpha=0.22,
        linewidth=0,
        zorder=2,
    )
    x, y = (np.array(v, dtype=float)[filled] for v in (reliability.confidence, reliability.accuracy))
    ax.plot(x, y, color=color, linewidth=0, marker="o", markersize=4, label=plain(label), zorder=3)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="Confidence", ylabel="Accuracy")
    ax.set_xticks([0, 0.5, 1])
    ax.set_yticks([0, 0.5, 1])
    return ax


def plot_confidence_histogram(ax: "Axes", reliability: Reliability, *, color: str = BLUE) -> "Axes":
    """Share of rows in each bin of confidence, in percent."""
    edges, counts = np.array(reliability.edges), np.array(reliability.counts)
    ax.bar(
        edges[:-1],
        100 * counts / counts.sum(),
        width=np.diff(edges),
        align="edge",
        color=color,
        alpha=0.75,
        edgecolor="white",
        linewidth=0.4,
    )
    ax.set(xlim=(0, 1), xlabel="Confidence", ylabel="Rows (%)")
    ax.set_xticks([0, 0.5, 1])
    return ax


def plot_risk_coverage(ax: "Axes", curves: Mapping[str, Curve]) -> "Axes":
    """Error rate among the most confident share of the rows, one line a method."""
    for k, (method, curve) in enumerate(curves.items()):
        ax.plot(curve.x, curve.y, label=plain(method), **line(k))
    top = max((max(curve.y) for curve in curves.values()), default=0.0)
    ax.set(xlim=(0, 1), ylim=(0, 1.08 * top if top else 0.05), xlabel="Coverage (share of rows kept)")
    ax.set_ylabel("Risk (error rate among them)")
    return ax


def plot_entropy_histogram(ax: "Axes", inside: Histogram, outside: Histogram) -> "Axes":
    """Predictive entropies of test rows (filled) and out-of-distribution rows (outlined), in percent."""
    edges = np.array(inside.edges)
    ax.bar(
        edges[:-1],
        100 * np.array(inside.fractions),
        width=np.diff(edges),
        align="edge",
        color=BLUE,
        alpha=0.45,
        linewidth=0,
        label="test",
    )
    ax.stairs(100 * np.array(outside.fractions), edges, color=VERMILLION, linewidth=1.4, label="out")
    ax.set(xlim=(edges[0], edges[-1]), xlabel="Entropy (nats)", ylabel="Rows (%)")
    return ax


def plot_pit(ax: "Axes", pit: Histogram, n_rows: int, *, level: float = 0.95, color: str = BLUE) -> "Axes":
    """Histogram of F(y): flat when calibrated, ∪ when too sure, ∩ when too wide.

    Args:
        ax: Where to draw.
        pit: One method's histogram.
        n_rows: N, for the band that bars of a calibrated predictive leave with probability 1 − level each.
        level: Of the band.
        color: Of the bars.
    """
    from scipy.stats import binom

    edges, expected = np.array(pit.edges), 1 / len(pit.fractions)
    low, high = (
        binom.ppf(q, n_rows, expected) / n_rows / expected for q in (0.5 - level / 2, 0.5 + level / 2)
    )
    ax.bar(
        edges[:-1],
        np.array(pit.fractions) / expected,
        width=np.diff(edges),
        align="edge",
        color=color,
        alpha=0.6,
        edgecolor="white",
        linewidth=0.4,
    )
    ax.axhspan(low, high, color=INK, alpha=0.12, linewidth=0)
    ax.axhline(1.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set(xlim=(0, 1), xlabel="F(y)", ylabel="Density")
    ax.set_xticks([0, 0.5, 1])
    return ax


def plot_coverage(ax: "Axes", curves: Mapping[str, Curve]) -> "Axes":
    """Share of targets inside central intervals against their nominal level, one line a method."""
    ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for k, (method, curve) in enumerate(curves.items()):
        ax.plot(curve.x, curve.y, label=plain(method), **line(k))
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="Nominal coverage", ylabel="Share of targets inside")
    return ax


def line(k: int) -> dict[str, Any]:
    """Colour and dash of the k-th method."""
    return {
        "color": CYCLE[k % len(CYCLE)],
        "linestyle": DASHES[(k // len(CYCLE) + k) % len(DASHES)],
        "linewidth": 1.5,
    }


def plain(text: str) -> str:
    """A name as matplotlib should show it: no mathematics, no legend entry hidden by a leading underscore."""
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text
