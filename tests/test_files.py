"""Saved and loaded objects are the same, bit for bit; damaged files are refused by name."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import swag
from swag import files
from swag.parameters import Layout
from tests.cases import CASES, Case, plain, walk


def collected(
    n: int = 6,
    *,
    rank: int = 3,
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> swag.Collector:
    model = plain() if model is None else model
    collector = swag.Collector(model, rank=rank, deviation_dtype=dtype)
    for step in walk(model, n, seed=seed):
        collector.collect(step)
    return collector


def reloaded(obj: Any, folder: Path) -> Any:
    path = folder / "object.safetensors"
    swag.save(path, obj)
    return swag.load(path)


def samples(posterior: swag.Posterior, n: int = 7, seed: int = 0) -> Tensor:
    return posterior.sample(n, generator=torch.Generator().manual_seed(seed))


def tensors_of(obj: Any) -> dict[str, Tensor]:
    """Every tensor an object holds, the components' of a mixture too."""
    found = {name: value for name, value in vars(obj).items() if isinstance(value, Tensor)}
    for index, component in enumerate(getattr(obj, "posteriors", ())):
        found |= {f"{index}/{name}": value for name, value in tensors_of(component).items()}
    return found


def assert_same_posterior(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    assert got.layout == expected.layout
    mine, theirs = tensors_of(got), tensors_of(expected)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert mine[name].dtype == value.dtype and torch.equal(mine[name], value), name
    assert torch.equal(samples(got), samples(expected))
    assert samples(got).dtype == samples(expected).dtype


def assert_same_collector(got: swag.Collector, expected: swag.Collector) -> None:
    mine, theirs = got.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, Tensor):
            assert mine[name].dtype == value.dtype and torch.equal(mine[name], value), name
        else:
            assert mine[name] == value, name


# --- round trips -----------------------------------------------------------------------------------------


def expanded() -> swag.LowRankGaussian:
    """Tensors that are not contiguous, expanded, or lie in one memory with others."""
    shared = torch.arange(30.0)
    return swag.LowRankGaussian(shared[2:22:2], torch.tensor(0.3).expand(10), shared.reshape(3, 10).T)


def mixture_of_mixtures() -> swag.Mixture:
    a, b, c = (collected(seed=seed).swag() for seed in range(3))
    inner = swag.Mixture([a, swag.Mixture([b, c.from_rows(c.mean, c.cov_diag, c.rows, row_scale=0.1)])])
    return swag.Mixture([inner, swag.PointMass(a.mean, layout=a.layout)], [0.7, 0.3])


def twice() -> swag.Mixture:
    posterior = collected().swag()
    return swag.Mixture([posterior, posterior, collected(seed=1).swag()])


def float64_model() -> nn.Module:
    return plain().double()


POSTERIORS: dict[str, Callable[[], swag.Posterior]] = {
    "point mass": lambda: collected().swa(),
    "point mass without layout": lambda: swag.PointMass(torch.randn(4)),
    "swag": lambda: collected().swag(),
    "swag, another scale": lambda: collected().swag(scale=0.3),
    "swag, scale 0": lambda: collected().swag(scale=0.0),
    "swag-diag": lambda: collected().swag_diag(),
    "swag, bfloat16 rows": lambda: collected(dtype=torch.bfloat16).swag(),
    "swag, float64": lambda: collected(model=float64_model(), dtype=torch.float64).swag(),
    "swag, float64 with float32 rows": lambda: collected(model=float64_model()).swag(),
    "float16": lambda: swag.PointMass(torch.randn(4).half()),
    "gaussian without layout": lambda: swag.LowRankGaussian(torch.zeros(3), torch.ones(3), torch.ones(3, 2)),
    "gaussian of rank 0": lambda: swag.LowRankGaussian(torch.zeros(3), torch.ones(3), torch.ones(3, 0)),
    "expanded": expanded,
    "empirical": lambda: swag.Empirical(torch.randn(4, 51), Layout.of(plain())),
    "empirical without layout, transposed": lambda: swag.Empirical(torch.randn(3, 4).T),
    "empirical, one row expanded": lambda: swag.Empirical(torch.randn(3).expand(4, 3)),
    "multiswag": lambda: swag.Mixture([collected(seed=seed).swag() for seed in range(3)]),
    "weighted": lambda: swag.Mixture([collected(seed=s).swag() for s in range(3)], [0.2, 0.7, 0.1]),
    "mixture of mixtures": mixture_of_mixtures,
    "the same posterior twice": twice,
    "twelve components": lambda: swag.Mixture([swag.PointMass(torch.randn(2)) for _ in range(12)]),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    posterior = POSTERIORS[name]()
    before = samples(posterior)
    again = reloaded(posterior, tmp_path)
    assert_same_posterior(again, posterior)
    assert torch.equal(samples(posterior), before)  # saving leaves the object alone
    assert_same_posterior(reloaded(again, tmp_path), posterior)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda weights: sum(weights) > 1e-3))
