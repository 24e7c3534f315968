"""A posterior fitted from files is the one collected live, bit for bit, whatever the files' format."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

import swag
from swag.checkpoints import expand, natural_key, open_checkpoint
from tests.cases import CASES, WRAPPERS, Case, Tied, batchnorm_1d, plain, walk

Writer = Callable[[nn.Module, Path], None]


def write_sharded(model: nn.Module, path: Path) -> None:
    """As Hugging Face's libraries do: shards, an index, a configuration."""
    path.mkdir()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = list(state)
    places = {
        name: f"model-0000{1 + 2 * i // len(names)}-of-00002.safetensors" for i, name in enumerate(names)
    }
    for shard in set(places.values()):
        part = {name: state[name].contiguous() for name in names if places[name] == shard}
        save_file(part, path / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text("{}")


def write_sharded_pickles(model: nn.Module, path: Path) -> None:
    path.mkdir()
    state = model.state_dict()
    names = list(state)
    places = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
    for shard in set(places.values()):
        torch.save({name: state[name] for name in names if places[name] == shard}, path / shard)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))


def write_folder(model: nn.Module, path: Path) -> None:
    path.mkdir()
    save_model(model, path / "model.safetensors")
    torch.save({"state": {}, "param_groups": []}, path / "optimizer.pt")


def write_lightning(model: nn.Module, path: Path) -> None:
    state = {f"net.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(
        {
            "epoch": 1,
            "pytorch-lightning_version": "2.6.0",
            "state_dict": state,
            "ema_state": {name: tensor * 0 for name, tensor in state.items()},
            "hyper_parameters": {"lr": 0.1},
        },
        path,
    )


WRITERS: dict[str, tuple[str, Writer]] = {
    "safetensors": (".safetensors", lambda model, path: save_model(model, path)),
    "state_dict": (".pt", lambda model, path: torch.save(model.state_dict(), path)),
    "old format": (
        ".pth",
        lambda model, path: torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False),
    ),
    "in a dict": (
        ".pt",
        lambda model, path: torch.save({"epoch": 3, "model": model.state_dict(), "loss": 0.5}, path),
    ),
    "with its optimizer": (
        ".pth",
        lambda model, path: torch.save(
            {"model": model.state_dict(), "optimizer": torch.optim.SGD(model.parameters(), 0.1).state_dict()},
            path,
        ),
    ),
    "lightning": (".ckpt", write_lightning),
    "sharded": ("", write_sharded),
    "sharded pickles": ("", write_sharded_pickles),
    "folder": ("", write_folder),
    "wrapped": (".pt", lambda model, path: torch.save(nn.DataParallel(model).state_dict(), path)),
    "averaged": (
        ".pt",
        lambda model, path: torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), path),
    ),
}


def run_of(
    model: nn.Module, folder: Path, kind: str = "state_dict", n: int = 6, rank: int = 3, **settings: Any
):
    """A made-up training run: its checkpoints in `folder`, and its collector."""
    suffix, write = WRITERS[kind]
    folder.mkdir(exist_ok=True)
    collector = swag.Collector(model, rank, **settings)
    for epoch, step in enumerate(walk(model, n), start=8):
        collector.collect(step)
        write(step, folder / f"epoch{epoch}{suffix}")
    return collector


def assert_same(got: swag.Collector, expected: swag.Collector) -> None:
    mine, theirs = got.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, Tensor):
            assert mine[name].dtype == value.dtype and torch.equal(mine[name], value), name
        else:
            assert mine[name] == value, name


