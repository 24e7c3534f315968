"""An ensemble that was shipped is the one that was sent: weights, buffers, predictions, bit for bit."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import swag
from swag.files import save_swag
from tests.cases import CASES, Case, batchnorm_1d, features, plain, walk

ROOT = Path(__file__).resolve().parent.parent
LOADER = [features(20, seed=1), features(12, seed=2)]


def collected(model: nn.Module, n: int = 6, rank: int = 3, **settings: Any) -> swag.Collector:
    collector = swag.Collector(model, rank, **settings)
    for step in walk(model, n):
        collector.collect(step)
    return collector


def shipped(ensemble: swag.Ensemble, model: nn.Module, path: Path) -> swag.Ensemble:
    swag.save(path, ensemble)
    return swag.load(path, model=model)


def assert_same(got: swag.Ensemble, expected: swag.Ensemble) -> None:
    assert got.n_samples == expected.n_samples and got.layout.names == expected.layout.names
    assert torch.equal(got.thetas, expected.thetas)
    for index in range(expected.n_samples):
        mine, theirs = got.member(index).state_dict(), expected.member(index).state_dict()
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name].dtype == value.dtype and torch.equal(mine[name], value), name
    assert torch.equal(got(features()).log_probs, expected(features()).log_probs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_odd_model(case: Case, tmp_path: Path) -> None:
    model = case.build()
    ensemble = swag.Ensemble(
        model, collected(model).swag(), 3, bn_loader=LOADER if case.has_batchnorm else None, seed=0
    )
    # The receiver has the code, and an instance with other values.
    assert_same(shipped(ensemble, case.build(seed=7), tmp_path / "e"), ensemble)


def test_models_as_they_are(tmp_path: Path) -> None:
    models = [batchnorm_1d() for _ in range(3)]
    for index, model in enumerate(models):
        model(features(30, seed=index))  # moves the running statistics
    ensemble = swag.Ensemble.from_models(models)
    assert_same(shipped(ensemble, batchnorm_1d(), tmp_path / "e"), ensemble)


def test_only_a_part_was_sampled(tmp_path: Path) -> None:
    model = batchnorm_1d()
    collector = collected(model, select=["4"])
    ensemble = swag.Ensemble(model, collector.swag(), 3, bn_loader=LOADER, seed=0)
    assert_same(shipped(ensemble, batchnorm_1d(), tmp_path / "e"), ensemble)


def test_settings_travel(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    likelihood = swag.HeteroscedasticGaussian(min_variance=1e-3)
    posterior = collected(model).swag()
    ensemble = swag.Ensemble(model, posterior, 3, seed=0, likelihood=likelihood, autocast=torch.bfloat16)
    again = shipped(ensemble, model, tmp_path / "e")
    expected, got = ensemble(features()), again(features())
    assert torch.equal(got.mean, expected.mean) and torch.equal(got.variance, expected.variance)
    keeping = swag.Ensemble(plain(), collected(plain()).swag(), 3, seed=0, keep_members=True)
    again = shipped(keeping, plain(), tmp_path / "e")
    assert torch.equal(again(features()).member_probs, keeping(features()).member_probs)


def test_forward_is_given_again(tmp_path: Path) -> None:
    def forward(model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch["inputs"])

    model = plain()
    ensemble = swag.Ensemble(model, collected(model).swag(), 2, seed=0, forward=forward)
    swag.save(tmp_path / "e", ensemble)
    again = swag.load(tmp_path / "e", model=plain(), forward=forward)
    batch = {"inputs": features()}
    assert torch.equal(again(batch).log_probs, ensemble(batch).log_probs)


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    model = batchnorm_1d()
    swag.save(tmp_path / "e", swag.Ensemble(model, collected(model).swag(), 2, bn_loader=LOADER, seed=0))
    swag.save(tmp_path / "p", collected(model).swag())
    bare = nn.Sequential(nn.Linear(8, 6), nn.Identity(), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
    more = batchnorm_1d()
    more.extra = nn.Parameter(torch.ones(2))
    for other, match in [
        (None, "holds an ensemble; pass model="),
        (plain(), "has no parameter"),
        (bare, "has no parameter '1.weight'"),
        (more, "it has 'extra', which the ensemble lacks"),
        (batchnorm_1d().double(), "has torch.float64, the ensemble's torch.float32"),
    ]:
        with pytest.raises(swag.InputError, match=match):
            swag.load(tmp_path / "e", model=other)
    with pytest.raises(swag.InputError, match="holds no ensemble"):
        swag.load(tmp_path / "p", model=model)


def test_code_goes_into_no_file(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Own:
        def accumulator(self, *, keep_members: bool | None = None) -> Any:
            return swag.Categorical().accumulator()

    ensemble = swag.Ensemble(plain(), collected(plain()).swag(), 2, seed=0, likelihood=Own())
    with pytest.raises(swag.InputError, match="likelihood Own is no part of swag"):
        swag.save(tmp_path / "e", ensemble)


# --- the other laws of files -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "rank"), [(2, 3), (3, 3), (5, 3), (6, 3), (20, 7)])
def test_a_posterior_straight_from_the_collector(
    n: int, rank: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    collector = collected(plain(), n, rank, deviation_dtype=dtype)
    swag.save(tmp_path / "a", collector.swag(0.3))
    save_swag(tmp_path / "b", collector, 0.3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("n", "rank", "error"), [(1, 3, swag.StateError), (4, 1, swag.InputError)])
def test_a_collector_without_a_posterior(n: int, rank: int, error: type, tmp_path: Path) -> None:
    with pytest.raises(error):
        save_swag(tmp_path / "b", collected(plain(), n, rank))


def test_a_mapped_posterior_is_the_same(tmp_path: Path) -> None:
    posterior = swag.Mixture([collected(plain()).swag(), collected(plain(), 4).swag()])
    swag.save(tmp_path / "p", posterior)
    content = (tmp_path / "p").read_bytes()
    mapped = swag.load(tmp_path / "p", mapped=True)
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(mapped.sample(5, generator=seeds[0]), posterior.sample(5, generator=seeds[1]))
    mapped.posteriors[0].mean.add_(1)  # private
    assert (tmp_path / "p").read_bytes() == content


def test_provenance_is_kept_and_checked(tmp_path: Path) -> None:
    said = {"from": "a run", "epochs": 3, "rate": 0.1, "note": None}
    swag.save(tmp_path / "p", collected(plain()).swag(), provenance=said)
    assert swag.files.describe(tmp_path / "p").provenance == said
    with pytest.raises(swag.InputError, match="provenance"):
        swag.save(tmp_path / "p", collected(plain()).swag(), provenance={"model": plain()})  # type: ignore


def run_python(code: str, **more: Any) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, text=True, **more)


def test_two_processes_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "p"
    code = """
