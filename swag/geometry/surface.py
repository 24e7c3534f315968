"""Measures on a plane, along a line or along a curve; a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from swag.errors import InputError
from swag.geometry.curve import Curve
from swag.geometry.line import Line
from swag.geometry.npz import check_suffix, write_arrays
from swag.geometry.plane import Grid, Plane
from swag.geometry.scoring import Scorer
from swag.geometry.values import PLANE, PROFILE, UNFINISHED, PlaneValues, Profile, named_values
from swag.geometry.vectors import Point
from swag.parameters import Layout
from swag.posterior import LowRankGaussian
from swag.progress import silent, track

Array = NDArray[np.float64]
# A curve is drawn on a plane as this many points.
_DRAWN = 201


def evaluate_plane(
    plane: Plane,
    scorer: Scorer,
    grid: Grid,
    *,
    points: Mapping[str, Point] | None = None,
    paths: Mapping[str, Tensor | Curve | Line] | None = None,
    posteriors: Mapping[str, LowRankGaussian] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> PlaneValues:
    r"""Every measure of a scorer at every node of a grid, batch norm refreshed at each.

    Args:
        plane: where.
        scorer: what is measured, on which data.
        grid: the nodes, as `plane.grid(21, show=[…])` gives them.
        points: what is marked on it, by name: projected, with the distance from the plane kept beside.
        paths: trajectories (n, D), curves and lines, by name.
        posteriors: Gaussians whose ellipses are drawn, by name.
        path: an .npz file that takes the results, and after each chunk what is done: a run that was stopped
            goes on from it, a finished one is read. It is known by plane, grid and the measures' names; data,
            functions and model must be the same, too.

    Raises:
        InputError: the file is another plane's, grid's or measure's; a point of another architecture.
        FileError: the file is damaged, or cannot be written.

    >>> from swag.geometry import Measure, misclassified
    >>> x, y, layer = torch.eye(2), torch.tensor([0, 1]), torch.nn.Linear(2, 2, bias=False)
    >>> scorer = Scorer(layer, {"error": Measure(misclassified, [(x, y)])})
    >>> good, bad = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    >>> plane = Plane.through(good, torch.tensor([1.0, 1.0, 0.0, 0.0]), bad)
    >>> found = evaluate_plane(plane, scorer, Grid([0.0, 2.0], [0.0, 0.1]), points={"good": good})
    >>> found.values["error"][0].tolist()
    [0.0, 1.0]
    """
    drawn_points = {name: plane.project(point) for name, point in (points or {}).items()}
    heights = {name: plane.height(point).reshape(-1) for name, point in (points or {}).items()}
    drawn_paths = {}
    for name, drawn in (paths or {}).items():
        vectors = drawn if isinstance(drawn, Tensor) else drawn.point(np.linspace(0, 1, _DRAWN))
        drawn_paths[name], heights[name] = plane.project(vectors), plane.height(vectors)
    ellipses = {name: plane.ellipse(posterior) for name, posterior in (posteriors or {}).items()}
    nodes = grid.nodes
    fingerprint = _fingerprint([plane.origin, plane.axes], nodes, scorer)
    values, sq_norm = _evaluate(
        lambda which: plane.lift(nodes[which]), len(nodes), plane.layout, scorer, fingerprint, path, PLANE
    )
    shape = (len(grid.beta), len(grid.alpha))
    found = PlaneValues(
        grid.alpha,
        grid.beta,
        {name: value.reshape(shape) for name, value in values.items()},
        sq_norm.reshape(shape),
        points=drawn_points,
        paths=drawn_paths,
        ellipses=ellipses,
        heights=heights,
        fingerprint=fingerprint,
    )
    if path is not None:
        found.save(path)
    return found


def evaluate_along(
    along: Line | Curve,
    scorer: Scorer,
    t: ArrayLike,
    *,
    marks: Mapping[str, float] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Profile:
    r"""Every measure of a scorer along a line or a curve, batch norm refreshed at every t.

    Args:
        along: a `Line` (any t) or a `Curve` (t from 0 to 1).
        scorer: what is measured, on which data.
        t: (T,), ascending, such as `np.linspace(0, 1, 41)`, or `curve.equidistant(41)` for equal lengths.
        marks: t of what should be marked, by name.
        path: as in `evaluate_plane`.

    Raises:
        InputError: a t that is not on the curve, or out of order; the file is another curve's.
        FileError: the file is damaged, or cannot be written.

    >>> from swag.geometry import Measure, misclassified
    >>> x, y, layer = torch.eye(2), torch.tensor([0, 1]), torch.nn.Linear(2, 2, bias=False)
    >>> scorer = Scorer(layer, {"error": Measure(misclassified, [(x, y)])})
    >>> line = Line(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0]))
    >>> profile = evaluate_along(line, scorer, [0.0, 0.25, 1.0])
    >>> profile.values["error"].tolist(), profile.distance.tolist()
    ([0.0, 0.0, 1.0], [0.0, 0.5, 2.0])
    """
    if not isinstance(along, Line | Curve):
        raise InputError(f"along: got a {type(along).__name__}; pass a Line or a Curve")
    at = np.array(t, dtype=np.float64)
    if at.ndim != 1 or len(at) == 0 or not np.isfinite(at).all() or (np.diff(at) <= 0).any():
        raise InputError("t: pass one or more finite numbers in ascending order")
    distance = along.distance(at)
    if isinstance(along, Line):
        tensors, more = [along.start, along.end], "line"
    else:
        tensors, more = [along.points], repr(along.basis)
    fingerprint = _fingerprint(tensors, at, scorer, more)
    values, sq_norm = _evaluate(
        lambda which: along.point(at[which]), len(at), along.layout, scorer, fingerprint, path, PROFILE
    )
    named = {name: float(where) for name, where in (marks or {}).items()}
    profile = Profile(at, distance, values, sq_norm, named, fingerprint)
    if path is not None:
        profile.save(path)
    return profile


def _evaluate(
    lift: Callable[[NDArray[np.int64]], Tensor],
    n_nodes: int,
    layout: Layout | None,
    scorer: Scorer,
    fingerprint: str,
    path: str | os.PathLike[str] | None,
    kind: str,
) -> tuple[dict[str, Array], Array]:
    """Every node's measures (n_nodes,) by name, and ‖θ‖² (n_nodes,)."""
    values = {name: np.full(n_nodes, np.nan) for name in (*scorer.names, "")}  # "" for ‖θ‖²
    done = np.zeros(n_nodes, dtype=bool)
    if path is not None:
        check_suffix(path)
        if Path(path).exists():
            known, values, done = named_values(path, kind)
            if known != fingerprint:
                raise InputError(
                    f"path: {path} holds the values of another plane or curve, or of other nodes or "
                    "measures; delete it or pass another path"
                )
    left = np.flatnonzero(~done)
    if len(left) == 0:
        return _split(values)
    chunk = scorer.chunk_for(lift(left[:1]).shape[1])
    starts = range(0, len(left), chunk)
    for start in track(starts, f"{len(left)} nodes", total=len(starts)):
        which = left[start : start + chunk]
        thetas = lift(which)
        with silent():
            found = scorer(thetas, layout)
        for name, value in found.items():
            values[name][which] = value
        values[""][which] = thetas.double().square().sum(1).cpu().numpy()
        done[which] = True
        if path is not None:
            _write_unfinished(path, fingerprint, values, done)
    return _split(values)


def _write_unfinished(
    path: str | os.PathLike[str], fingerprint: str, values: Mapping[str, Array], done: NDArray[np.bool_]
) -> None:
    measures, sq_norm = _split(values)
    arrays: dict[str, NDArray[np.generic]] = {
        f"values.{i}": value for i, value in enumerate(measures.values())
    }
    arrays |= {"sq_norm": sq_norm, "done": done}
    header = {"fingerprint": fingerprint, "names": {"values": list(measures)}}
    write_arrays(path, UNFINISHED, header, arrays)


def _split(values: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
    return {name: value for name, value in values.items() if name}, values[""]


def _fingerprint(tensors: list[Tensor], nodes: Array, scorer: Scorer, more: str = "") -> str:
    digest = hashlib.sha256(repr((scorer.names, nodes.shape, more)).encode())
    digest.update(nodes.tobytes())
    for tensor in tensors:
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
