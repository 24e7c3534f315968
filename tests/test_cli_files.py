"""`swag fit`, `sample`, `merge`, `info`, `forecast`: from a folder of checkpoints to sampled checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import swag
from swag.cli import main
from tests.cases import Tied, batchnorm_1d, features, plain
from tests.test_checkpoints import WRITERS, run_of
from tests.test_files import assert_same_collector, assert_same_posterior

EPOCHS = [f"epoch{i}" for i in range(8, 14)]


def ok(*words: Any) -> None:
    assert main([str(word) for word in words]) == 0


def complaint(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def state_of(path: Path, kind: str) -> dict[str, torch.Tensor]:
    """What the original code would load."""
    if path.is_dir():
        found: dict[str, torch.Tensor] = {}
        for file in path.iterdir():
            if file.suffix == ".safetensors":
                found |= state_of(file, "safetensors")
            elif file.suffix == ".bin":
                found |= torch.load(file, weights_only=True)
        return found
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    document = torch.load(path, weights_only=True)
    if kind == "lightning":
        return {name.removeprefix("net."): t for name, t in document["state_dict"].items()}
    if kind in ("in a dict", "with its optimizer"):
        return document["model"]
    return {name.removeprefix("module."): t for name, t in document.items() if name != "n_averaged"}


def test_fit_writes_what_was_collected_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = plain()
    live = run_of(model, tmp_path / "run", rank=4)
    files = sorted((tmp_path / "run").iterdir())  # as a shell sorts them: epoch10 before epoch8
    assert files[0].stem == "epoch10"
    out = tmp_path / "p.safetensors"
    ok("fit", *files, "-o", out, "--rank", 4)
    assert "swag of 6 checkpoints, 51 parameters" in capsys.readouterr().out
    assert_same_posterior(swag.load(out), live.swag())
    swag.save(tmp_path / "live.safetensors", live.swag(), provenance=swag.files.describe(out).provenance)
    assert (tmp_path / "live.safetensors").read_bytes() == out.read_bytes()
    for kind, expected in [("swag-diag", live.swag_diag()), ("swa", live.swa())]:
        ok("fit", tmp_path / "run", "-o", out, "--as", kind)
        assert_same_posterior(swag.load(out), expected)
    ok("fit", tmp_path / "run" / "*.pt", "-o", out, "--as", "collector", "--rank", 4)
    assert_same_collector(swag.load(out), live)
    ok("fit", tmp_path / "run", "-o", out, "--scale", "0.1", "--rank", 4, "--select", "2")
    assert swag.load(out).layout.names == ("2.weight", "2.bias") and swag.load(out).scale == 0.1
    half = swag.Collector.for_layout(live.layout, 4, deviation_dtype=torch.bfloat16)
    ok("fit", tmp_path / "run", "-o", out, "--rank", 4, "--deviation-dtype", "bfloat16", "--on-disk")
    assert swag.load(out).rows.dtype == half.deviation_dtype
    assert sorted(p.name for p in tmp_path.iterdir()) == ["live.safetensors", "p.safetensors", "run"]


def test_fit_in_the_order_given(tmp_path: Path) -> None:
    run_of(plain(), tmp_path / "run", n=3)
    files = [tmp_path / "run" / f"epoch{i}.pt" for i in (10, 8, 9)]
    out = tmp_path / "c.safetensors"
    for words, order in ((["--in-order"], files), ([], sorted(files, key=lambda p: int(p.stem[5:])))):
        ok("fit", *files, "-o", out, "--as", "collector", *words)
        assert_same_collector(swag.load(out), swag.fit_checkpoints(order))


@pytest.mark.parametrize("kind", WRITERS)
def test_samples_load_into_the_original_code(kind: str, tmp_path: Path) -> None:
    model = batchnorm_1d()
    run_of(model, tmp_path / "run", kind)
    suffix = WRITERS[kind][0]
    base, out = tmp_path / "run" / f"epoch9{suffix}", tmp_path / "out"
    posterior_file = tmp_path / "p.safetensors"
    ok("fit", tmp_path / "run", "-o", posterior_file)
    ok("sample", posterior_file, "-n", 3, "--base", base, "-o", out, "--seed", 5, "--mean")
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [f"mean{suffix}", *(f"sample_000{i}{suffix}" for i in range(3))]
    )
    posterior = swag.load(posterior_file)
    drawn = posterior.sample(3, generator=torch.Generator().manual_seed(5))
    base_state = state_of(base, kind)
    for name, theta in [("mean", posterior.mean), *((f"sample_000{i}", drawn[i]) for i in range(3))]:
        state = state_of(out / f"{name}{suffix}", kind)
        assert state.keys() == base_state.keys()
        fresh = batchnorm_1d()
        fresh.load_state_dict(state)
        weights = {n.removeprefix("net."): t for n, t in posterior.layout.unflatten(theta).items()}
        for entry, parameter in fresh.named_parameters():
            assert torch.equal(parameter, weights[entry]), entry
        for entry in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
            assert torch.equal(state[entry], base_state[entry])
    if kind == "sharded":
        assert (out / "mean" / "config.json").read_text() == "{}"
        assert {p.name for p in (out / "mean").iterdir()} == {p.name for p in base.iterdir()}
    if kind == "lightning":
        document = torch.load(out / "mean.ckpt", weights_only=True)
        assert document["hyper_parameters"] == {"lr": 0.1} and document["epoch"] == 1


def test_a_sample_is_reproducible_by_itself(tmp_path: Path) -> None:
    run_of(plain(), tmp_path / "run")
    base = tmp_path / "run" / "epoch9.pt"
    ok("fit", tmp_path / "run", "-o", tmp_path / "a.safetensors")
    ok("fit", tmp_path / "run", "-o", tmp_path / "b.safetensors", "--as", "swag-diag")
    ok("merge", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-o", tmp_path / "m.safetensors")
    for name in ("a", "b", "m"):
        file = tmp_path / f"{name}.safetensors"
        ok("sample", file, "-n", 7, "--base", base, "-o", tmp_path / name)
        ok("sample", file, "--first", 5, "--base", base, "-o", tmp_path / f"{name}-alone")
        assert [p.name for p in (tmp_path / f"{name}-alone").iterdir()] == ["sample_0005.pt"]
        together = torch.load(tmp_path / name / "sample_0005.pt", weights_only=True)
        alone = torch.load(tmp_path / f"{name}-alone" / "sample_0005.pt", weights_only=True)
        assert all(torch.equal(alone[key], together[key]) for key in together)
        another = torch.load(tmp_path / name / "sample_0004.pt", weights_only=True)
        assert not torch.equal(another["0.weight"], together["0.weight"])


def test_dtypes_and_shared_tensors_of_the_base_stay(tmp_path: Path) -> None:
    model = Tied()
    run_of(model, tmp_path / "run")
    ok("fit", tmp_path / "run", "-o", tmp_path / "p.safetensors")
    half = Tied().bfloat16()
    torch.save({"model": half.state_dict()}, tmp_path / "base.pth")
    ok("sample", tmp_path / "p.safetensors", "--base", tmp_path / "base.pth", "-o", tmp_path / "out")
    state = torch.load(tmp_path / "out" / "sample_0000.pth", weights_only=True)["model"]
    assert {t.dtype for t in state.values()} == {torch.bfloat16}
    assert state["encoder.weight"].data_ptr() == state["decoder.weight"].data_ptr()
    assert (tmp_path / "out" / "sample_0000.pth").stat().st_size < 1.2 * (
        tmp_path / "base.pth"
    ).stat().st_size


def test_merge_is_a_mixture(tmp_path: Path) -> None:
    files, posteriors = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        live = run_of(plain(), tmp_path / f"run{seed}")
        files.append(tmp_path / f"{seed}.safetensors")
        ok("fit", tmp_path / f"run{seed}", "-o", files[-1], "--rank", 3)
        posteriors.append(live.swag())
    out = tmp_path / "multi.safetensors"
    ok("merge", *files, "-o", out)
    assert_same_posterior(swag.load(out), swag.Mixture(posteriors))
    ok("merge", *files, "-o", files[0], "--weights", 0.5, 0.25, 0.25)  # onto one of its own parts
    assert_same_posterior(swag.load(files[0]), swag.Mixture(posteriors, [0.5, 0.25, 0.25]))


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(plain(), tmp_path / "run")
    file = tmp_path / "p.safetensors"
    ok("fit", tmp_path / "run", "-o", file)
    capsys.readouterr()
    ok("info", file, "--layers")
    out = capsys.readouterr().out
    for words in (
        "low rank gaussian",
        "n_checkpoints: 6",
        "first_checkpoint: epoch8.pt",
        "4 parameters, 51 weights",
        "autocorrelation",
        "effective rank",
        "low-rank share",
        "warning: fewer than 10 snapshots (6)",
        "0.weight ",
        "[4, 8]",
    ):
        assert words in out, words
    ok("info", file, "--no-diagnosis")
    assert "effective" not in capsys.readouterr().out
    ok("fit", tmp_path / "run", "-o", file, "--as", "collector")
    ok("info", file)
    assert "collector of rank 20 after 6 snapshots" in capsys.readouterr().out
    ensemble = swag.Ensemble(plain(), swag.load(file).swag(), 3, seed=0)
    swag.save(file, ensemble)
    ok("info", file)
    assert "ensemble" in capsys.readouterr().out
    swag.save(file, swag.Mixture([swag.PointMass(torch.ones(3)), swag.PointMass(torch.zeros(3))]))
    ok("info", file)
    assert "mixture of 2: point mass" in capsys.readouterr().out


def test_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(nn.Linear(999, 1000).state_dict(), tmp_path / "x.pt")
    ok("forecast", tmp_path / "x.pt", "--rank", 10, "--deviation-dtype", "bfloat16")
    out = capsys.readouterr().out
    assert "1,000,000 parameters" in out and "32 MB" in out and "free here" in out
    ok("forecast", "--parameters", "7e9", "--rank", 10)
    assert "7,000,000,000 parameters" in capsys.readouterr().out


def test_complaints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(plain(), tmp_path / "run")
    file, base, out = tmp_path / "p.safetensors", tmp_path / "run" / "epoch9.pt", tmp_path / "out"
    ok("fit", tmp_path / "run", "-o", file)
    ok("fit", tmp_path / "run", "-o", tmp_path / "c.safetensors", "--as", "collector")
    swag.save(tmp_path / "nameless.safetensors", swag.PointMass(torch.ones(3)))
    torch.save(batchnorm_1d().state_dict(), tmp_path / "other.pt")
    capsys.readouterr()

    def says(*words: Any) -> str:
        return complaint(capsys, *words)

    assert "is one of the checkpoints" in says("fit", tmp_path / "run", "-o", base)
    assert "missing.pt: no such file" in says("fit", tmp_path / "missing.pt", "-o", file)
    assert "cannot be written" in says("fit", tmp_path / "run", "-o", tmp_path / "no" / "p.safetensors")
    assert "means nothing for --as swa" in says("fit", base, "-o", file, "--as", "swa", "--scale", 1)
    assert "needs 2 snapshots" in says("fit", base, "-o", file)
    assert "holds a collector" in says("sample", tmp_path / "c.safetensors", "--base", base, "-o", out)
    assert "has no names" in says("sample", tmp_path / "nameless.safetensors", "--base", base, "-o", out)
    assert "other.pt: tensor '0.weight' has shape (6, 8)" in says(
        "sample", file, "--base", tmp_path / "other.pt", "-o", out
    )
    assert "pass a number of samples" in says("sample", file, "-n", 0, "--base", base, "-o", out)
    assert "holds a collector" in says("merge", file, tmp_path / "c.safetensors", "-o", out)
    assert "number 1 is" in says("merge", file, tmp_path / "nameless.safetensors", "-o", out)
    assert "no such file" in says("info", tmp_path / "missing")
    assert "not one that swag.save wrote" in says("info", _weights(tmp_path))
    assert "pass a checkpoint, or --parameters" in says("forecast")
    assert "pass their number" in says("forecast", "--parameters", "nan")


def _weights(folder: Path) -> Path:
    from safetensors.torch import save_model

    save_model(plain(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def test_a_sampled_checkpoint_predicts_as_the_member_does(tmp_path: Path) -> None:
    model = plain()
    live = run_of(model, tmp_path / "run")
    ok("fit", tmp_path / "run", "-o", tmp_path / "p.safetensors", "--rank", 3)
    ok(
        "sample",
        tmp_path / "p.safetensors",
        "-n",
        2,
        "--base",
        tmp_path / "run" / "epoch8.pt",
        "-o",
        tmp_path,
    )
    ensemble = swag.Ensemble(model, live.swag(), 2, seed=0)
    fresh = plain()
    fresh.load_state_dict(torch.load(tmp_path / "sample_0001.pt", weights_only=True))
    assert torch.equal(fresh(features()), ensemble.member(1)(features()))
