"""The map between z and the weights: PCA, random frames, curves, sketches, and what a collector gives."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import swag
from swag.errors import InputError, StateError
from swag.parameters import Layout
from swag.subspace import FrequentDirections, SketchedTrajectory, Subspace
from tests.checks import array, assert_close, assert_covariance_close
from tests.runs import seeded, trained


def rows(k: int, size: int, *, seed: int = 0) -> Tensor:
    """Rows of very different lengths."""
    scale = torch.logspace(0, -3, k)[:, None]
    return scale * torch.randn(k, size, generator=seeded(seed))


def test_lift_and_project() -> None:
    basis = rows(3, 7).T.double()
    space = Subspace(torch.arange(7.0).double(), basis)
    z = torch.randn(5, 3, generator=seeded(1)).double()
    theta = space.lift(z)
    assert_close(theta, np.arange(7.0) + array(z) @ array(basis).T, rtol=1e-12)
    assert_close(space.project(theta), z, rtol=1e-9)
    assert torch.equal(space.lift(z[0]), theta[0])
    away = theta + torch.randn(5, 7, generator=seeded(2)).double()
    nearest = np.linalg.lstsq(array(basis), (array(away) - np.arange(7.0)).T, rcond=None)[0].T
    assert_close(space.project(away), nearest, rtol=1e-8)
    assert space.project(theta[0]).shape == (3,)
    assert (space.k, space.size) == (3, 7)


def test_project_subtracts_in_float64_and_takes_any_dtype() -> None:
    offset = torch.full((3,), 1000.0, dtype=torch.float64) + 1e-6
    space = Subspace(offset, torch.eye(3, 2, dtype=torch.float64) * 1e-4)
    theta = torch.full((3,), 1000.0)  # float32, whose steps are 6e-5 there
    assert_close(space.project(theta), [-1e-2, -1e-2], rtol=1e-6)
    coarse = space.project(theta.bfloat16())
    assert coarse.dtype == torch.bfloat16
    assert_close(coarse.float(), [-1e-2, -1e-2], rtol=1e-2)
    whole = Subspace(torch.zeros(2), 4 * torch.eye(2)).project(torch.tensor([1, 2]))
    assert_close(whole, [0.25, 0.5], rtol=1e-6)


def test_lift_is_differentiable() -> None:
    space = Subspace(torch.zeros(4), torch.randn(4, 2, generator=seeded()))
    jacobian = torch.autograd.functional.jacobian(space.lift, torch.zeros(2))
    assert_close(jacobian, space.basis, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pca_is_numpys_svd(dtype: torch.dtype) -> None:
    deviations = rows(6, 500).to(dtype)
    space = Subspace.from_deviations(torch.zeros(500), deviations, 4)
    _, s, vt = np.linalg.svd(array(deviations) / np.sqrt(5), full_matrices=False)
    assert_close(space.norms, s[:4], rtol=1e-6)
    directions = array(space.basis / space.norms)
    assert_close(np.abs((directions * vt[:4].T).sum(0)), np.ones(4), rtol=1e-6)
    signs = np.sign((directions * vt[:4].T).sum(0))
    assert_close(array(space.basis), vt[:4].T * s[:4] * signs, rtol=2e-6, scale=s[:4])
    largest = array(space.basis)[np.abs(array(space.basis)).argmax(0), range(4)]
    assert (largest > 0).all()


def test_pca_reads_wide_rows_in_pieces() -> None:
    size = (1 << 18) + 1000
    deviations = torch.randn(3, size, generator=seeded())
    space = Subspace.from_deviations(torch.zeros(size), list(deviations), 3)
    assert_close(
        space.basis.double().norm(dim=0),
        np.linalg.svd(array(deviations) / np.sqrt(2), False, False),
        rtol=1e-5,
    )
    gram = array(space.basis.T) @ array(space.basis)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-3


def test_a_collectors_subspace() -> None:
    collector = trained(12, rank=8)
    space = collector.subspace(3)
    assert torch.equal(space.offset, collector.mean)
    assert space.layout == collector.layout
    _, s, vt = np.linalg.svd(array(collector.deviations) / np.sqrt(7), full_matrices=False)
    assert_close(
        array(space.basis @ space.basis.T), (vt[:3].T * s[:3] ** 2) @ vt[:3], rtol=1e-5, scale=s[0] ** 2
    )


def test_z_normal_is_swags_low_rank_part() -> None:
    """With k all rows, P Pᵀ is D̂ᵀD̂/(K−1): SWAG's low-rank covariance at scale 1."""
    collector = trained(9, rank=5)
    space = collector.subspace(5)
    factor = collector.swag(scale=1.0).cov_factor
    assert_close(
        space.basis @ space.basis.T, factor @ factor.T, rtol=1e-5, scale=float((factor @ factor.T).max())
    )