def samples(posterior: swag.Posterior, n: int = 3) -> Tensor:
    return posterior.sample(n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("rank", [0, 3, 20])
def test_every_format_gives_the_live_collector(kind: str, rank: int, tmp_path: Path) -> None:
    model = batchnorm_1d()
    live = run_of(model, tmp_path / "run", kind, rank=rank)
    fitted = swag.fit_checkpoints(tmp_path / "run", rank, model=model)
    assert_same(fitted, live)
    if rank:
        assert torch.equal(samples(fitted.swag()), samples(live.swag()))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", ["safetensors", "state_dict"])
def test_every_odd_model_with_and_without_the_model(case: Case, kind: str, tmp_path: Path) -> None:
    model = case.build()
    live = run_of(model, tmp_path / "run", kind)
    assert_same(swag.fit_checkpoints(tmp_path / "run", 3, model=model), live)
    alone = swag.fit_checkpoints(tmp_path / "run", 3)
    mine, theirs = alone.layout.unflatten(alone.mean), live.layout.unflatten(live.mean)
    for name in set(mine) & set(theirs):
        assert torch.equal(mine[name].to(theirs[name].dtype), theirs[name]), name
    assert not any("running" in name or "num_batches" in name for name in alone.layout.names)
    # It meets the model by name, whatever the order.
    alone.layout.write_(model, alone.mean)
    assert sum(p.numel() for p in model.parameters()) == alone.layout.size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    model = plain().to(dtype)
    live = run_of(model, tmp_path / "run", "safetensors")
    assert_same(swag.fit_checkpoints(tmp_path / "run", 3, model=model), live)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_on_disk_and_in_bfloat16(dtype: torch.dtype, tmp_path: Path) -> None:
    model = plain()
    live = run_of(model, tmp_path / "run", deviation_dtype=dtype)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fitted = swag.fit_checkpoints(
        tmp_path / "run", 3, model=model, deviation_dtype=dtype, deviation_folder=scratch
    )
    assert_same(fitted, live)
    assert list(scratch.iterdir()) == []  # nothing is left behind, even by a killed process
    for step in walk(model, 2, seed=5):
        fitted.collect(step)
        live.collect(step)
    assert_same(fitted, live)


def test_a_folder_that_cannot_take_the_rows(tmp_path: Path) -> None:
    with pytest.raises(swag.FileError, match=r"deviation_folder: .*missing cannot take"):
        swag.Collector(plain(), 3, deviation_folder=tmp_path / "missing").collect(plain())


def test_tensors_larger_than_a_piece_and_not_contiguous(tmp_path: Path) -> None:
    model = nn.Module()
    model.large = nn.Parameter(torch.randn(700, 1000))
    model.turned = nn.Parameter(torch.randn(600, 500).t())
    live = run_of(model, tmp_path / "run", n=4)
    assert_same(swag.fit_checkpoints(tmp_path / "run", 3, model=model), live)
    write_sharded(model, tmp_path / "sharded")
    with open_checkpoint(tmp_path / "sharded") as file:
        got = file.piece("turned", 1000, 300_000)
        assert torch.equal(got, model.turned.detach().reshape(-1)[1000:300_000])


@pytest.mark.parametrize("wrapper", ["DataParallel", "AveragedModel", "compile"])
@pytest.mark.parametrize("with_model", [True, False])
def test_wrappers_do_not_show(wrapper: str, with_model: bool, tmp_path: Path) -> None:
    model = plain()
    run_of(WRAPPERS[wrapper](model), tmp_path / "run")
    fitted = swag.fit_checkpoints(tmp_path / "run", 3, model=model if with_model else None)
    assert fitted.layout.names == swag.Layout.of(model).names


def test_what_is_left_out_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = batchnorm_1d()
    run_of(model, tmp_path / "run")
    with caplog.at_level(logging.INFO, "swag"):
        fitted = swag.fit_checkpoints(tmp_path / "run")
    assert "leaves out 3 tensors" in caplog.text and "1.running_mean" in caplog.text
    assert fitted.layout == swag.Layout.of(model)


def test_tied_tensors_come_once(tmp_path: Path) -> None:
    model = Tied()
    run_of(model, tmp_path / "run")
    assert swag.fit_checkpoints(tmp_path / "run").layout.names == swag.Layout.of(model).names


def test_the_model_decides_what_is_trainable(tmp_path: Path) -> None:
    model = plain()
    model[0].requires_grad_(False)
    run_of(model, tmp_path / "run")
    assert swag.fit_checkpoints(tmp_path / "run", model=model).layout.names == ("2.weight", "2.bias")
    assert len(swag.fit_checkpoints(tmp_path / "run").layout.names) == 4


@pytest.mark.parametrize(
    ("select", "names"),
    [
        (["2"], ["2.weight", "2.bias"]),
        (["*.bias"], ["0.bias", "2.bias"]),
        (lambda name, parameter: parameter.ndim == 2, ["0.weight", "2.weight"]),
    ],
)
@pytest.mark.parametrize("with_model", [True, False])
def test_select(select: Any, names: list[str], with_model: bool, tmp_path: Path) -> None:
    model = plain()
    run_of(model, tmp_path / "run")
    fitted = swag.fit_checkpoints(tmp_path / "run", 3, model=model if with_model else None, select=select)
    assert list(fitted.layout.names) == names


def test_key(tmp_path: Path) -> None:
    model, path = plain(), tmp_path / "file.pt"
    double = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "ema": {"state_dict": double}, "both": double}, path)
    with pytest.raises(
        swag.FileError, match=r"no single set of weights by name; pass key= one of 'model', 'both'"
    ):
        swag.fit_checkpoints(path)
    for key, factor in (("model", 1), ("both", 2), ("ema.state_dict", 2)):
        fitted = swag.fit_checkpoints(path, key=key)
        assert torch.equal(fitted.mean, factor * swag.Layout.of(model).flatten(model))
    with pytest.raises(swag.FileError, match=r"no weights by name under key 'none'"):
        swag.fit_checkpoints(path, key="none")
    save_model(model, tmp_path / "file.safetensors")
    with pytest.raises(swag.InputError, match=r"key: .*file.safetensors is a safetensors file"):
        swag.fit_checkpoints(tmp_path / "file.safetensors", key="model")


