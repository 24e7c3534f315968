"""What was found on a plane or along a line: arrays, and the files that keep them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from swag.errors import FileError, InputError
from swag.geometry.npz import read_arrays, write_arrays
from swag.geometry.plane import Ellipse

Array = NDArray[np.float64]
PLANE, PROFILE, UNFINISHED = "swag.plane", "swag.profile", "swag.nodes"


@final
@dataclass(frozen=True)
class PlaneValues:
    """Measures on the nodes of a plane, and what is drawn on it.

    Attributes:
        alpha: (A,), in distances between weights.
        beta: (B,).
        values: (B, A) by measure; rows are of constant β, as matplotlib's contours take them.
        sq_norm: ‖θ‖² (B, A).
        points: coordinates (2,) by name.
        paths: coordinates (n, 2) by name: trajectories and curves.
        ellipses: Gaussians by name.
        heights: how far points (1,) and paths (n,) are from the plane, by name.
        fingerprint: tells apart planes, grids and measures.
    """

    alpha: Array
    beta: Array
    values: dict[str, Array]
    sq_norm: Array
    points: dict[str, Array] = field(default_factory=dict)
    paths: dict[str, Array] = field(default_factory=dict)
    ellipses: dict[str, Ellipse] = field(default_factory=dict)
    heights: dict[str, Array] = field(default_factory=dict)
    fingerprint: str = ""

    def regularised(self, name: str, weight_decay: float) -> Array:
        """A measure + ½·weight_decay·‖θ‖² (B, A), as the published pictures of training losses show."""
        return _named(self.values, name) + 0.5 * weight_decay * self.sq_norm

    def lowest(self, name: str) -> tuple[Array, float]:
        """Coordinates (2,) of the node where a measure is lowest, and its value there."""
        values = _named(self.values, name)
        row, column = np.unravel_index(np.nanargmin(values), values.shape)
        return np.array([self.alpha[column], self.beta[row]]), float(values[row, column])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an .npz file; it appears whole or not at all.

        Raises:
            FileError: the path does not end in .npz, or cannot be written.
        """
        named: dict[str, dict[str, Array]] = {
            "values": self.values,
            "points": self.points,
            "paths": self.paths,
            "heights": self.heights,
            "centres": {name: ellipse.centre for name, ellipse in self.ellipses.items()},
            "covs": {name: ellipse.cov for name, ellipse in self.ellipses.items()},
        }
        plain = {"alpha": self.alpha, "beta": self.beta, "sq_norm": self.sq_norm}
        _write(path, PLANE, self.fingerprint, named, plain)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PlaneValues:
        """Reads what `save` wrote.

        Raises:
            FileError: the file is missing, damaged, unfinished, or holds something else.
        """
        fingerprint, named, plain = _read(path, PLANE)
        try:
            shape = (len(plain["beta"]), len(plain["alpha"]))
            _check_shapes({"alpha": plain["alpha"]}, shape[1:])
            _check_shapes({"beta": plain["beta"]}, shape[:1])
            _check_shapes({**named["values"], "sq_norm": plain["sq_norm"]}, shape)
            ellipses = {name: Ellipse(named["centres"][name], cov) for name, cov in named["covs"].items()}
            return cls(
                plain["alpha"], plain["beta"], named["values"], plain["sq_norm"],
                points=named["points"], paths=named["paths"], ellipses=ellipses, heights=named["heights"],
                fingerprint=fingerprint,
            )  # fmt: skip
        except (LookupError, TypeError, ValueError) as error:
            raise FileError(f"{path}: its arrays do not fit together ({error!r})") from error


