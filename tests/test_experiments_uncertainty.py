"""The experiment on uncertainty: corruptions, Laplace, VI and HMC against truths, and its path on digits.

Past 250 lines because the one small run, which takes most of the time, serves all the tests of the path.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, hessian
from torch.nn import functional as F

import swag
from experiments import corruptions, record
from experiments.corruptions import CORRUPTIONS, SEVERITIES
from experiments.uncertainty import basins, cifar10h, run, scores, table, toy
from experiments.uncertainty.laplace import CURVATURES, sampled_logits, with_one
from experiments.uncertainty.networks import convnet
from experiments.uncertainty.recipes import QUICK
from experiments.uncertainty.study import slug
from experiments.uncertainty.tasks import FIVE, Shuffled, tasks
from experiments.uncertainty.variational import divergence_from

# --- corruptions


def pictures(n: int = 64) -> Tensor:
    """Smooth blobs in an upright rectangle on black, from 0 to 1, 28 × 28."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 1, 5, 5, generator=generator)
    inside = F.interpolate(coarse, size=(18, 8), mode="bilinear")
    return F.pad(inside, (10, 10, 5, 5))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_severity_and_are_reproducible(name: str) -> None:
    images = pictures()
    before = images.clone()
    made = [CORRUPTIONS[name](images, s, torch.Generator().manual_seed(1)) for s in SEVERITIES]
    again = CORRUPTIONS[name](images, 3, torch.Generator().manual_seed(1))
    assert torch.equal(images, before) and torch.equal(made[2], again)
    assert all(x.shape == images.shape and float(x.min()) >= 0 and float(x.max()) <= 1 for x in made)
    distances = [float((x - images).square().mean()) for x in made]
    assert distances[0] > 0 and all(a < b for a, b in itertools.pairwise(distances))


@pytest.mark.parametrize("name", ["noise", "rotation", "translation"])
def test_random_corruptions_depend_on_the_generator(name: str) -> None:
    a, b = (CORRUPTIONS[name](pictures(), 3, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert not torch.equal(a, b)


def test_what_the_corruptions_are() -> None:
    images = pictures()
    generator = torch.Generator().manual_seed(0)
    noisy = corruptions.noise(torch.full((20, 1, 28, 28), 0.5), 1, generator)
    assert abs(float(noisy.std()) - corruptions.NOISE[0]) < 0.002  # 15,680 draws: 0.0003
    flat = torch.full((1, 1, 28, 28), 0.3)
    torch.testing.assert_close(corruptions.blur(flat, 5, generator), flat)
    lower = corruptions.contrast(images, 5, generator)
    torch.testing.assert_close(lower.mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(lower.std((1, 2, 3)), corruptions.CONTRAST[4] * images.std((1, 2, 3)))
    moved = corruptions.translation(images, 3, generator)
    by = corruptions.TRANSLATION[2]
    ways = [images.roll((d, r), (2, 3)) for d in (-by, by) for r in (-by, by)]  # the edges are black
    fits = torch.stack([(moved == way).all(-1).all(-1)[:, 0] for way in ways])
    assert torch.equal(fits.sum(0), torch.ones(len(images), dtype=torch.long)) and bool(fits.any(1).all())
    smooth = corruptions.blur(images, 5, generator)
    turned = corruptions.rotation(smooth, 1, generator)
    back = torch.zeros(len(images), dtype=torch.bool)
    for degrees in (-10.0, 10.0):  # a turn back gives nearly the image itself
        angle = torch.deg2rad(torch.tensor(degrees))
        matrix = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]])
        grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
        again = F.grid_sample(turned, grid, align_corners=False)
        back |= (again - smooth).square().mean((1, 2, 3)) < 0.003 * smooth.square().mean((1, 2, 3))
    assert bool(back.all())


# --- tasks


def test_the_five_classes_are_the_papers_and_the_others_are_foreign() -> None:
    both = tasks(QUICK, None, "cpu")
    ten, five = both["ten"], both["five"]
    inside = torch.isin(ten.test.labels, torch.tensor(FIVE))
    assert len(five.test) == int(inside.sum()) and five.n_classes == 5 and five.grey is None
    assert torch.equal(torch.tensor(FIVE)[five.test.labels], ten.test.labels[inside])
    assert torch.equal(five.ood["other five classes"], ten.test.images[~inside])
    assert {k: v.shape[:2] for k, v in ten.shifted.items()} == {k: (5, len(ten.grey)) for k in CORRUPTIONS}
    loader = Shuffled(ten.train, 50, seed=0)
    labels = torch.cat([y for _, y in loader])
    assert torch.equal(labels.sort().values, ten.train.labels.sort().values) and len(loader) == 18


# --- Laplace


