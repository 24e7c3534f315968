"""Curves: bases against slow formulas, exact ends, lengths against known ones, files, bad input."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from swag.errors import FileError, InputError
from swag.geometry import Bezier, Curve, PolygonalChain
from swag.parameters import Layout
from swag.posterior import PointMass
from swag.subspace import Subspace
from swag.tensorfile import write_tensors
from tests.cases import CASES, Case
from tests.checks import assert_close


def control_points(n: int, d: int = 6) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def de_casteljau(points: Tensor, t: float) -> Tensor:
    """The point at t by repeated linear interpolation."""
    rows = list(points)
    while len(rows) > 1:
        rows = [(1 - t) * a + t * b for a, b in itertools.pairwise(rows)]
    return rows[0]


@pytest.mark.parametrize("n", [2, 3, 4, 7, 15])
def test_bezier_equals_de_casteljau(n: int) -> None:
    points = control_points(n)
    at = np.linspace(0, 1, 23)
    expected = torch.stack([de_casteljau(points, float(t)) for t in at])
    assert_close(Curve(points).point(at), expected, rtol=1e-13, scale=float(points.abs().max()))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_chain_is_linear_between_its_points(n: int) -> None:
    points = control_points(n)
    curve = Curve(points, PolygonalChain())
    assert_close(curve.point(np.arange(n) / (n - 1)), points, rtol=1e-14, scale=1.0)
    for i in range(n - 1):
        expected = 0.7 * points[i] + 0.3 * points[i + 1]
        assert_close(curve.point((i + 0.3) / (n - 1)), expected, rtol=1e-13, scale=1.0)


@pytest.mark.parametrize("basis", [Bezier(), PolygonalChain()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_ends_are_exact(basis: Bezier | PolygonalChain, dtype: torch.dtype) -> None:
    points = control_points(5, 1000).to(dtype)
    curve = Curve(points, basis)
    assert torch.equal(curve.point(0), points[0])
    assert torch.equal(curve.point(1.0), points[-1])
    assert torch.equal(curve.point(torch.tensor([0.0, 1.0])), points[[0, -1]])


@pytest.mark.parametrize("basis", [Bezier(), PolygonalChain()], ids=repr)
@pytest.mark.parametrize("n", [2, 3, 6])
def test_derivatives_are_those_of_the_coefficients(basis: Bezier | PolygonalChain, n: int) -> None:
    t = torch.tensor([0.03, 0.31, 0.55, 0.93], dtype=torch.float64)
    step = 1e-6
    slopes = (basis.coefficients(t + step, n) - basis.coefficients(t - step, n)) / (2 * step)
    assert_close(basis.derivatives(t, n), slopes, rtol=1e-8, scale=float(n))
    assert_close(basis.coefficients(t, n).sum(1), torch.ones(4), rtol=1e-14)


def test_the_length_of_a_parabola_and_of_a_chain() -> None:
    # (2t, 2t(1 − t)·2): y = 2x − x² for x from 0 to 2; length ∫ √(1 + (2 − 2x)²) dx = √5 + asinh(2)/2.
    parabola = Curve(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0]], dtype=torch.float64))
    assert parabola.length == pytest.approx(np.sqrt(5) + np.arcsinh(2) / 2, rel=1e-12)
    assert float(parabola.distance(0.5)) == pytest.approx(parabola.length / 2, rel=1e-12)
    chain = Curve(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 16.0]]), PolygonalChain())
    assert chain.distance([0.0, 0.25, 0.5, 0.75, 1.0]).tolist() == pytest.approx(
        [0, 2.5, 5, 11, 17], rel=1e-6
    )


@pytest.mark.parametrize("basis", [Bezier(), PolygonalChain()], ids=repr)
def test_equidistant_points_have_equal_lengths_between_them(basis: Bezier | PolygonalChain) -> None:
    curve = Curve(control_points(4), basis)
    t = curve.equidistant(9)
    assert (t[0], t[-1]) == (0.0, 1.0)
    assert_close(np.diff(curve.distance(t)), np.full(8, curve.length / 8), rtol=1e-7)
    # Against straight steps along a fine subdivision.
    fine = curve.point(np.linspace(0, float(t[3]), 4001))
    assert float((fine[1:] - fine[:-1]).norm(dim=1).sum()) == pytest.approx(3 * curve.length / 8, rel=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_between_two_models(case: Case) -> None:
    first, second = case.build(0), case.build(0)
    with torch.no_grad():
        for parameter in second.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    curve = Curve.between(first, second, n_inner=3)
    layout = Layout.of(first)
    assert curve.layout == layout
    assert torch.equal(curve.point(0), layout.flatten(first))
    assert torch.equal(curve.point(1), layout.flatten(second))
    # Equally spaced on the line, which is therefore still the line.
    expected = torch.lerp(layout.flatten(first), layout.flatten(second), 0.3)
    assert_close(curve.point(0.3), expected, rtol=1e-5, scale=1.0)


def test_between_posteriors_and_vectors() -> None:
    layout = Layout.of(nn.Linear(2, 1))
    first, second = torch.zeros(3), torch.ones(3)
    curve = Curve.between(PointMass(first, layout=layout), second, n_inner=0)
    assert curve.layout == layout and curve.n_points == 2
    assert curve.point(0.5).tolist() == [0.5, 0.5, 0.5]
    assert Curve.between(first, second, layout=layout).layout == layout


def test_a_curve_spans_a_subspace() -> None:
    layout = Layout.of(nn.Linear(2, 2))
    curve = Curve(control_points(3), layout=layout)
    space = Subspace.from_curve(curve)
    theta = curve.point([0.0, 0.3, 0.8, 1.0])
    assert_close(space.lift(space.project(theta)), theta, rtol=1e-12, scale=1.0)
    assert space.layout == layout


def test_ends_of_different_architectures() -> None:
    with pytest.raises(InputError, match=r"second: its architecture differs.*'weight' \(3, 2\)"):
        Curve.between(nn.Linear(2, 3), nn.Linear(2, 4))
    with pytest.raises(InputError, match="second: has D=4 weights, first has 3"):
        Curve.between(torch.zeros(3), torch.zeros(4))
    layout = Layout.of(nn.Linear(2, 3))
    with pytest.raises(InputError, match=r"second: .*shape"):
        Curve.between(PointMass(torch.zeros(9), layout=layout), nn.Linear(2, 4))


def test_ends_that_differ_outside_of_the_curve() -> None:
    first, second = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    with pytest.raises(InputError, match=r"'0\.weight' is not selected"):
        Curve.between(first, second, select=["1"])
    second[0].load_state_dict(first[0].state_dict())
    assert Curve.between(first, second, select=["1"]).points.shape == (3, 6)


@pytest.mark.parametrize("t", [-0.01, 1.0001, float("nan"), [0.5, 2.0], torch.tensor([0.0, -1.0]), "a", None])
def test_unknown_t(t: object) -> None:
    with pytest.raises(InputError, match=r"^t: got"):
        Curve(control_points(3)).point(t)  # type: ignore[arg-type]


def test_bad_control_points() -> None:
    with pytest.raises(InputError, match=r"points: got 1"):
        Curve(torch.zeros(1, 4))
    with pytest.raises(InputError, match=r"points: got \(4,\)"):
        Curve(torch.zeros(4))
    with pytest.raises(InputError, match=r"points\[1\]: not finite at theta\[2\]"):
        Curve(torch.tensor([[0.0, 0, 0], [0, 0, torch.nan]]))
    with pytest.raises(InputError, match="basis: got"):
        Curve(torch.zeros(2, 4), Bezier)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected D=3"):
        Curve(torch.zeros(2, 4), layout=Layout.of(nn.Linear(2, 1)))
    with pytest.raises(InputError, match="n_inner: got -1"):
        Curve.between(torch.zeros(3), torch.ones(3), n_inner=-1)
    with pytest.raises(InputError, match="no length"):
        Curve(torch.zeros(3, 4)).equidistant(5)
    with pytest.raises(InputError, match="n: got 1"):
        Curve(control_points(3)).equidistant(1)


@pytest.mark.parametrize("basis", [Bezier(), PolygonalChain()], ids=repr)
def test_files(basis: Bezier | PolygonalChain, tmp_path: Path) -> None:
    layout = Layout.of(nn.Linear(2, 2))
    curve = Curve(control_points(3).float(), basis, layout=layout)
    path = tmp_path / "curve.safetensors"
    curve.save(path)
    again = Curve.load(path)
    assert torch.equal(again.points, curve.points) and again.basis == basis and again.layout == layout


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "curve.safetensors"
    Curve(control_points(3)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(FileError, match="safetensors"):
        Curve.load(path)
    write_tensors(path, {"points": torch.zeros(3, 2)})
    with pytest.raises(FileError, match="holds no curve"):
        Curve.load(path)
    good = {"version": 1, "basis": "bezier", "layout": None}
    for wrong in ({"basis": "spline"}, {"version": 2}, {"layout": [{}]}, {"layout": 3}):
        write_tensors(path, {"points": torch.zeros(3, 2)}, {"swag.curve": json.dumps({**good, **wrong})})
        with pytest.raises(FileError, match=r"curve\.safetensors"):
            Curve.load(path)
    with pytest.raises(FileError, match="no such file"):
        Curve.load(tmp_path / "none.safetensors")
