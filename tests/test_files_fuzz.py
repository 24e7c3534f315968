"""Files damaged in any way: a correct load or an error of ours; no crash, no hang, no runaway memory."""

from __future__ import annotations

import io
import json
import random
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_safetensors
from torch import nn

import swag
from swag.checkpoints import open_checkpoint
from swag.tensorfile import TensorFile
from tests.cases import batchnorm_1d, features, plain, walk

N_MUTATIONS = 150
# Address space above what the process has: enough for any of these files a hundred thousand times over.
ROOM = 4 << 30


@pytest.fixture(autouse=True, scope="module")
def limited() -> Iterator[None]:
    """An allocation of absurd size fails, instead of taking the machine down."""
    with open("/proc/self/statm", encoding="ascii") as file:
        have = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (have + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def collected(model: nn.Module, n: int = 4) -> swag.Collector:
    collector = swag.Collector(model, rank=3)
    for step in walk(model, n):
        collector.collect(step)
    return collector


def make_object(kind: str, path: Path) -> None:
    model = batchnorm_1d()
    collector = collected(model)
    made: dict[str, Callable[[], Any]] = {
        "gaussian": collector.swag,
        "collector": lambda: collector,
        "mixture": lambda: swag.Mixture([collector.swag(), collector.swa()]),
        "empirical": lambda: swag.Empirical(collector.swag().sample(3), collector.layout),
        "ensemble": lambda: swag.Ensemble(model, collector.swag(), 2, bn_loader=[features(9)], seed=0),
    }
    swag.save(path, made[kind](), provenance={"note": "fuzz"})


def load_object(kind: str, path: Path) -> None:
    obj = swag.load(path, model=batchnorm_1d() if kind == "ensemble" else None)
    if hasattr(obj, "sample"):
        assert obj.sample(2).isfinite().all() or obj.mean.isfinite().all()
        obj.diagnose()
    swag.files.describe(path)


def make_checkpoint(kind: str, path: Path) -> None:
    state = batchnorm_1d().state_dict()
    content = io.BytesIO()
    if kind == "safetensors":
        path.write_bytes(to_safetensors(state, {"format": "pt"}))
    elif kind == "pt":
        torch.save({"model": state, "epoch": 1}, content)
    elif kind == "old pt":
        torch.save(state, content, _use_new_zipfile_serialization=False)
    if kind != "safetensors":
        path.write_bytes(content.getvalue())


def load_checkpoint(kind: str, path: Path) -> None:
    try:
        swag.fit_checkpoints(path, 2)
    except swag.FileError as error:
        assert str(path) in str(error)
        raise


CASES = {kind: (make_object, load_object, ".safetensors") for kind in ("gaussian", "collector", "mixture")}
CASES |= {kind: (make_object, load_object, ".safetensors") for kind in ("empirical", "ensemble")}
CASES |= {"safetensors": (make_checkpoint, load_checkpoint, ".safetensors")}
CASES |= {kind: (make_checkpoint, load_checkpoint, ".pt") for kind in ("pt", "old pt")}


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, set, cut, doubled or exchanged; often where headers lie."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        if not data:
            break
        where = chance.choice([len(data), min(len(data), 3000), min(len(data), 16)])
        at = (
            chance.randrange(where)
            if chance.random() < 0.8
            else max(len(data) - 1 - chance.randrange(where), 0)
        )
        length = chance.choice([1, 1, 2, 8, 100])
        what = chance.randrange(7)
        if what == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            data[at : at + length] = bytes(chance.randrange(256) for _ in range(length))
        elif what == 2:
            del data[at : at + length]
        elif what == 3:
            data[at:at] = data[at : at + length]
        elif what == 4:
            del data[at:]
        elif what == 5:
            data[at : at + 8] = struct.pack("<q", chance.choice([-1, 0, 1 << 40, (1 << 62) + 1, 7]))
        else:  # another number where a number stands
            digits = [i for i, byte in enumerate(data[:4000]) if 48 <= byte <= 57]
            if digits:
                data[chance.choice(digits)] = chance.choice(b"0123456789-e.")
    return bytes(data)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", CASES)
def test_a_damaged_file_loads_or_is_refused(kind: str, tmp_path: Path) -> None:
    make, load, suffix = CASES[kind]
    path = tmp_path / f"file{suffix}"
    make(kind, path)
    load(kind, path)
    content, outcomes = path.read_bytes(), {"loaded": 0, "refused": 0}
    for number in range(N_MUTATIONS):
        path.write_bytes(mutated(content, random.Random(f"{kind} {number}")))
        try:
            load(kind, path)
            outcomes["loaded"] += 1
        except swag.SwagError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > N_MUTATIONS / 4
    assert list(tmp_path.iterdir()) == [path]


# --- headers made to do harm -----------------------------------------------------------------------------


def raw(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


HOSTILE = {
    "a header longer than the file": raw(b"{}", length=1 << 62),
    "a header length that is negative when signed": raw(b"{}", length=(1 << 64) - 1),
    "a tensor larger than the file": raw({"a": entry([1 << 40], [0, 1 << 42])}),
    "a shape that overflows": raw({"a": entry([1 << 40, 1 << 40], [0, 8])}, b"\0" * 8),
    "an empty tensor of absurd sides": raw({"a": entry([0, 1 << 47, 1 << 47], [0, 0])}),
    "a thousand dimensions": raw({"a": entry([1] * 1000, [0, 4])}, b"\0" * 4),
    "negative offsets": raw({"a": entry([2], [-8, 0])}, b"\0" * 8),
    "offsets the wrong way round": raw({"a": entry([2], [8, 0])}, b"\0" * 8),
    "a negative side": raw({"a": entry([-2], [0, 8])}, b"\0" * 8),
    "tensors that overlap": raw({"a": entry(), "b": entry([2], [4, 12])}, b"\0" * 12),
    "a hole": raw({"a": entry(), "b": entry([2], [12, 20])}, b"\0" * 20),
    "more data than tensors": raw({"a": entry()}, b"\0" * 9),
    "less data than tensors": raw({"a": entry()}, b"\0" * 7),
    "one name twice": raw(
        b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
    ),
    "an unknown dtype": raw({"a": entry(dtype="F4")}, b"\0" * 8),
    "a dtype that is no text": raw({"a": entry(dtype=["F32"])}, b"\0" * 8),
    "a shape of floats": raw({"a": entry([2.0], [0, 8])}, b"\0" * 8),
    "a shape of truths": raw({"a": entry([True, True], [0, 4])}, b"\0" * 4),
    "an unknown field": raw({"a": entry(strides=[1])}, b"\0" * 8),
    "metadata that is no text": raw({"__metadata__": {"swag": 1}, "a": entry()}, b"\0" * 8),
    "a list": raw([entry()]),
    "text": raw(b'"text"'),
    "a number of ten thousand digits": raw(b'{"a":' + b"9" * 10_000 + b"}"),
    "nested beyond reason": raw(b"[" * 200_000),
    "no UTF-8": raw(b'{"\xff":1}'),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers(what: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(HOSTILE[what])
    for read in (TensorFile, swag.load, swag.files.describe, swag.fit_checkpoints, open_checkpoint):
        with pytest.raises(swag.FileError, match="not a whole safetensors file") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "a/b", "..\\x", "", ".", "..", "a\0b", 3]
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_index_that_leads_out_of_its_folder(shard: Any, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(to_safetensors(plain().state_dict()))
    name = "model.safetensors.index.json" if suffix == "safetensors" else "pytorch_model.bin.index.json"
    (folder / name).write_text(json.dumps({"weight_map": {"0.weight": shard}}))
    with pytest.raises(swag.FileError, match=r"a shard lies in the index's own folder"):
        swag.fit_checkpoints(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000]
)
def test_an_index_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(swag.FileError, match="not a whole index"):
        swag.fit_checkpoints(tmp_path)