def test_weights_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, weights: list[float]
) -> None:
    points = [swag.PointMass(torch.tensor([float(index)])) for index in range(len(weights))]
    mixture = swag.Mixture(points, (torch.tensor(weights, dtype=torch.float64) / sum(weights)).tolist())
    again = reloaded(mixture, tmp_path_factory.getbasetemp())
    assert torch.equal(again.weights, mixture.weights)
    assert torch.equal(samples(again, 50), samples(mixture, 50))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_odd_model(case: Case, tmp_path: Path) -> None:
    model = case.build()
    collector = collected(4, model=model)
    posterior, loaded = collector.swag(), reloaded(collector.swag(), tmp_path)
    assert_same_posterior(loaded, posterior)
    assert loaded.layout == Layout.of(model)
    assert [entry.dtype for entry in loaded.layout.entries] == [
        p.dtype for p in model.parameters() if p.requires_grad
    ]
    assert_same_collector(reloaded(collector, tmp_path), collector)


def test_a_loaded_posterior_predicts_the_same(tmp_path: Path) -> None:
    model, posterior = plain(), collected().swag()
    expected = swag.Ensemble(model, posterior, 4, seed=0)(torch.ones(2, 8))
    again = swag.Ensemble(model, reloaded(posterior, tmp_path), 4, seed=0)(torch.ones(2, 8))
    assert torch.equal(again.log_probs, expected.log_probs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_loaded_collectors_go_on_bit_for_bit(n: int, rank: int, dtype: torch.dtype, tmp_path: Path) -> None:
    model = plain()
    collector = collected(n, rank=rank, model=model, dtype=dtype)
    again = reloaded(collector, tmp_path)
    assert_same_collector(again, collector)
    for step in walk(model, 4, seed=9):
        collector.collect(step)
        again.collect(step)
    assert_same_collector(again, collector)
    if rank >= 2:
        assert_same_posterior(again.swag(), collector.swag())


def test_a_loaded_object_shares_nothing_with_the_file(tmp_path: Path) -> None:
    posterior = collected().swag()
    path = tmp_path / "posterior.safetensors"
    swag.save(path, posterior)
    loaded = swag.load(path)
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))  # in place, as `cp` and `rsync --inplace` do
    assert_same_posterior(loaded, posterior)
    path.write_bytes(content)
    loaded.mean.add_(1)
    assert path.read_bytes() == content


def test_a_path_may_be_a_string_and_a_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "any.name")
    swag.save(path, collected().swag())
    swag.save(path, collected().swa())
    assert isinstance(swag.load(path), swag.PointMass)
    assert os.listdir(tmp_path) == ["any.name"]


def test_the_header_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "posterior.safetensors"
    swag.save(path, collected().swag(scale=0.5))
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["swag"])
        assert sorted(file.keys()) == ["cov_diag", "mean", "rows"]
    assert document["format_version"] == files.FORMAT_VERSION == 1
    assert document["swag_version"] == swag.__version__
    assert document["object"]["kind"] == "low_rank_gaussian"
    assert document["object"]["layout"][0] == {"name": "0.weight", "shape": [4, 8], "dtype": "float32"}


def test_bfloat16_rows_stay_small(tmp_path: Path) -> None:
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        swag.save(tmp_path / "file", collected(rank=6, dtype=dtype))
        sizes[dtype] = (tmp_path / "file").stat().st_size
    assert sizes[torch.float32] - sizes[torch.bfloat16] == pytest.approx(6 * 51 * 2, abs=16)


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        swag.save(tmp_path / "file", collected().swa())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


# --- damaged twins ---------------------------------------------------------------------------------------


SAVED: dict[str, Callable[[], Any]] = {
    "point mass": lambda: swag.PointMass(torch.tensor([1.0, 2.0])),
    "gaussian": lambda: collected().swag(),
    "empirical": lambda: swag.Empirical(torch.ones(2, 3)),
    "mixture": mixture_of_mixtures,
    "collector": collected,
}


@pytest.fixture(params=SAVED)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "saved.safetensors"
    swag.save(path, SAVED[request.param]())
    return path


