"""Pictures of the loss surface: levels by their formula, what was drawn, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from swag.errors import InputError
from swag.geometry import Ellipse, PlaneValues, Profile, log_levels, plot_line, plot_plane


def plane() -> PlaneValues:
    alpha, beta = np.linspace(-1, 3, 9), np.linspace(-1, 2, 7)
    values = 2 + alpha**2 + 3 * beta[:, None] ** 2
    return PlaneValues(
        alpha,
        beta,
        {"loss": values},
        np.ones_like(values),
        points={"SWA": np.array([0.0, 0.5]), "SGD": np.array([2.9, 1.9])},
        paths={"walk": np.array([[0.0, 0.0], [1.0, 1.0]])},
        ellipses={"SWAG": Ellipse(np.zeros(2), np.eye(2))},
    )


def test_levels() -> None:
    levels = log_levels([5.0, 3.0, np.inf, np.nan, 13.0], 4, ratio=16.0)
    assert levels.tolist() == pytest.approx([3, 3.625, 4.25, 5.5, 8, 13])
    assert log_levels([0.0, 100.0], 2, high=1.0, ratio=100.0).tolist() == pytest.approx([0, 0.01, 0.1, 1])
    with pytest.raises(InputError, match="values: a contour needs"):
        log_levels([1.0, 1.0])
    with pytest.raises(InputError, match=r"high: got 0\.5"):
        log_levels([1.0, 2.0], high=0.5)
    with pytest.raises(InputError, match="n_levels, ratio: got 0"):
        log_levels([1.0, 2.0], 0)


def test_a_plane_is_drawn() -> None:
    figure = Figure()
    ax = figure.subplots()
    assert plot_plane(ax, plane(), "loss", scale=10, high=60, colorbar="Loss") is ax
    assert {text.get_text() for text in ax.texts} == {"SWA", "SGD", "SWAG"}
    drawn = {tuple(np.ravel(line.get_xydata())) for line in ax.lines if len(line.get_xydata()) == 1}
    assert drawn == {(0.0, 0.5), (2.9, 1.9)}
    assert len([line for line in ax.lines if len(line.get_xydata()) == 200]) == 3  # one to three deviations
    assert any(len(line.get_xydata()) == 2 for line in ax.lines)
    assert ax.get_xlim() == (-1, 3) and ax.get_ylim() == (-1, 2)
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "Loss" and float(bar.get_yticklabels()[-1].get_text()) == 60
    figure.canvas.draw()


def test_what_is_shown_can_be_chosen() -> None:
    ax = Figure().subplots()
    plot_plane(ax, plane(), "loss", show={"SWA": "the average"}, colorbar=None)
    assert [text.get_text() for text in ax.texts] == ["the average"] and len(ax.lines) == 1
    with pytest.raises(InputError, match="show: the plane has no 'SGDR'"):
        plot_plane(ax, plane(), "loss", show={"SGDR": ""})
    with pytest.raises(InputError, match="name: got 'error'; there are 'loss'"):
        plot_plane(ax, plane(), "error")


def test_a_line_is_drawn() -> None:
    t = np.linspace(0, 1, 5)
    profile = Profile(t, 3 * t, {"loss": t**2}, np.ones(5), {"SGD": 0.0, "SWA": 1.0})
    ax = Figure().subplots()
    plot_line(ax, profile, "loss", scale=100, label="train")
    assert np.array_equal(ax.lines[0].get_xydata(), np.stack([3 * t, 100 * t**2], 1))
    assert [text.get_text() for text in ax.texts] == ["SGD", "SWA"]
    assert ax.lines[2].get_xydata().tolist() == [[3.0, 100.0]]
    ax = Figure().subplots()
    plot_line(ax, profile, "loss", by_distance=None, weight_decay=4.0)
    assert np.array_equal(ax.lines[0].get_xydata(), np.stack([t, t**2 + 2], 1))
    assert ax.get_xlabel() == "t"
