"""Pictures of planes, lines and curves. Each function takes an axes and results, draws, and returns the axes.

They read results only, so what was saved draws the same. Nothing here imports pyplot or touches its state.

    figure, ax = matplotlib.pyplot.subplots()
    swag.geometry.plot_plane(ax, swag.geometry.PlaneValues.load("plane.npz"), "test error")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swag.errors import InputError
from swag.geometry.values import PlaneValues, Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PAPER = "#23262B", "#FFFFFF"
BLUE, VERMILLION = "#0072B2", "#D55E00"
_MARKERS = ("o", "s", "D", "^", "v", "P")
# A path of at most this many points is drawn with a dot at each.
_DOTS = 60


def log_levels(
    values: ArrayLike, n_levels: int = 8, *, high: float | None = None, ratio: float = 50.0
) -> NDArray[np.float64]:
    r"""Contour levels that crowd where a surface is low: its minimum, then logarithmic steps up to `high`.

    level_k = min + (high − min)·ratio^(k/n − 1), k = 0 … n.

    Args:
        values: any shape; what is not finite does not count.
        n_levels: n.
        high: the highest level; by default the largest value.
        ratio: of the highest level's distance from the minimum to the lowest's.

    Raises:
        InputError: values without two different finite ones, a `high` not above the minimum, no level.

    Source: Garipov et al. 2018, arXiv:1802.10026, figures 1 and 2.

    >>> log_levels([0.0, 1.0], 2, ratio=100.0).tolist()
    [0.0, 0.01, 0.1, 1.0]
    """
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    if finite.size == 0 or finite.min() == finite.max():
        raise InputError("values: a contour needs two different finite values")
    if n_levels < 1 or not ratio > 1:
        raise InputError(
            f"n_levels, ratio: got {n_levels!r}, {ratio!r}; pass 1 or more, and a number above 1"
        )
    low = float(finite.min())
    top = float(finite.max()) if high is None else float(high)
    if not top > low:
        raise InputError(f"high: got {high!r}, the lowest value is {low:g}; pass a level above it")
    return np.concatenate([[low], low + (top - low) * ratio ** (np.arange(n_levels + 1) / n_levels - 1)])


def plot_plane(
    ax: Axes,
    plane: PlaneValues,
    name: str,
    *,
    weight_decay: float = 0.0,
    n_levels: int = 8,
    high: float | None = None,
    ratio: float = 50.0,
    scale: float = 1.0,
    cmap: str = "YlGnBu_r",
    colorbar: str | None = "",
    show: Mapping[str, str] | None = None,
) -> Axes:
    """Filled contours with logarithmic levels; points, paths and ellipses drawn on them.

    Args:
        ax: where to draw.
        plane: what `evaluate_plane` gave.
        name: the measure.
        weight_decay: adds ½·weight_decay·‖θ‖² to it.
        n_levels: as in `log_levels`.
        high: likewise, in the units drawn; what is higher gets one colour.
        ratio: likewise.
        scale: multiplies the values: 100 for per cent.
        cmap: matplotlib's name of a map from low to high.
        colorbar: its label; None for no colour bar.
        show: which points, paths and ellipses, and the text beside each; by default all, by their names.

    Raises:
        InputError: an unknown name, or nothing to draw.
    """
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    values = scale * plane.regularised(name, weight_decay)
    known = [*plane.points, *plane.paths, *plane.ellipses]
    texts = {key: key for key in known} if show is None else dict(show)
    unknown = [key for key in texts if key not in known]
    if unknown:
        raise InputError(f"show: the plane has no {unknown[0]!r}; it has {', '.join(map(repr, known))}")
    levels = log_levels(values, n_levels, high=high, ratio=ratio)
    finite = np.where(np.isfinite(values), values, np.nanmax(values[np.isfinite(values)]))
    extend: Literal["max", "neither"] = "max" if finite.max() > levels[-1] else "neither"
    colours = colormaps[cmap]
    norm = BoundaryNorm(levels, colours.N, extend=extend)
    filled = ax.contourf(
        plane.alpha, plane.beta, finite, levels=levels, cmap=colours, norm=norm, extend=extend
    )
    ax.contour(plane.alpha, plane.beta, finite, levels=levels[1:], colors=PAPER, linewidths=0.7, alpha=0.7)
    if colorbar is not None:
        _draw_colorbar(ax, filled, levels, colorbar)
    for key, ellipse in plane.ellipses.items():
        if key in texts:
            _draw_ellipse(ax, ellipse, texts[key])
    for key, path in plane.paths.items():
        if key in texts:
            _draw_path(ax, path)
    marked = {key: where.reshape(2) for key, where in plane.points.items() if key in texts}
    middle = np.mean([where[1] for where in marked.values()]) if marked else 0.0
    for index, (key, where) in enumerate(marked.items()):
        # Texts point away from one another.
        _draw_point(ax, where, texts[key], _MARKERS[index % len(_MARKERS)], above=bool(where[1] >= middle))
    ax.set(
        xlim=(plane.alpha[0], plane.alpha[-1]),
        ylim=(plane.beta[0], plane.beta[-1]),
        aspect="equal",
        xlabel="Distance along first axis",
        ylabel="Distance along second axis",
    )
    return ax


def plot_line(
    ax: Axes,
    profile: Profile,
    name: str,
    *,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    color: str = BLUE,
    label: str = "",
    linestyle: Any = "-",
    by_distance: str | None = "Distance between weights",
) -> Axes:
    """One measure along a line or a curve, with its marks.

    Args:
        ax: where to draw; for a second measure on a scale of its own, `ax.twinx()`.
        profile: what `evaluate_along` gave.
        name: the measure.
        weight_decay: adds ½·weight_decay·‖θ‖² to it.
        scale: multiplies the values: 100 for per cent.
        color: of the line.
        label: for a legend.
        linestyle: matplotlib's.
        by_distance: label of the horizontal axis, which is distance along the line; None draws over t.
    """
    values = scale * profile.regularised(name, weight_decay)
    x = profile.t if by_distance is None else profile.distance
    ax.plot(x, values, color=color, linewidth=2.0, linestyle=linestyle, label=label or None, zorder=3)
    for text, t in profile.marks.items():
        at, value = np.interp(t, profile.t, x), np.interp(t, profile.t, values)
        ax.plot([at], [value], marker="o", markersize=7, color=color, markeredgecolor=PAPER, zorder=4)
        ax.annotate(
            text, (at, value), xytext=(0, 9), textcoords="offset points", ha="center", color=color,
            fontsize=9, path_effects=_halo(), zorder=5,
        )  # fmt: skip
    ax.set_xlabel("t" if by_distance is None else by_distance)
    ax.margins(x=0.02)
    return ax


def _draw_colorbar(ax: Axes, filled: Any, levels: NDArray[np.float64], label: str) -> None:
    """A bar as tall as the picture, with the levels beside it."""
    assert ax.figure is not None
    beside = ax.inset_axes((1.035, 0.0, 0.045, 1.0))
    bar = ax.figure.colorbar(filled, cax=beside, spacing="uniform")
    bar.set_label(label, labelpad=8)
    bar.set_ticks((levels[1:] if len(levels) < 12 else levels[1::2]).tolist())
    bar.ax.set_yticklabels([f"{level:.3g}" for level in bar.get_ticks()])
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=0, labelsize=8)
    bar.outline.set_visible(False)


def _draw_point(ax: Axes, where: NDArray[np.float64], text: str, marker: str, *, above: bool) -> None:
    ax.plot(
        *where, marker=marker, markersize=8, color=INK, markeredgecolor=PAPER, markeredgewidth=1.3,
        linewidth=0, zorder=6, clip_on=False,
    )  # fmt: skip
    ax.annotate(
        text, (where[0], where[1]), xytext=(0, 9 if above else -9), textcoords="offset points", ha="center",
        va="bottom" if above else "top", color=INK, fontsize=10, fontweight="bold", path_effects=_halo(),
        zorder=7,
    )  # fmt: skip


def _draw_path(ax: Axes, path: NDArray[np.float64]) -> None:
    from matplotlib.patheffects import Normal, Stroke

    dots = {"marker": "o", "markersize": 3.6} if len(path) <= _DOTS else {}
    ax.plot(
        path[:, 0], path[:, 1], color=INK, linewidth=1.8, zorder=5, solid_capstyle="round",
        path_effects=[Stroke(linewidth=3.6, foreground=PAPER), Normal()], **dots,  # type: ignore[arg-type]
    )  # fmt: skip


def _draw_ellipse(ax: Axes, ellipse: Any, text: str) -> None:
    from matplotlib.patheffects import Normal, Stroke

    for n_std in (1.0, 2.0, 3.0):
        outline = ellipse.outline(n_std)
        ax.plot(
            outline[:, 0], outline[:, 1], color=VERMILLION, linewidth=1.6, zorder=4,
            path_effects=[Stroke(linewidth=3.0, foreground=PAPER), Normal()],
        )  # fmt: skip
    if text:
        outline = ellipse.outline(3.0)
        top = outline[outline[:, 1].argmax()]
        ax.annotate(
            text, (top[0], top[1]), xytext=(0, 5), textcoords="offset points", ha="center", color=INK,
            fontsize=9, path_effects=_halo(), zorder=7,
        )  # fmt: skip


def _halo() -> list[Any]:
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=2.6, foreground=PAPER), Normal()]
