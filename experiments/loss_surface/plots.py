"""The figures of the loss surface, from results only.

python experiments/loss_surface/plots.py [--out DIR]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import record
from swag.geometry import PlaneValues, Profile, plot_line, plot_plane

HERE = Path(__file__).resolve().parent
ERROR, LOSS = "test error", "train loss"
BLUE, VERMILLION, GREEN, INK = "#0072B2", "#D55E00", "#009E73", "#23262B"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9AA0A6",
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 110,
    "savefig.dpi": 160,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of results and figures")
    out = parser.parse_args().out
    settings = record.read(out / "settings.json", "loss_surface settings")["settings"]
    with plt.rc_context(STYLE):
        figures = {
            "swa_planes": swa_planes(out, settings),
            "swa_line": swa_line(out, settings),
            "swag_plane": swag_plane(out, settings),
            "curve_plane": curve_plane(out, settings),
            "curve_profile": curve_profile(out),
        }
        for name, figure in figures.items():
            figure.savefig(out / f"{name}.png", bbox_inches="tight", facecolor="white")
            print(out / f"{name}.png")


def swa_planes(out: Path, settings: dict[str, Any]) -> Figure:
    """The SWA paper's figure 1: snapshots with their average; SGD and SWA on test error and training loss."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.3), layout="constrained")
    snapshots, swa = (PlaneValues.load(out / f"plane_{name}.npz") for name in ("snapshots", "swa"))
    names = {"1": "snapshot 1", "2": "snapshot 2", "3": "snapshot 3", "average": "their average"}
    plot_plane(axes[0], snapshots, ERROR, scale=100, ratio=15, colorbar="Test error (%)", show=names)
    axes[0].set_title("Three snapshots and their average")
    plot_plane(axes[1], swa, ERROR, scale=100, ratio=15, colorbar="Test error (%)")
    axes[1].set_title("SGD and SWA: test error")
    wd = settings["weight_decay"]
    plot_plane(axes[2], swa, LOSS, weight_decay=wd, colorbar="Training loss + ½λ‖θ‖²")
    axes[2].set_title("SGD and SWA: training loss")
    return figure


def swa_line(out: Path, settings: dict[str, Any]) -> Figure:
    """Test error and training loss on the line through SGD and SWA."""
    figure, left = plt.subplots(figsize=(6.4, 4), layout="constrained")
    profile = Profile.load(out / "line_sgd_swa.npz")
    plot_line(left, profile, ERROR, scale=100, color=BLUE, by_distance="Distance from SGD, towards SWA")
    right = left.twinx()
    plot_line(
        right, profile, LOSS, weight_decay=settings["weight_decay"], color=VERMILLION,
        by_distance="Distance from SGD, towards SWA",
    )  # fmt: skip
    for ax, label, color in ((left, "Test error (%)", BLUE), (right, "Training loss + ½λ‖θ‖²", VERMILLION)):
        ax.set_ylabel(label, color=color)
        ax.tick_params(axis="y", colors=color)
        ax.margins(y=0.12)
    left.set_title("On the line through SGD and SWA")
    return figure


def swag_plane(out: Path, settings: dict[str, Any]) -> Figure:
    """The SWAG paper's figure 1: the two leading eigenvectors of the covariance, with its ellipses."""
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 4.6), layout="constrained")
    plane = PlaneValues.load(out / "plane_swag.npz")
    show = {"SWA": "SWA", "snapshots": "", "SWAG": ""}
    wd = settings["weight_decay"]
    plot_plane(axes[0], plane, LOSS, weight_decay=wd, colorbar="Training loss + ½λ‖θ‖²", show=show)
    axes[0].set_title("SWAG's 1, 2 and 3 σ on the training loss")
    plot_plane(axes[1], plane, ERROR, scale=100, ratio=15, colorbar="Test error (%)", show=show)
    axes[1].set_title("… and on the test error")
    for ax in axes:
        ax.set(xlabel="Along the first eigenvector", ylabel="Along the second")
    return figure


def curve_plane(out: Path, settings: dict[str, Any]) -> Figure:
    """The curve paper's figure 1: the plane of two nets and the bend, the curve drawn on it."""
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 4.6), layout="constrained")
    plane = PlaneValues.load(out / "plane_curve.npz")
    show = {"net A": "net A", "net B": "net B", "bend": "bend", "curve": ""}
    wd = settings["weight_decay"]
    plot_plane(axes[0], plane, LOSS, weight_decay=wd, colorbar="Training loss + ½λ‖θ‖²", show=show)
    axes[0].set_title("A curve between two nets: training loss")
    plot_plane(axes[1], plane, ERROR, scale=100, ratio=15, colorbar="Test error (%)", show=show)
    axes[1].set_title("… and test error")
    return figure


def curve_profile(out: Path) -> Figure:
    """Test error and training loss along the straight line, the Bézier curve and the chain."""
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 3.9), layout="constrained")
    ways = (
        ("straight", "straight line", INK),
        ("bezier", "Bézier curve", BLUE),
        ("chain", "polygonal chain", VERMILLION),
    )
    for name, label, color in ways:
        profile = Profile.load(out / f"line_{name}.npz")
        dash = (0, (4, 2)) if name == "straight" else "-"
        # By share of each way's own length, so that all of them go from left to right.
        shares = Profile(
            profile.distance / profile.distance[-1], profile.distance, profile.values, profile.sq_norm
        )
        for ax, measure, scale in ((axes[0], ERROR, 100.0), (axes[1], LOSS, 1.0)):
            plot_line(
                ax, shares, measure, scale=scale, color=color, label=label, linestyle=dash, by_distance=None
            )
    for ax, title, label in zip(
        axes, ("Test error", "Training loss"), ("Test error (%)", "Training loss"), strict=True
    ):
        ax.set(xlabel="Share of the way from net A to net B", ylabel=label, title=title)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        ax.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
