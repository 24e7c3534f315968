"""What the experiments share: where data lies and how it is read, and results files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from experiments import data, record

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

    def test_tables_and_spread(self) -> None:
        assert record.mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
        assert record.markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |"


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
