"""Planes, lines and scores: exactly known surfaces, hand-built loops, files, resumption, bad input."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag.errors import FileError, InputError
from swag.geometry import (
    Curve,
    Grid,
    Line,
    Measure,
    Plane,
    PlaneValues,
    PolygonalChain,
    Profile,
    Scorer,
    evaluate_along,
    evaluate_plane,
    misclassified,
)
from swag.parameters import Layout
from swag.posterior import LowRankGaussian
from tests.cases import BATCHNORM_CASES, CASES, Case, features
from tests.checks import assert_close
from tests.runs import seeded, trained

Batch = tuple[Tensor, Tensor]


class Bowl(nn.Module):
    """Outputs Σ_i a_i (θ_i − c_i)² for every row, whatever the input: a loss that is known everywhere."""

    def __init__(self, d: int = 5) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(d, dtype=torch.float64))
        self.curvature = torch.arange(1.0, d + 1, dtype=torch.float64)
        self.centre = torch.linspace(-1, 1, d, dtype=torch.float64)

    def value(self, theta: Tensor) -> Tensor:
        return (self.curvature * (theta - self.centre) ** 2).sum(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.theta).expand(len(x))


def first_output(outputs: Tensor, targets: Any) -> Tensor:
    return outputs


def bowl_scorer(bowl: Bowl, **settings: Any) -> Scorer:
    return Scorer(bowl, {"loss": Measure(first_output, [(torch.zeros(3), torch.zeros(3))])}, **settings)


def three_points(d: int = 5) -> Tensor:
    return torch.randn(3, d, generator=seeded(1), dtype=torch.float64)


def batches(n: int, rows: int, seed: int = 0) -> list[Batch]:
    return [(features(rows + i, seed=seed + i), torch.arange(rows + i) % 3) for i in range(n)]


# Planes and lines themselves


def test_a_plane_through_three_points() -> None:
    w = three_points()
    plane = Plane.through(*w)
    assert_close(plane.axes @ plane.axes.T, torch.eye(2), rtol=1e-14, scale=1.0)
    at = np.stack([plane.project(point) for point in w])
    assert_close(at, plane.project(w), rtol=1e-14, scale=1.0)
    # w₀ at the origin, w₂ on the first axis, w₁ above it, and their distances as they are.
    assert_close(at[0], [0, 0], rtol=1e-14, scale=1.0)
    assert_close(at[2], [float((w[2] - w[0]).norm()), 0], rtol=1e-13, scale=1.0)
    assert at[1, 1] > 0
    assert np.linalg.norm(at[1] - at[2]) == pytest.approx(float((w[1] - w[2]).norm()), rel=1e-13)
    assert_close(plane.lift(at), w, rtol=1e-13, scale=1.0)
    assert_close(plane.lift(at[1]), w[1], rtol=1e-13, scale=1.0)
    assert plane.height(w).max() < 1e-12
    normal = torch.linalg.svd(plane.axes).Vh[2]
    assert float(plane.height(plane.lift([0.3, 0.4]) + 2.5 * normal)) == pytest.approx(2.5, rel=1e-12)


def test_points_come_as_models_and_posteriors() -> None:
    collector = trained(6)
    models = [case.build(seed) for case in CASES[:1] for seed in (1, 2)]
    plane = Plane.through(models[0], collector.swag(), models[1])
    assert plane.layout == collector.layout
    assert_close(
        plane.lift(plane.project(models[1])), Layout.of(models[1]).flatten(models[1]), rtol=1e-6, scale=1.0
    )
    line = Line(models[0], collector.swa())
    assert torch.equal(line.point(1.0), collector.mean) and line.layout == collector.layout


def test_low_precision_points() -> None:
    w = three_points(1000).bfloat16()
    plane = Plane.through(*w)
    assert plane.axes.dtype == torch.float32
    assert_close(plane.lift(plane.project(w[1])), w[1], rtol=1e-5, scale=1.0)


@pytest.mark.parametrize(
    ("second", "message"), [(0.3, "second: lies on the line"), (-2.0, "second: lies"), (0.0, "second: lies")]
)
def test_collinear_points(second: float, message: str) -> None:
    a, _, c = three_points().float()
    with pytest.raises(InputError, match=message):
        Plane.through(a, a + second * (c - a), c)


def test_degenerate_planes_and_lines() -> None:
    a, b, _ = three_points()
    with pytest.raises(InputError, match="third: is the same point as first"):
        Plane.through(a, b, a)
    with pytest.raises(InputError, match="end: is the same point as start"):
        Line(a, a)
    with pytest.raises(InputError, match="axes: are not orthonormal"):
        Plane(a, torch.stack([b, b]))
    with pytest.raises(InputError, match="second: its architecture differs"):
        Plane.through(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(2, 3))
    with pytest.raises(InputError, match="third: got a str"):
        Plane.through(a, b, "c")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="third: not finite"):
        Plane.through(a, b, b * torch.nan)
    with pytest.raises(InputError, match=r"point: has D=4"):
        Plane.through(*three_points()).project(torch.zeros(4, dtype=torch.float64))


# The plane of a SWAG posterior


@pytest.mark.parametrize("d", [12, 300])
@pytest.mark.parametrize("rank", [0, 2, 7])
def test_the_plane_of_a_covariance(d: int, rank: int) -> None:
    generator = seeded(d + rank)
    posterior = LowRankGaussian(
        torch.randn(d, generator=generator, dtype=torch.float64),
        torch.rand(d, generator=generator, dtype=torch.float64),
        torch.randn(d, rank, generator=generator, dtype=torch.float64),
    )
    plane = Plane.of_swag(posterior)
    values, vectors = torch.linalg.eigh(posterior.covariance_matrix())
    assert_close((plane.axes @ vectors[:, -2:].flip(1)).abs(), torch.eye(2), rtol=1e-5, scale=1.0)
    ellipse = plane.ellipse(posterior)
    assert_close(ellipse.cov, torch.diag(values[-2:].flip(0)), rtol=1e-6, scale=float(values[-1]))
    assert_close(ellipse.centre, [0, 0], rtol=1e-12, scale=1.0)
    again = Plane.of_swag(posterior)
    assert torch.equal(again.axes, plane.axes)


def test_an_ellipse_is_what_samples_do() -> None:
    posterior = trained(12, rank=6).swag()
    plane = Plane.through(*three_points(posterior.mean.numel()).float(), layout=posterior.layout)
    ellipse = plane.ellipse(posterior)
    seen = plane.project(posterior.sample(2000, generator=seeded(5)))
    swag_checks_cov(seen, ellipse.cov, ellipse.centre)
    # Its outline is at Mahalanobis distance n_std.
    off = ellipse.outline(2.0) - ellipse.centre
    assert_close(np.einsum("ni,ij,nj->n", off, np.linalg.inv(ellipse.cov), off), np.full(200, 4.0), rtol=1e-9)


def swag_checks_cov(seen: Any, cov: Any, mean: Any) -> None:
    from tests.checks import assert_covariance_close

    assert_covariance_close(seen, cov, mean=mean)


def test_a_posterior_without_a_plane() -> None:
    posterior = trained(6).swag()
    for flat in (trained(6).swag(0.0), LowRankGaussian(torch.zeros(3), torch.zeros(3), torch.ones(3, 1))):
        with pytest.raises(InputError, match="fewer than two dimensions"):
            Plane.of_swag(flat)
    with pytest.raises(InputError, match="posterior: got a PointMass"):
        Plane.of_swag(trained(6).swa())  # type: ignore[arg-type]
    assert Plane.of_swag(posterior).layout == posterior.layout


# Grids


def test_a_grid_shows_what_it_is_asked_to() -> None:
    w = three_points()
    plane = Plane.through(*w)
    grid = plane.grid((7, 5), show=list(w), margin=0.1)
    at = plane.project(w)
    assert (len(grid.alpha), len(grid.beta)) == (7, 5)
    # A tenth of the extent is added on each side; the narrower one counts as 0.65 of the wider at least.
    low, high = at.min(0), at.max(0)
    size = np.maximum(high - low, 0.65 * (high - low).max())
    ends = [[grid.alpha[0], grid.beta[0]], [grid.alpha[-1], grid.beta[-1]]]
    assert_close(ends, [(low + high) / 2 - 0.6 * size, (low + high) / 2 + 0.6 * size], rtol=1e-12, scale=1.0)
    assert grid.alpha[0] < at[:, 0].min() and grid.alpha[-1] > at[:, 0].max()
    assert grid.beta[0] < at[:, 1].min() and grid.beta[-1] > at[:, 1].max()
    assert grid.nodes.shape == (35, 2) and grid.nodes[1].tolist() == [grid.alpha[1], grid.beta[0]]
    for bad in ([1.0, 0.0], [0.0], [0.0, np.nan]):
        with pytest.raises(InputError, match="beta: pass"):
            Grid([0.0, 1.0], bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="n, margin: got 1"):
        plane.grid(1)


# Scores: exact, and against loops


def test_a_quadratic_is_exact_on_plane_line_and_curve() -> None:
    bowl, w = Bowl(), three_points()
    plane = Plane.through(*w)
    grid = plane.grid((6, 4), show=list(w))
    found = evaluate_plane(plane, bowl_scorer(bowl, chunk=5), grid)
    for j, beta in enumerate(grid.beta):
        for i, alpha in enumerate(grid.alpha):
            theta = plane.origin + alpha * plane.axes[0] + beta * plane.axes[1]
            assert found.values["loss"][j, i] == pytest.approx(float(bowl.value(theta)), rel=1e-12)
            assert found.sq_norm[j, i] == pytest.approx(float(theta @ theta), rel=1e-12)
    assert_close(found.regularised("loss", 0.2), found.values["loss"] + 0.1 * found.sq_norm, rtol=1e-14)
    where, value = found.lowest("loss")
    assert value == found.values["loss"].min() and float(bowl.value(plane.lift(where))) == pytest.approx(
        value
    )

    t = np.linspace(-0.5, 1.5, 9)
    line = evaluate_along(Line(w[0], w[1]), bowl_scorer(bowl), t)
    expected = [float(bowl.value(w[0] + s * (w[1] - w[0]))) for s in t]
    assert_close(line.values["loss"], expected, rtol=1e-12)
    assert_close(line.distance, t * float((w[1] - w[0]).norm()), rtol=1e-12)

    curve = Curve(w, PolygonalChain())
    along = evaluate_along(curve, bowl_scorer(bowl), np.linspace(0, 1, 401))
    # ∫ over length: each leg's mean of a quadratic is (ends + 4·middle)/6 (Simpson), weighed by its length.
    legs = [(w[0], w[1]), (w[1], w[2])]
    means = [float(bowl.value(a) + 4 * bowl.value((a + b) / 2) + bowl.value(b)) / 6 for a, b in legs]
    lengths = [float((a - b).norm()) for a, b in legs]
    assert along.uniform_mean("loss") == pytest.approx(np.average(means, weights=lengths), rel=1e-4)


def test_barriers() -> None:
    t = np.array([0.0, 0.25, 1.0])
    profile = Profile(t, t, {"a": np.array([1.0, 5.0, 3.0]), "b": np.array([1.0, 0.0, 3.0])}, t)
    assert profile.barrier("a") == pytest.approx(3.5) and profile.barrier("b") == 0
    assert profile.uniform_mean("a") == pytest.approx(0.25 * 3 + 0.75 * 4)
    with pytest.raises(InputError, match="name: got 'c'; there are 'a', 'b'"):
        profile.barrier("c")
    with pytest.raises(InputError, match="no length"):
        Profile(t, 0 * t, {"a": t}, t).uniform_mean("a")


@pytest.mark.parametrize("case", BATCHNORM_CASES, ids=str)
@pytest.mark.parametrize("strategy", [swag.Loop(), swag.Vmapped(3)], ids=["loop", "vmap"])
def test_batch_norm_is_refreshed_at_every_node(case: Case, strategy: Any) -> None:
    """Against: write the weights, `refresh_batchnorm_`, run the rows in eval mode."""
    models = [case.build(seed) for seed in range(3)]
    plane = Plane.through(*models)
    train, test = batches(3, 12), batches(2, 9, seed=9)
    measures = {
        "train loss": Measure(F.cross_entropy, train),
        "train error": Measure(misclassified, train),
        "test loss": Measure(lambda out, y: F.cross_entropy(out, y, reduction="none"), test),
    }
    before = copy.deepcopy(models[0].state_dict())
    scorer = Scorer(models[0], measures, bn_loader=train, chunk=4, strategy=strategy)
    found = evaluate_plane(plane, scorer, plane.grid(3, show=models))
    assert plane.layout is not None
    for index, node in enumerate(Grid(found.alpha, found.beta).nodes):
        model = copy.deepcopy(models[0])
        plane.layout.write_(model, plane.lift(node))
        swag.refresh_batchnorm_(model, train)
        model.eval()
        with torch.no_grad():
            for name, data, function in (
                ("train loss", train, F.cross_entropy),
                ("train error", train, lambda out, y: (out.argmax(1) != y).float().mean()),
                ("test loss", test, F.cross_entropy),
            ):
                outputs = torch.cat([model(x) for x, _ in data])
                expected = float(function(outputs, torch.cat([y for _, y in data])))
                got = found.values[name].reshape(-1)[index]
                assert got == pytest.approx(expected, rel=2e-5, abs=1e-7), (name, index)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, before[name]), name


def test_loaders_are_read_once_a_chunk() -> None:
    reads: list[str] = []

    class Counted:
        def __init__(self, name: str) -> None:
            self.name = name

        def __iter__(self) -> Iterator[Batch]:
            reads.append(self.name)
            return iter(batches(2, 5))

        def __len__(self) -> int:
            return 2

    model = BATCHNORM_CASES[0].build()
    shared = Counted("shared")
    reads.clear()
    measures = {
        "a": Measure(F.cross_entropy, shared),
        "b": Measure(misclassified, shared),
        "c": Measure(misclassified, Counted("own")),
    }
    scorer = Scorer(model, measures, bn_loader=Counted("bn"), chunk=4)
    reads.clear()
    line = Line(model, BATCHNORM_CASES[0].build(1))
    evaluate_along(line, scorer, np.linspace(0, 1, 7))
    assert reads == ["bn", "shared", "own"] * 2


# Files and resumption


class Stops(nn.Module):
    """A bowl that raises once it has been run so many times; counts its runs."""

    runs, most = 0, 10**9

    def __init__(self, bowl: Bowl) -> None:
        super().__init__()
        self.bowl = bowl

    def forward(self, x: Tensor) -> Tensor:
        type(self).runs += 1
        if type(self).runs > type(self).most:
            raise KeyboardInterrupt
        return self.bowl(x)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w, path = three_points(), tmp_path / "plane.npz"
    plane = Plane.through(*w)
    grid = plane.grid((5, 4))
    monkeypatch.setattr(Stops, "runs", 0)
    whole = evaluate_plane(plane, bowl_scorer(Stops(Bowl()), chunk=3), grid)  # type: ignore[arg-type]
    cost = Stops.runs
    monkeypatch.setattr(Stops, "runs", 0)
    monkeypatch.setattr(Stops, "most", cost // 2)
    with pytest.raises(KeyboardInterrupt):
        evaluate_plane(plane, bowl_scorer(Stops(Bowl()), chunk=3), grid, path=path)  # type: ignore[arg-type]
    with pytest.raises(FileError, match=r"is unfinished: \d+ of 20 nodes"):
        PlaneValues.load(path)
    monkeypatch.setattr(Stops, "most", 10**9)
    found = evaluate_plane(plane, bowl_scorer(Stops(Bowl()), chunk=3), grid, points={"w": w[1]}, path=path)  # type: ignore[arg-type]
    assert_close(found.values["loss"], whole.values["loss"], rtol=1e-14)
    assert Stops.runs < 1.3 * cost
    # A finished one is read, and marks may be added.
    runs = Stops.runs
    again = evaluate_plane(plane, bowl_scorer(Stops(Bowl()), chunk=3), grid, points={"v": w[2]}, path=path)  # type: ignore[arg-type]
    assert Stops.runs == runs and list(again.points) == ["v"]
    assert np.array_equal(again.values["loss"], found.values["loss"])
    assert list(PlaneValues.load(path).points) == ["v"]


def test_files_of_planes_and_profiles(tmp_path: Path) -> None:
    posterior = trained(8).swag()
    plane = Plane.of_swag(posterior)
    model = CASES[0].build()
    scorer = Scorer(model, {"loss / nats": Measure(F.cross_entropy, batches(1, 4))})
    curve = Curve.between(posterior, model)
    path = tmp_path / "plane.npz"
    found = evaluate_plane(
        plane, scorer, plane.grid((3, 2)), points={"model": model}, paths={"curve": curve},
        posteriors={"SWAG": posterior}, path=path,
    )  # fmt: skip
    again = PlaneValues.load(path)
    assert again.fingerprint == found.fingerprint
    for name in ("alpha", "beta", "sq_norm"):
        assert np.array_equal(getattr(again, name), getattr(found, name))
    for group in ("values", "points", "paths", "heights"):
        assert getattr(again, group).keys() == getattr(found, group).keys()
        for key, value in getattr(found, group).items():
            assert np.array_equal(getattr(again, group)[key], value)
    assert np.array_equal(again.ellipses["SWAG"].cov, found.ellipses["SWAG"].cov)
    assert found.heights["curve"].shape == (201,) and found.paths["curve"].shape == (201, 2)

    path = tmp_path / "line.npz"
    profile = evaluate_along(curve, scorer, curve.equidistant(4), marks={"end": 1.0}, path=path)
    loaded = Profile.load(path)
    assert np.array_equal(loaded.values["loss / nats"], profile.values["loss / nats"])
    assert np.array_equal(loaded.distance, profile.distance) and loaded.marks == {"end": 1.0}


def test_files_of_something_else(tmp_path: Path) -> None:
    bowl, w = Bowl(), three_points()
    scorer, path = bowl_scorer(bowl), tmp_path / "line.npz"
    profile = evaluate_along(Line(w[0], w[1]), scorer, [0.0, 1.0], path=path)
    for other, t in ((Line(w[0], w[2]), [0.0, 1.0]), (Line(w[0], w[1]), [0.0, 0.5])):
        with pytest.raises(InputError, match=r"path: .*another plane or curve"):
            evaluate_along(other, scorer, t, path=path)
    with pytest.raises(FileError, match=r"holds 'swag\.profile'"):
        PlaneValues.load(path)
    with pytest.raises(FileError, match=r"ends in \.npz"):
        evaluate_along(Line(w[0], w[1]), scorer, [0.0, 1.0], path=tmp_path / "line.txt")
    whole = path.read_bytes()
    for damaged in (whole[:-40], b"", b"PK\x03\x04nothing", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"line\.npz"):
            Profile.load(path)
    profile.save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name, wrong in (
        ("distance", np.zeros(5)),
        ("t", np.zeros(2, dtype=np.float32)),
        ("header", np.array("3")),
    ):
        np.savez(path, **{**arrays, name: wrong})
        with pytest.raises(FileError, match=r"line\.npz"):
            Profile.load(path)
    np.savez(path, **{**arrays, "values.0": np.array([{}, {}], dtype=object)})
    with pytest.raises(FileError, match=r"line\.npz: cannot be read"):
        Profile.load(path)
    with pytest.raises(FileError, match="no such file"):
        Profile.load(tmp_path / "none.npz")


# Bad input


def test_bad_scorers() -> None:
    model, data = CASES[0].build(), batches(1, 4)
    with pytest.raises(InputError, match=r"measures: got \{\}"):
        Scorer(model, {})
    with pytest.raises(InputError, match="measures: 'loss' is a function"):
        Scorer(model, {"loss": F.cross_entropy})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="loader: is an iterator"):
        Measure(F.cross_entropy, iter(data))
    with pytest.raises(InputError, match="loader: is empty"):
        Measure(F.cross_entropy, [])
    with pytest.raises(InputError, match="function: got a str"):
        Measure("loss", data)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="chunk: got 0"):
        Scorer(model, {"loss": Measure(F.cross_entropy, data)}, chunk=0)
    normed = BATCHNORM_CASES[0].build()
    with pytest.raises(InputError, match="bn_loader: the model has 1 batch-norm layer"):
        Scorer(normed, {"loss": Measure(F.cross_entropy, data)})
    with pytest.raises(InputError, match="bn_loader: is an iterator"):
        Scorer(normed, {"loss": Measure(F.cross_entropy, data)}, bn_loader=iter(data))
    scorer = Scorer(model, {"loss": Measure(F.cross_entropy, data)})
    with pytest.raises(InputError, match="thetas: D=7"):
        scorer(torch.zeros(2, 7))
    with pytest.raises(InputError, match=r"measures: 'odd' returned shape \(4, 3\) for 4 rows"):
        Scorer(model, {"odd": Measure(first_output, data)})(torch.zeros(1, 51))


def test_bad_t_and_bad_curves() -> None:
    bowl, w = Bowl(), three_points()
    for t in ([], [0.5, 0.5], [1.0, 0.0], [[0.0]], [np.nan]):
        with pytest.raises(InputError, match="t: pass one or more"):
            evaluate_along(Line(w[0], w[1]), bowl_scorer(bowl), t)
    with pytest.raises(InputError, match=r"t: got 1\.5"):
        evaluate_along(Curve(w), bowl_scorer(bowl), [0.0, 1.5])
    with pytest.raises(InputError, match="along: got a Plane"):
        evaluate_along(Plane.through(*w), bowl_scorer(bowl), [0.0])  # type: ignore[arg-type]


def test_losses_that_are_not_finite_are_kept() -> None:
    def one_bad(outputs: Tensor, targets: Any) -> Tensor:
        return torch.where(outputs > 20, torch.nan, outputs)

    bowl, w = Bowl(), three_points()
    scorer = Scorer(bowl, {"loss": Measure(one_bad, [(torch.zeros(3), torch.zeros(3))])})
    found = evaluate_along(Line(w[0], w[1]), scorer, [-50.0, 0.0])
    assert np.isnan(found.values["loss"][0]) and np.isfinite(found.values["loss"][1])


def test_models_that_differ_in_frozen_parameters_span_no_line_and_no_plane() -> None:
    """Between them the frozen ones would be the scored model's, so the ends would not be these models."""
    models = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(3)]
    for model in models:
        model[0].requires_grad_(False)
    with pytest.raises(swag.InputError, match=r"^end: its parameter '0.weight' is not selected"):
        Line(models[0], models[1])
    with pytest.raises(swag.InputError, match=r"^second: its parameter '0.weight' is not selected"):
        Plane.through(*models)
    for model in models[1:]:
        model[0].load_state_dict(models[0][0].state_dict())
    assert Line(models[0], models[1]).start.numel() == Plane.through(*models).origin.numel() == 10


def test_a_barrier_is_measured_along_the_length() -> None:
    """A value that is linear in length has no barrier, however unevenly t goes."""
    distance = np.array([0.0, 1.0, 4.0, 9.0, 16.0])
    profile = Profile(np.linspace(0, 1, 5), distance, {"loss": 2 + 3 * distance}, distance)
    assert profile.barrier("loss") == pytest.approx(0, abs=1e-12)
    higher = Profile(profile.t, distance, {"loss": 2 + 3 * distance + np.eye(5)[2]}, distance)
    assert higher.barrier("loss") == pytest.approx(1)
    with pytest.raises(swag.InputError, match="no length"):
        Profile(np.zeros(1), np.zeros(1), {"loss": np.ones(1)}, np.ones(1)).barrier("loss")