def last_layer(n: int = 40, width: int = 3, n_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Features with a 1 (N, F + 1), weights (C, F + 1)."""
    generator = torch.Generator().manual_seed(0)
    features = with_one(torch.randn(n, width, generator=generator))
    return features, torch.randn(n_classes, width + 1, dtype=torch.float64, generator=generator)


def covariance(name: str, features: Tensor, weight: Tensor, precision: float) -> Tensor:
    """What `sample` draws with, exactly: it is linear in the noise, so basis vectors give its factor."""
    curvature = CURVATURES[name].of(features, torch.softmax(features @ weight.T, 1))
    basis = torch.eye(weight.numel(), dtype=torch.float64).view(-1, *weight.shape)
    factor = curvature.sample(precision, basis).flatten(1)
    return factor.T @ factor


@pytest.mark.parametrize("precision", [0.1, 10.0])
def test_the_full_last_layer_covariance_is_the_inverse_hessian(precision: float) -> None:
    features, weight = last_layer()
    labels = torch.arange(len(features)) % 4

    def energy(flat: Tensor) -> Tensor:
        logits = features @ flat.view_as(weight).T
        return F.cross_entropy(logits, labels, reduction="sum") + precision / 2 * flat.square().sum()

    expected = torch.linalg.inv(hessian(energy)(weight.flatten()))
    torch.testing.assert_close(covariance("full", features, weight, precision), expected)


def test_the_diagonal_and_kronecker_covariances_against_dense_matrices() -> None:
    features, weight = last_layer()
    probs = torch.softmax(features @ weight.T, 1)
    outer = torch.stack([torch.diag(p) - torch.outer(p, p) for p in probs])
    inner = features[:, :, None] * features[:, None]
    whole = sum(torch.kron(a, b) for a, b in zip(outer, inner, strict=True))
    identity = torch.eye(weight.numel(), dtype=torch.float64)
    diagonal = torch.linalg.inv(torch.diag(whole.diagonal()) + 2 * identity)
    torch.testing.assert_close(covariance("diagonal", features, weight, 2.0), diagonal)
    product = torch.kron(len(features) * outer.mean(0), inner.mean(0))
    kronecker = torch.linalg.inv(product + 2 * identity)
    torch.testing.assert_close(covariance("KFAC", features, weight, 2.0), kronecker)


def test_sampled_logits_have_the_linear_models_covariance() -> None:
    features, weight = last_layer(width=2, n_classes=3)
    curvature = CURVATURES["full"].of(features, torch.softmax(features @ weight.T, 1))
    n = 20_000
    logits = sampled_logits(weight, curvature, 1.0, features[:1], n, seed=0)[:, 0]
    jacobian = torch.kron(torch.eye(3, dtype=torch.float64), features[:1])
    expected = jacobian @ covariance("full", features, weight, 1.0) @ jacobian.T
    scale = float(expected.diagonal().max())
    torch.testing.assert_close(logits.T.cov(), expected, rtol=0, atol=6 * scale * (2 / n) ** 0.5)
    torch.testing.assert_close(logits.mean(0), weight @ features[0], rtol=0, atol=5 * (scale / n) ** 0.5)


# --- variational inference, HMC and the distance to it


def test_the_divergence_is_torchs() -> None:
    mean, log_std = torch.tensor([0.3, -1.0]), torch.tensor([-2.0, 0.1])
    torch.testing.assert_close(
        divergence_from(mean, log_std, 0.25),
        torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 0.5)
        ).sum(),
    )


def test_the_batch_of_small_networks_is_the_module() -> None:
    model = toy.model()
    layout = swag.Layout.of(model)
    theta, x = toy.starts(3, seed=0), torch.linspace(-2, 2, 7)
    for row, found in zip(theta, toy.outputs(theta, x), strict=True):
        expected = functional_call(model, layout.unflatten(row), (x[:, None],))[:, 0]
        torch.testing.assert_close(found, expected)


def test_hmc_samples_the_prior_where_there_are_no_data() -> None:
    effort = toy.Effort(chains=40, warm_up=60, draws=30, thinning=1, leapfrog=10, steps=4)
    draws, accepted = toy.hmc(torch.zeros(0), torch.zeros(0), effort, seed=0)
    assert accepted > 0.5
    # 40 chains of 141 independent normals, of which only the last draws are looked at: 5,640 numbers.
    last = draws[:, -1].flatten()
    assert abs(float(last.mean())) < 5 / len(last) ** 0.5
    assert abs(float(last.var()) - 1) < 5 * (2 / len(last)) ** 0.5


def test_the_distance_of_shifted_samples_is_the_shift() -> None:
    functions = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    assert toy.wasserstein(functions, functions) == 0
    assert abs(toy.wasserstein(functions + 0.25, functions) - 0.25) < 1e-6


# --- scores, tables and the path through everything


def test_scores_at_temperature_one_are_the_raw_ones() -> None:
    probs = torch.softmax(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), 1)
    found = scores.rows(probs, 1.0, torch.arange(50) % 4)
    for key in ("nll", "ece", "brier"):
        assert found[f"{key} scaled"] == pytest.approx(found[key], abs=1e-12)
    assert scores.rows(probs, 3.0, torch.arange(50) % 4)["accuracy"] == found["accuracy"]


def test_intervals_are_students() -> None:
    mean, half = table.interval([1.0, 2.0, 3.0])
    assert (mean, round(half, 3)) == (2.0, 2.484)  # 4.303·1/√3


def test_dropout_layers_are_there_only_where_they_are_wanted() -> None:
    plain, dropped = (convnet((4, 4, 4), (1, 2, 1), 10, dropout=p) for p in (0.0, 0.2))
    count = [sum(isinstance(m, torch.nn.Dropout) for m in net) for net in (plain, dropped)]
    assert count == [0, 3]
    shapes = [[tuple(p.shape) for p in net.parameters()] for net in (plain, dropped)]
    assert shapes[0] == shapes[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole small run."""
    folder = tmp_path_factory.mktemp("uncertainty")
    call("--quick", "--out", folder)
    return folder


def call(*words: object) -> tuple[str, str]:
    """The script in this process: what it prints on standard output and on standard error."""
    threads, before = torch.get_num_threads(), sys.argv
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["run.py", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert run.main() == 0
    finally:
        sys.argv = before
        torch.set_num_threads(threads)
    return out.getvalue(), err.getvalue()


def test_quick_has_every_method_and_section(finished: Path) -> None:
    printed, _ = call("--table", "--out", finished)
    for method in ("SGD", "last-layer Laplace, full", "cyclical SG-MCMC", "MultiSWAG"):
        assert f"| {method} | 2 |" in printed
    headings = [line for line in printed.splitlines() if line.startswith("### ")]
    assert len(headings) == 7 and headings[-1] == "### Settings"
    call("--plots", "--out", finished)
    names = {path.name for path in (finished / "figures").iterdir()}
    assert names == {"shift.svg", "entropy_ten.svg", "entropy_five.svg", "basins.svg"}


def test_it_goes_on_with_what_is_missing(finished: Path) -> None:
    gone = finished / f"ten-0-{slug('SWAG-diag')}.json"
    kept = finished / "ten-0-swag.json"
    before, stamp = json.loads(gone.read_text()), kept.stat().st_mtime_ns
    gone.unlink()
    _, said = call("--quick", "--out", finished)
    assert json.loads(gone.read_text())["scores"] == before["scores"]
    assert kept.stat().st_mtime_ns == stamp and "ten-0-swag-diag" in said and "trained" not in said


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"version": 0}, "has version 0 of the format"), ({"settings": {}}, "results of other settings")],
)
def test_other_results_are_refused(finished: Path, changes: dict[str, Any], complaint: str) -> None:
    path = finished / "ten-0-swag.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | changes))
    try:
        with pytest.raises(SystemExit, match=complaint):
            call("--quick", "--out", finished)
    finally:
        path.write_text(whole)