def test_fewer_snapshots_than_rank(caplog: pytest.LogCaptureFixture) -> None:
    """The first row is zero, so K rows span K − 1 directions; the last has no length, and this is said."""
    collector = trained(4, rank=20)
    space = collector.subspace(4)
    assert float(space.norms[3]) < 1e-6 * float(space.norms[0])
    assert "1 of the 4 directions" in caplog.text
    z = torch.tensor([1.0, -2.0, 0.5, 7.0])
    assert_close(space.project(space.lift(z)), torch.tensor([1.0, -2.0, 0.5, 0.0]), rtol=1e-3, scale=1.0)


def test_k_larger_than_the_rows_present() -> None:
    with pytest.raises(InputError, match=r"k: got 5 with 4 deviation rows present; pass 1 to 4"):
        trained(4, rank=20).subspace(5)
    with pytest.raises(InputError, match="k: got 0"):
        trained(4).subspace(0)
    with pytest.raises(StateError, match="2 snapshots"):
        trained(1).subspace(1)


def test_the_random_subspaces_scale_is_its_definition() -> None:
    pca = trained(12, rank=8).subspace(4)
    twin = pca.random_twin(generator=seeded(1))
    gram = array(twin.basis).T @ array(twin.basis)
    assert_close(
        gram, np.eye(4) * float(pca.norms.mean()) ** 2, rtol=1e-5, scale=float(pca.norms.mean()) ** 2
    )
    assert torch.equal(twin.offset, pca.offset)
    assert twin.layout == pca.layout
    assert torch.equal(twin.basis, pca.random_twin(generator=seeded(1)).basis)
    assert not torch.equal(twin.basis, pca.random_twin(generator=seeded(2)).basis)


def test_a_random_frame_around_half_precision_weights() -> None:
    space = Subspace.random(torch.zeros(400, dtype=torch.bfloat16), 3, norm=2.0, generator=seeded())
    assert space.basis.dtype == torch.bfloat16
    assert_close(space.basis.float().T @ space.basis.float(), 4 * np.eye(3), rtol=1e-2, scale=4.0)


def test_random_frames_are_uniformly_distributed() -> None:
    """√D times a column of a uniform frame has covariance I."""
    columns = torch.stack(
        [Subspace.random(torch.zeros(3), 2, generator=seeded(i)).basis[:, 1] for i in range(800)]
    )
    moments = array(columns * 3**0.5)
    assert_covariance_close(moments, np.eye(3), mean=np.zeros(3))
    assert np.abs(moments.mean(0)).max() < 5 / np.sqrt(800)


def test_a_curves_plane() -> None:
    w = torch.randn(3, 6, generator=seeded()).double()
    space = Subspace.from_curve(w)
    u = array(w[2] - w[0])
    v = array(w[1] - w[0])
    v = v - u * (v @ u) / (u @ u)
    assert_close(space.offset, array(w).mean(0), rtol=1e-12)
    assert_close(space.basis, np.stack([u / np.sqrt(3), v / 1.5], 1), rtol=1e-12)
    assert abs(float(space.basis[:, 0] @ space.basis[:, 1])) < 1e-12
    z = space.project(w)  # the three points lie in the plane
    assert_close(space.lift(z), w, rtol=1e-9)
    assert torch.equal(Subspace.from_curve(list(w)).basis, space.basis)


