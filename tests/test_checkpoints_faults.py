"""Checkpoints that cannot be used: every complaint names the file, and the first tensor that is to blame."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import swag
from swag.checkpoints import open_checkpoint
from tests.cases import batchnorm_1d, plain, walk
from tests.test_checkpoints import WRITERS, run_of

State = dict[str, Tensor]


def write(state: State, path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)


@pytest.fixture(params=[".pt", ".safetensors"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    paths = []
    for epoch, step in enumerate(walk(plain(), 4)):
        paths.append(tmp_path / f"epoch{epoch}{request.param}")
        write(dict(step.state_dict()), paths[-1])
    return paths


def changed(path: Path, change: Callable[[State], Any]) -> None:
    with open_checkpoint(path) as file:
        state = {
            name: file.piece(name, 0, torch.Size(info.shape).numel()).clone().view(info.shape)
            for name, info in file.tensors.items()
        }
    change(state)
    write(state, path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda s: s.update({"2.weight": torch.ones(3, 5)}),
            r"tensor '2.weight' has shape \(3, 5\), expected \(3, 4\)",
        ),
        (lambda s: s.pop("2.weight"), "has no tensor '2.weight'"),
        (lambda s: s.update({"2.weight": s["2.weight"].long()}), "tensor '2.weight' has dtype torch.int64"),
        (lambda s: s["0.bias"].__setitem__(1, torch.nan), "tensor '0.bias' holds NaN or infinite values"),
        (lambda s: s["2.weight"].__setitem__((2, 3), -torch.inf), "tensor '2.weight' holds NaN or infinite"),
    ],
)
@pytest.mark.parametrize("with_model", [True, False])
def test_the_file_and_the_tensor_are_named(
    change: Callable[[State], Any], complaint: str, with_model: bool, run: list[Path]
) -> None:
    changed(run[2], change)
    with pytest.raises(swag.FileError, match=complaint) as caught:
        swag.fit_checkpoints(run, model=plain() if with_model else None)
    assert str(caught.value).startswith(str(run[2]))


def test_a_tensor_more_is_another_architecture(run: list[Path]) -> None:
    changed(run[3], lambda s: s.update({"4.weight": torch.ones(2)}))
    with pytest.raises(swag.FileError, match=r"has the tensor '4.weight', which .*epoch0\.\w+ lacks"):
        swag.fit_checkpoints(run)
    swag.fit_checkpoints(run, model=plain())  # it says which tensors count


def test_layouts_are_compared_before_anything_is_read(
    run: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(run[3], lambda s: s.pop("0.bias"))
    monkeypatch.setattr(swag.Collector, "collect_pieces", lambda *_: pytest.fail("read too early"))
    with pytest.raises(swag.FileError, match=r"has no tensor '0.bias'"):
        swag.fit_checkpoints(run)


def test_another_model(run: list[Path]) -> None:
    with pytest.raises(swag.FileError, match=r"epoch0\.\w+: tensor '0.weight' has shape \(4, 8\), expected"):
        swag.fit_checkpoints(run, model=batchnorm_1d())


def test_damaged_files(run: list[Path]) -> None:
    content = run[1].read_bytes()
    for damaged in (b"", b"\0", content[:7], content[: len(content) // 2], content[:-1], b"\x93NUMPY" * 9):
        run[1].write_bytes(damaged)
        with pytest.raises(swag.FileError, match=r"not a whole|is damaged") as caught:
            swag.fit_checkpoints(run)
        assert str(run[1]) in str(caught.value)


def test_a_file_cut_short_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write(dict(plain().state_dict()), path)
    with open_checkpoint(path) as file:
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(swag.FileError, match="was cut short while it was read"):
            file.piece("2.weight", 0, 12)


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("how", ["alone", "beside weights", "old format", "plain pickle"])
def test_code_in_a_pickle_never_runs(suffix: str, how: str, tmp_path: Path) -> None:
    path, crater = tmp_path / f"weights{suffix}", tmp_path / "crater"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(Bomb(crater)))
    else:
        content: Any = Bomb(crater)
        if how == "beside weights":
            content = {"state_dict": plain().state_dict(), "callback": Bomb(crater)}
        torch.save(content, path, _use_new_zipfile_serialization=how != "old format")
    for use in (swag.fit_checkpoints, swag.load, open_checkpoint):
        with pytest.raises(swag.FileError) as caught:
            use(path)
        assert str(path) in str(caught.value)
    assert not crater.exists()
    pickle.loads(pickle.dumps(Bomb(crater)))
    assert crater.exists()  # it would have gone off


def test_an_archive_that_grows_when_it_is_read(tmp_path: Path) -> None:
    path, bomb = tmp_path / "file.pt", tmp_path / "bomb.pt"
    torch.save({"a": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(swag.FileError, match=r"is compressed; torch.save writes none"):
        swag.fit_checkpoints(bomb)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "it holds nothing"),
        ({"epoch": 3}, "it holds 'epoch'"),
        ([torch.ones(2)], "it holds a list"),
        (torch.ones(2), "it holds a Tensor"),
        ({"steps": torch.ones(2, dtype=torch.int64)}, "it holds 'steps'"),
        ({1: torch.ones(2)}, "it holds 1"),
        (nn.Linear(2, 2), "it was not executed"),
    ],
)
def test_files_without_weights_by_name(content: Any, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(content, path)
    with pytest.raises(swag.FileError, match=complaint):
        swag.fit_checkpoints(path)


def test_nothing_but_statistics(tmp_path: Path) -> None:
    write({"a.running_mean": torch.ones(2), "n": torch.ones(2, dtype=torch.int64)}, tmp_path / "file.pt")
    with pytest.raises(swag.FileError, match="holds no floating-point weights"):
        swag.fit_checkpoints(tmp_path / "file.pt")


def test_sparse_tensors(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, 2).to_sparse()}, tmp_path / "file.pt")
    with pytest.raises(swag.FileError, match="'a' is sparse or quantised; save it dense"):
        swag.fit_checkpoints(tmp_path / "file.pt")


def test_a_select_that_matches_nothing(run: list[Path]) -> None:
    with pytest.raises(swag.InputError, match="the pattern 'head' matches none"):
        swag.fit_checkpoints(run, select=["head"])
    with pytest.raises(swag.InputError, match="select: none of the 4 weights"):
        swag.fit_checkpoints(run, select=lambda name, parameter: False)


@pytest.mark.parametrize("kind", ["sharded", "sharded pickles"])
def test_shards_that_do_not_fit(kind: str, tmp_path: Path) -> None:
    run_of(plain(), tmp_path / "run", kind, n=2)
    folder = tmp_path / "run" / "epoch8"
    shard = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))[0]
    state = dict(plain().state_dict())
    lacking = {name: state[name] for name in list(state)[-1:]}
    write(lacking, shard) if shard.suffix == ".safetensors" else torch.save(lacking, shard)
    with pytest.raises(swag.FileError, match=r"has no tensor '\d\.\w+', though .*index.json says so"):
        swag.fit_checkpoints(tmp_path / "run")
    shard.unlink()
    with pytest.raises(swag.FileError, match=rf"the shard {shard.name} is missing"):
        swag.fit_checkpoints(tmp_path / "run")


def test_every_writer_is_tested() -> None:
    assert {suffix for suffix, _ in WRITERS.values()} >= {".pt", ".pth", ".ckpt", ".safetensors", ""}