@final
@dataclass(frozen=True)
class Profile:
    """Measures along a line or a curve.

    Attributes:
        t: (T,), ascending: 0 at the start, 1 at the end.
        distance: (T,): from the start, along the line or curve, in distances between weights.
        values: (T,) by measure.
        sq_norm: ‖θ‖² (T,).
        marks: t by name.
        fingerprint: tells apart curves, values of t and measures.
    """

    t: Array
    distance: Array
    values: dict[str, Array]
    sq_norm: Array
    marks: dict[str, float] = field(default_factory=dict)
    fingerprint: str = ""

    def regularised(self, name: str, weight_decay: float) -> Array:
        """A measure + ½·weight_decay·‖θ‖² (T,)."""
        return _named(self.values, name) + 0.5 * weight_decay * self.sq_norm

    def uniform_mean(self, name: str) -> float:
        r"""∫ value ds / ∫ ds over length s, by the trapezoidal rule: the mean over evenly drawn lengths.

        The mean over t, ∫ value dt, gives weight where a curve is parametrised slowly; this does not.

        Raises:
            InputError: an unknown measure, or no length.

        Source: Garipov et al. 2018, arXiv:1802.10026, equation 1.
        """
        return float(np.trapezoid(_named(self.values, name), self._length_share()))

    def barrier(self, name: str) -> float:
        """The most by which a measure exceeds the straight line, over length, between its end values.

        At least 0.

        Raises:
            InputError: an unknown measure, or no length.

        Source: Frankle et al. 2020, arXiv:1912.05671.
        """
        values, share = _named(self.values, name), self._length_share()
        return float(np.max(values - ((1 - share) * values[0] + share * values[-1])))

    def _length_share(self) -> Array:
        """How much of the length lies before each value (T,), from 0 to 1."""
        span = float(self.distance[-1] - self.distance[0])
        if not span > 0:
            raise InputError(
                "name: the values have no length between them; evaluate at two values of t or more"
            )
        return (self.distance - self.distance[0]) / span

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an .npz file; it appears whole or not at all.

        Raises:
            FileError: the path does not end in .npz, or cannot be written.
        """
        marks = {name: np.array(t) for name, t in self.marks.items()}
        plain = {"t": self.t, "distance": self.distance, "sq_norm": self.sq_norm}
        _write(path, PROFILE, self.fingerprint, {"values": self.values, "marks": marks}, plain)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Reads what `save` wrote.

        Raises:
            FileError: the file is missing, damaged, unfinished, or holds something else.
        """
        fingerprint, named, plain = _read(path, PROFILE)
        try:
            shape = (len(plain["t"]),)
            _check_shapes({"t": plain["t"]}, shape)
            _check_shapes(
                {**named["values"], "distance": plain["distance"], "sq_norm": plain["sq_norm"]}, shape
            )
            marks = {name: float(t) for name, t in named["marks"].items()}
            return cls(plain["t"], plain["distance"], named["values"], plain["sq_norm"], marks, fingerprint)
        except (LookupError, TypeError, ValueError) as error:
            raise FileError(f"{path}: its arrays do not fit together ({error!r})") from error


def _named(values: Mapping[str, Array], name: str) -> Array:
    if name not in values:
        raise InputError(f"name: got {name!r}; there are {', '.join(map(repr, values))}")
    return values[name]


def _check_shapes(arrays: Mapping[str, Array], shape: tuple[int, ...]) -> None:
    for name, array in arrays.items():
        if array.shape != shape or array.dtype != np.float64:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected float64 {shape}")


def _write(
    path: str | os.PathLike[str],
    kind: str,
    fingerprint: str,
    named: Mapping[str, Mapping[str, Array]],
    plain: Mapping[str, Array],
) -> None:
    # Names are free text, so they stand in the header; the arrays are numbered.
    arrays = dict(plain)
    for group, members in named.items():
        for index, array in enumerate(members.values()):
            arrays[f"{group}.{index}"] = array
    header = {"fingerprint": fingerprint, "names": {group: list(members) for group, members in named.items()}}
    write_arrays(path, kind, header, arrays)


def _read(
    path: str | os.PathLike[str], kind: str
) -> tuple[str, dict[str, dict[str, Array]], dict[str, Array]]:
    found, header, arrays = read_arrays(path, kind, UNFINISHED)
    if found == UNFINISHED:
        n_done, n = int(arrays["done"].sum()), arrays["done"].size
        raise FileError(
            f"{path}: is unfinished: {n_done} of {n} nodes are done; run the evaluation again to go on"
        )
    try:
        named = {
            group: {name: arrays.pop(f"{group}.{index}") for index, name in enumerate(names)}
            for group, names in header["names"].items()
        }
        return str(header["fingerprint"]), named, arrays
    except (LookupError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: its header is damaged ({error!r})") from error


def named_values(path: str | os.PathLike[str], kind: str) -> tuple[str, dict[str, Array], NDArray[np.bool_]]:
    """Of a finished or unfinished file: its fingerprint, flat values by name, and which nodes are done."""
    found, header, arrays = read_arrays(path, kind, UNFINISHED)
    try:
        values = {
            name: arrays[f"values.{index}"].reshape(-1)
            for index, name in enumerate(header["names"]["values"])
        }
        values[""] = arrays["sq_norm"].reshape(-1)
        done = arrays["done"] if found == UNFINISHED else np.ones(values[""].shape, dtype=bool)
        return str(header["fingerprint"]), values, done
    except (LookupError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: its header is damaged ({error!r})") from error