def test_several_basins_end_with_the_same_networks_in_every_order(finished: Path) -> None:
    content = record.read(finished / "basins.json", basins.BASINS)
    images = {row["method"]: row for row in content["images"]["rows"]}
    assert images["deep ensemble"]["networks"][-1] == 4 and images["MultiSWAG"]["networks"][-1] == 12
    ends = [runs[-1] for runs in images["MultiSWAG"]["nll"]]
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    starts = [runs[0] for runs in images["MultiSWAG"]["nll"]]
    assert starts[0] != pytest.approx(starts[1], rel=1e-3)


def test_without_a_data_folder_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="SWAG_DATA"):
        call("--data-dir", tmp_path / "none", "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_people_are_asked_on_a_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cifar10h.py"])
    with pytest.raises(SystemExit, match="--device cuda"):
        cifar10h.main()
    monkeypatch.setattr(sys, "argv", ["cifar10h.py", "--quick"])
    assert cifar10h.main() == 0
    lines = capsys.readouterr().out.splitlines()
    methods = ("SGD", "SWA", "SWAG", "deep ensemble", "MultiSWAG")
    assert len(lines) == 5
    assert all(line.startswith(f"0 {name} accuracy") for line, name in zip(lines, methods, strict=True))


def test_the_readmes_tables_come_from_the_results() -> None:
    folder = run.HERE
    if not list((folder / "results").glob("ten-*.json")):
        pytest.skip("no results yet")
    text = (folder / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- tables -->")[1].split("<!-- end -->")[0]
    assert shown.strip() == table.tables(folder / "results").strip()