def test_weights_under_two_prefixes_are_not_guessed(tmp_path: Path) -> None:
    model = plain()
    twice = {
        f"{who}.{name}": t.clone() for who in ("student", "teacher") for name, t in model.state_dict().items()
    }
    torch.save(twice, tmp_path / "file.pt")
    with pytest.raises(swag.FileError, match=r"the weights occur under 'student.', 'teacher.'"):
        swag.fit_checkpoints(tmp_path / "file.pt", model=model)


# --- which files -----------------------------------------------------------------------------------------


def test_natural_order(tmp_path: Path) -> None:
    names = ["epoch=9.ckpt", "epoch=10.ckpt", "epoch=10-step=5.ckpt", "epoch=100.ckpt", "last.ckpt"]
    assert sorted(reversed(names), key=natural_key) == [names[0], names[2], names[1], *names[3:]]
    for name in (*names, ".hidden.ckpt", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "epoch=11.ckpt.d").mkdir()
    in_order = [names[0], names[2], names[1], *names[3:]]
    assert [path.name for path in expand(tmp_path)] == in_order
    assert [path.name for path in expand(str(tmp_path / "epoch*.ckpt"))] == in_order[:-1]
    given = [tmp_path / "last.ckpt", tmp_path / "epoch=10.ckpt"]
    assert expand(given) == given  # a list keeps its order


def test_folders_of_folders(tmp_path: Path) -> None:
    model = plain()
    live = run_of(model, tmp_path / "run", "sharded")
    assert [path.name for path in expand(tmp_path / "run")] == [f"epoch{i}" for i in range(8, 14)]
    assert_same(swag.fit_checkpoints(tmp_path / "run", 3, model=model), live)
    assert swag.fit_checkpoints(tmp_path / "run" / "epoch9").n_collected == 1


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, match in [
        ("missing.pt", "missing.pt: no such file"),
        ("empty", "empty: no checkpoint in this folder"),
        ("*.pt", r"\*.pt: no checkpoint matches"),
    ]:
        with pytest.raises(swag.FileError, match=match):
            swag.fit_checkpoints(tmp_path / path)
    for nothing in ([], [3]):
        with pytest.raises(swag.InputError, match="paths: "):
            swag.fit_checkpoints(nothing)  # type: ignore[arg-type]
    (tmp_path / "weights.npy").touch()
    with pytest.raises(swag.FileError, match=r"weights.npy: its suffix is none of .safetensors"):
        swag.fit_checkpoints(tmp_path / "weights.npy")


def test_memory_is_that_of_the_collector(tmp_path: Path) -> None:
    """Eight checkpoints of 32 MB are fitted in 6 × 32 MB and little more, by a process of its own."""
    import subprocess
    import sys

    for index in range(8):
        save_file({"w": torch.full((4000, 2000), float(index))}, tmp_path / f"{index}.safetensors")
    code = f"""
import resource, torch, swag
torch.set_num_threads(1)
swag.fit_checkpoints({str(tmp_path / "0.safetensors")!r}, rank=3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
collector = swag.fit_checkpoints({str(tmp_path)!r}, rank=3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, before)
"""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    more = int(done.stdout.split()[0]) * 1024
    model = 4 * 8_000_000
    # The first fit has touched 3 vectors and one row; the second touches two rows more.
    assert more < 4 * model