def test_a_curve_object_brings_its_points_and_layout() -> None:
    class Curve:
        points = torch.randn(3, 8, generator=seeded())
        layout = Layout.of(nn.Linear(3, 2))

    assert Subspace.from_curve(Curve()).layout == Curve.layout


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(2, 4), "got 2 points"),
        (torch.zeros(3, 4), "end points coincide"),
        (torch.arange(3.0)[:, None] * torch.ones(4), "on one line"),
        ([torch.zeros(3), torch.zeros(4), torch.zeros(3)], "differ in shape"),
        ("curve", "curve: got str"),
    ],
)
def test_bad_curves(points: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Subspace.from_curve(points)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subspace(torch.zeros(3), torch.zeros(4, 2)), "basis: got shape"),
        (lambda: Subspace(torch.zeros(3), torch.zeros(3, 0)), "k ≥ 1"),
        (lambda: Subspace(torch.zeros(3), torch.full((3, 1), torch.nan)), "basis: not finite"),
        (lambda: Subspace(torch.zeros(3), torch.ones(3, 1), layout=Layout.of(nn.Linear(3, 3))), "layout"),
        (lambda: Subspace(torch.zeros(3), torch.ones(3, 1)).lift(torch.zeros(2)), "z: got shape"),
        (lambda: Subspace(torch.zeros(3), torch.ones(3, 1)).project(torch.zeros(2)), "theta: got shape"),
        (lambda: Subspace.random(torch.zeros(3), 4), "k: got 4"),
        (lambda: Subspace.random(torch.zeros(3), 2, norm=0.0), "norm: got 0.0"),
        (lambda: Subspace.from_deviations(torch.zeros(3), torch.zeros(4, 3), 2), "never moved"),
        (lambda: Subspace.from_deviations(torch.zeros(3), torch.zeros(1, 3), 1), "got 1 row"),
        (lambda: FrequentDirections(3, 0), "rank: got 0"),
        (lambda: FrequentDirections(3, 2).update(torch.zeros(4)), "row: got shape"),
        (lambda: FrequentDirections(3, 2).update(torch.full((3,), torch.inf)), "row: holds NaN"),
    ],
)
def test_bad_input(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_the_top_level_names() -> None:
    assert swag.subspace.Subspace is Subspace


# --- Frequent directions


@pytest.mark.parametrize("n", [7, 40, 300])
def test_the_sketchs_bound_holds(n: int) -> None:
    """0 ≤ AᵀA − BᵀB ≤ Σδ ≤ ‖A − A_j‖²_F/(ℓ + 1 − j), for every j ≤ ℓ."""
    size, rank = 30, 8
    generator = seeded(n)
    a = (
        torch.randn(n, 5, generator=generator).double()
        @ torch.randn(5, size, generator=generator).double()
        * 2
    )
    a += torch.randn(n, size, generator=generator).double()
    sketch = FrequentDirections(size, rank, dtype=torch.float64)
    for row in a:
        sketch.update(row)
    b = array(sketch.rows)
    assert len(b) <= rank
    off = np.linalg.eigvalsh(array(a).T @ array(a) - b.T @ b)
    total = float(a.square().sum())
    assert off.min() >= -1e-10 * total
    assert off.max() <= sketch.error_bound + 1e-10 * total
    s = np.linalg.svd(array(a), compute_uv=False)
    for j in range(rank + 1):
        assert sketch.error_bound <= (s[j:] ** 2).sum() / (rank + 1 - j) + 1e-10 * total
    if n > 2 * rank:
        assert off.max() > 0.05 * sketch.error_bound, "the bound is no empty one"
    else:
        assert n > rank or sketch.error_bound == 0


def test_reading_a_sketch_leaves_its_information() -> None:
    a = torch.randn(6, 20, generator=seeded()).double()
    sketch = FrequentDirections(20, 8, dtype=torch.float64)
    for row in a:
        sketch.update(row)
        once = sketch.rows
        assert torch.equal(once, sketch.rows)
    assert_close(once.T @ once, a.T @ a, rtol=1e-12, scale=float((a.T @ a).max()))
    gram = array(once @ once.T)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-10
    assert (np.diff(np.diag(gram)) <= 1e-10).all()


def test_a_sketched_trajectory_is_pca_of_the_whole_run() -> None:
    """Around the final mean, all snapshots and not the last K alone; exact while the rank is enough."""
    model = nn.Linear(5, 3)
    directions = torch.randn(3, 18, generator=seeded())
    weights = torch.randn(60, 3, generator=seeded(1)) * torch.tensor([5.0, 2.0, 1.0])
    layout = Layout.of(model)
    thetas = 10 + weights @ directions
    run = SketchedTrajectory(model, rank=6)
    for theta in thetas:
        layout.write_(model, theta)
        run.collect(model)
    centred = array(thetas) - array(thetas).mean(0)
    covariance = centred.T @ centred / 59
    space = run.subspace(3)
    assert_close(run.mean, array(thetas).mean(0), rtol=1e-6)
    assert_close(space.basis @ space.basis.T, covariance, rtol=1e-5, scale=covariance.max())
    assert run.error_bound < 1e-8 * covariance.max() * 18
    assert space.layout == layout
    with pytest.raises(InputError, match="in the sketch"):
        run.subspace(7)
    before, kept = run.n_collected, run.mean
    layout.write_(model, torch.full((18,), torch.nan))
    with pytest.raises(InputError, match="NaN"):
        run.collect(model)
    assert run.n_collected == before
    assert torch.equal(run.mean, kept)


def test_a_sketch_needs_two_snapshots() -> None:
    run = SketchedTrajectory(nn.Linear(2, 1))
    with pytest.raises(StateError, match="no snapshot"):
        _ = run.mean
    run.collect(nn.Linear(2, 1))
    with pytest.raises(StateError, match="2 snapshots"):
        run.subspace(1)