def refused(path: Path, match: str | None = None) -> str:
    """The complaint about a file: always a FileError that names it."""
    with pytest.raises(swag.FileError, match=match) as caught:
        swag.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def header_size(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> None:
    """The same file with its header's document and its tensors changed."""
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["swag"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(document, tensors)
    save_file(tensors, path, metadata={"swag": json.dumps(document)})


def test_truncated_files(saved: Path) -> None:
    content = saved.read_bytes()
    header = header_size(content)
    for length in {0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(content) - 1}:
        saved.write_bytes(content[:length])
        refused(saved, "not a whole safetensors file.*copy or write it again")


def test_files_with_more_behind(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    refused(saved)


def overwrite(path: Path, index: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(index)
        file.write(bytes([byte]))


def test_damaged_headers(saved: Path) -> None:
    """Any byte of the header, changed: refused, or something harmless such as a name; nothing else."""
    content = saved.read_bytes()
    n_refused = 0
    for index in range(header_size(content)):
        for flip in (0x01, 0x10, 0x80):
            overwrite(saved, index, content[index] ^ flip)
            try:
                swag.load(saved)
            except swag.FileError as error:
                assert str(saved) in str(error)
                n_refused += 1
        overwrite(saved, index, content[index])
    assert saved.read_bytes() == content
    assert n_refused > 2 * header_size(content)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\0" * 8, b"\0" * 100, b"\x7fELF" * 20, b"{}", b"PK\x03\x04" * 9, b"\xff" * 64]
)
def test_files_that_are_something_else(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "something.safetensors"
    path.write_bytes(content)
    refused(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.safetensors")
    assert "no such file" in refused(tmp_path)


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", ["pickle", "torch.save", "old torch.save"])
def test_pickles_are_never_read(write: str, tmp_path: Path) -> None:
    path, crater = tmp_path / "weights.safetensors", tmp_path / "crater"
    if write == "pickle":
        path.write_bytes(pickle.dumps(Bomb(crater)))
    else:
        torch.save(Bomb(crater), path, _use_new_zipfile_serialization=write == "torch.save")
    refused(path)
    assert not crater.exists()
    pickle.loads(pickle.dumps(Bomb(crater)))
    assert crater.exists()  # it would have gone off


def test_plain_safetensors_are_no_posterior(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.ones(2)}, path, metadata=metadata)
        refused(path, r"not one that swag.save wrote; weights alone are no posterior")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"text"', "{}", '{"format_version": 1}'])
def test_documents_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"mean": torch.ones(2)}, path, metadata={"swag": text})
    refused(path, "its header is damaged")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_unknown_format_versions(version: Any, saved: Path) -> None:
    rewritten(saved, lambda document, _: document.update(format_version=version))
    refused(saved, rf"has format version {version!r}, this library reads 1; update swag")


@pytest.mark.parametrize("kind", ["laplace", "", None, ["point_mass"], {}])
def test_unknown_kinds(kind: Any, saved: Path) -> None:
    rewritten(saved, lambda document, _: document["object"].update(kind=kind))
    refused(saved)
    rewritten(saved, lambda document, _: document.update(object=kind))
    refused(saved)


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    swag.save(path, collected().swag())
    rewritten(path, lambda document, _: document["object"].update(kind="laplace"))
    refused(path, "kind 'laplace' is unknown to this version; update swag")


def test_missing_tensors(saved: Path) -> None:
    def names(path: Path) -> list[str]:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())

    twin = saved.with_name("twin.safetensors")
    for name in names(saved):
        shutil.copy(saved, twin)
        rewritten(twin, lambda _, tensors, name=name: tensors.pop(name))
        refused(twin, "its header and tensors do not fit together")


def test_missing_fields(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        fields = list(json.loads(file.metadata()["swag"])["object"])
    twin = saved.with_name("twin.safetensors")
    for field in fields:
        for change in (
            lambda document, _, field=field: document["object"].pop(field),
            lambda document, _, field=field: document["object"].update({field: 1e999}),
            lambda document, _, field=field: document["object"].update({field: -7}),
            lambda document, _, field=field: document["object"].update({field: "x"}),
            lambda document, _, field=field: document["object"].update({field: [{"name": 1}]}),
        ):
            shutil.copy(saved, twin)
            rewritten(twin, change)
            refused(twin)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("gaussian", lambda d, t: t.update(mean=t["mean"][:-1].clone())),
        ("gaussian", lambda d, t: t.update(cov_diag=t["cov_diag"][:-1].clone())),
        ("gaussian", lambda d, t: t.update(rows=t["rows"].T.contiguous())),
        ("gaussian", lambda d, t: t.update(mean=t["mean"][None].clone())),
        ("gaussian", lambda d, t: t.update(mean=t["mean"].long())),
        ("gaussian", lambda d, t: t.update(mean=t["mean"] * torch.nan)),
        ("gaussian", lambda d, t: t.update(cov_diag=-t["cov_diag"])),
        ("gaussian", lambda d, t: d["object"]["layout"].pop()),
        ("gaussian", lambda d, t: d["object"]["layout"][0].update(shape=[5, 8])),
        ("gaussian", lambda d, t: d["object"]["layout"][0].update(shape=[-4, -8])),
        ("gaussian", lambda d, t: d["object"]["layout"][0].update(shape=[2**40, 2**40])),
        ("gaussian", lambda d, t: d["object"]["layout"][0].update(shape=[1e999])),
        ("gaussian", lambda d, t: d["object"]["layout"][0].update(dtype="nn")),
        ("gaussian", lambda d, t: d["object"]["layout"].append(d["object"]["layout"][0])),
        ("gaussian", lambda d, t: d["object"].update(row_scale=float("nan"))),
        ("collector", lambda d, t: t.update(origin=t["origin"][:-1].clone())),
        ("collector", lambda d, t: t.update(deviations=t["deviations"][:-1].clone())),
        ("collector", lambda d, t: d["object"].update(rank=10**15)),
        ("collector", lambda d, t: d["object"].update(n_collected=1)),
        ("collector", lambda d, t: d["object"].update(deviation_dtype="int8")),
        ("mixture", lambda d, t: d["object"].update(weights=[0.7, 0.4])),
        ("mixture", lambda d, t: d["object"].update(weights=[1.0])),
        ("mixture", lambda d, t: d["object"].update(components=[])),
        ("mixture", lambda d, t: d["object"]["components"].pop()),
        ("mixture", lambda d, t: d["object"]["components"].reverse()),
        ("mixture", lambda d, t: t.update({"1/mean": t["1/mean"][:-1].clone()})),
        ("empirical", lambda d, t: t.update(samples=t["samples"].flatten())),
        ("empirical", lambda d, t: t.update(samples=t["samples"][:0].clone())),
    ],
)
def test_headers_and_tensors_that_do_not_fit(kind: str, change: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    swag.save(path, SAVED[kind]())
    rewritten(path, change)
    refused(path, "its header and tensors do not fit together")


def test_a_header_nested_beyond_reason(tmp_path: Path) -> None:
    path, text = tmp_path / "file.safetensors", '{"kind": "mixture", "weights": [1.0], "components": ['
    document = '{"format_version": 1, "object": ' + text * 5000 + "]}" * 5000 + "}"
    save_file({"mean": torch.ones(2)}, path, metadata={"swag": document})
    refused(path)


# --- interrupted and impossible saves --------------------------------------------------------------------


def assert_old(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("error", [OSError(28, "no space"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("where", ["write_tensors", "os.replace", "half of write_tensors"])
def test_an_interrupted_save_leaves_the_old_file(
    error: BaseException, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "posterior.safetensors"
    swag.save(path, collected().swag())
    content = path.read_bytes()

    def fail(first: Any, *_: Any, **__: Any) -> None:
        if where == "half of write_tensors":
            Path(first).write_bytes(content[:100])
        raise error

    if where == "os.replace":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(files.store, "write_tensors", fail)
    on_disk = isinstance(error, OSError)
    with pytest.raises(swag.FileError if on_disk else type(error)) as caught:
        swag.save(path, collected(seed=1).swag())
    monkeypatch.undo()
    assert_old(path, content)
    if on_disk:
        assert str(path) in str(caught.value) and "no space" in str(caught.value)


def test_a_full_disk(tmp_path: Path) -> None:
    """Played by the process's limit on file sizes, which the writer runs into for real."""
    path = tmp_path / "posterior.safetensors"
    swag.save(path, swag.PointMass(torch.zeros(3)))
    content = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
    try:
        with pytest.raises(swag.FileError, match="could not be written") as caught:
            swag.save(path, swag.PointMass(torch.ones(100_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(caught.value)
    assert_old(path, content)


@pytest.mark.parametrize("where", ["missing/posterior.safetensors", "file/posterior.safetensors", "folder"])
def test_paths_that_cannot_be_written(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(swag.FileError) as caught:
        swag.save(tmp_path / where, collected().swa())
    assert str(tmp_path / where) in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("obj", [torch.zeros(3), plain(), {"mean": torch.zeros(3)}, None, swag.PointMass])
def test_other_objects_are_refused_and_nothing_is_written(obj: Any, tmp_path: Path) -> None:
    with pytest.raises(swag.InputError, match=r"obj: cannot save a \w+; pass a PointMass, "):
        swag.save(tmp_path / "file", obj)
    assert list(tmp_path.iterdir()) == []


def test_a_mixture_with_a_foreign_component_is_refused(tmp_path: Path) -> None:
    class Own:
        layout, mean = None, torch.zeros(2)

        def sample(self, n_samples: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
            return torch.zeros(n_samples, 2)

    with pytest.raises(swag.InputError, match="obj: cannot save a Own"):
        swag.save(tmp_path / "file", swag.Mixture([swag.PointMass(torch.zeros(2)), Own()]))
    assert list(tmp_path.iterdir()) == []