import sys, torch, swag
for _ in range(60):
    swag.save({path!r}, swag.PointMass(torch.full((20_000,), {value})))
"""
    writers = [run_python(code.format(path=str(path), value=value)) for value in (1.0, 2.0)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            mean = swag.load(path).mean
            assert mean.numel() == 20_000 and bool((mean == mean[0]).all())
            seen.add(float(mean[0]))
        time.sleep(0.005)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {1.0, 2.0} and seen
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("n_bytes", [1000, 100_000])
def test_a_killed_writer_leaves_the_old_file(n_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "p"
    swag.save(path, swag.PointMass(torch.zeros(3)))
    content = path.read_bytes()
    code = f"""
import os, signal, torch, swag
from swag import tensorfile
left = {n_bytes}
def write(file, view):
    global left
    file.write(view[:left])
    left -= len(view)
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
tensorfile._write = write
swag.save({str(path)!r}, swag.PointMass(torch.ones(100_000)))
"""
    assert run_python(code).wait() == -signal.SIGKILL
    assert path.read_bytes() == content
    assert torch.equal(swag.load(path).mean, torch.zeros(3))


@pytest.mark.parametrize("n_bytes", [0, 1, 8, 100, 5000, 20_000])
def test_a_disk_that_is_full_after_any_byte(
    n_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p"
    swag.save(path, swag.PointMass(torch.zeros(3)))
    content, left = path.read_bytes(), n_bytes

    def write(file: Any, view: memoryview) -> None:
        nonlocal left
        file.write(view[:left])
        if len(view) > left:
            raise OSError(28, "No space left on device")
        left -= len(view)

    monkeypatch.setattr(swag.tensorfile, "_write", write)
    with pytest.raises(swag.FileError, match="No space left on device"):
        swag.save(path, swag.PointMass(torch.ones(10_000)))
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]
