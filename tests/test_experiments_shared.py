"""What the experiments share: where data lies and how it is read, and results files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from experiments import arguments, data, record

FOLDER = os.environ.get("SWAG_DATA")
needs_data = pytest.mark.skipif(FOLDER is None, reason="SWAG_DATA names no data folder")


class TestRecord:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "one.json"
        payload = {"settings": {"seeds": (0, 1)}, "values": torch.arange(3), "folder": tmp_path}
        record.write(path, "kind", payload)
        found = record.read(path, "kind")
        assert found["values"] == [0, 1, 2] and found["settings"] == {"seeds": [0, 1]}
        assert found["environment"]["versions"]["torch"] == torch.__version__
        assert record.done(path, "kind", {"seeds": (0, 1)}) and not record.done(tmp_path / "none", "kind")

    def test_other_contents_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "one.json"
        record.write(path, "kind", {"settings": {"seeds": [0]}})
        with pytest.raises(SystemExit, match="kind 'kind', not 'other'"):
            record.read(path, "other")
        with pytest.raises(SystemExit, match="other settings"):
            record.done(path, "kind", {"seeds": [1]})
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "version": 99}))
        with pytest.raises(SystemExit, match="version 99"):
            record.read(path, "kind")
        path.write_text(path.read_text()[:-20])
        with pytest.raises(SystemExit, match="is not JSON"):
            record.read(path, "kind")
        path.write_bytes('{"kind": "\xe9"}'.encode("latin-1"))
        with pytest.raises(
            SystemExit, match=r"one.json is not JSON \('utf-8' codec.*; delete it and run again"
        ):
            record.read(path, "kind")

    def test_tables_and_spread(self) -> None:
        assert record.mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
        assert record.markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |"


class TestArguments:
    def test_a_script_for_the_cpu_alone_refuses_other_devices(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert arguments.parser("", quick="").parse_args(["--device", "cuda:1"]).device == "cuda:1"
        parser = arguments.parser("", quick="", cpu_only=True)
        assert parser.parse_args([]).device == "cpu"
        with pytest.raises(SystemExit):
            parser.parse_args(["--device", "cuda"])
        assert "invalid choice: 'cuda'" in capsys.readouterr().err

    def test_a_quick_run_leaves_nothing_beside_the_script(self, tmp_path: Path) -> None:
        parser = arguments.parser("", quick="")
        with arguments.results_folder(parser.parse_args(["--quick"]), tmp_path) as out:
            assert out.is_dir() and tmp_path not in out.parents
        assert not out.exists()
        with arguments.results_folder(parser.parse_args([]), tmp_path) as out:
            assert out == tmp_path / "results"
        with arguments.results_folder(parser.parse_args(["--quick", "--out", "x"]), tmp_path) as out:
            assert out == Path("x")


class TestData:
    def test_a_missing_folder_says_how_to_name_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SWAG_DATA", str(tmp_path / "nothing"))
        with pytest.raises(SystemExit, match="set SWAG_DATA=FOLDER or pass --data-dir"):
            data.folder()
        assert data.folder(tmp_path) == tmp_path
        with pytest.raises(SystemExit, match=r"labels.npz|train_images"):
            data.fashion_mnist(tmp_path)

    def test_the_folder_is_data_in_the_current_one_if_none_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SWAG_DATA", raising=False)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit, match=f"no data folder at {re.escape(str(tmp_path / 'data'))};"):
            data.folder()
        with pytest.raises(SystemExit, match=f"no data folder at {re.escape(str(tmp_path / 'mine'))};"):
            data.folder("mine")
        (tmp_path / "data").mkdir()
        assert data.folder() == Path("data")
        with pytest.raises(SystemExit, match=f"^{re.escape(str(tmp_path / 'data' / 'mnist'))}.* is missing"):
            data.mnist(data.folder())
        monkeypatch.setenv("SWAG_DATA", "")
        assert data.folder() == Path("data")
        (tmp_path / "named").mkdir()
        monkeypatch.setenv("SWAG_DATA", "named")
        assert data.folder() == Path("named") and data.folder("data") == Path("data")

    @needs_data
    def test_images(self) -> None:
        found = data.mnist(data.folder())
        assert found.train.shape == (10_000, 1, 28, 28) and found.train.dtype == torch.uint8
        assert found.test.shape == (10_000, 1, 28, 28) and len(found) == 10_000
        assert found.train_labels.shape == (10_000,) and found.test_labels.bincount().tolist()[:2] == [
            980,
            1135,
        ]

    @needs_data
    def test_others(self) -> None:
        root = data.folder()
        x, y = data.toy_regression(root)
        assert x.shape == y.shape == (400,) and -7.3 < x.min() < x.max() < 7.3
        assert data.wikitext2(root)["valid"].count(" ") > 100_000
