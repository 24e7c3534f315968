"""The data sets of the experiments, read from files on disk into tensors; nothing is downloaded.

The folder is `--data-dir`, else the environment variable SWAG_DATA, else `./data`.
"""

from __future__ import annotations

import io
import lzma
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W) as bytes, and labels (N,)."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def __len__(self) -> int:
        return len(self.train)


def folder(data_dir: Path | str | None = None) -> Path:
    """Where the data lies.

    Raises:
        SystemExit: there is no such folder; the message says which, and how to name another.
    """
    path = Path(data_dir or os.environ.get("SWAG_DATA") or "data")
    if not path.is_dir():
        raise SystemExit(
            f"no data folder at {path.absolute()}; set SWAG_DATA=FOLDER or pass --data-dir FOLDER "
            "(or try --quick, which needs none)"
        )
    return path


def at(root: Path, *parts: str) -> Path:
    """A file of the data folder.

    Raises:
        SystemExit: it is missing.
    """
    path = root.joinpath(*parts)
    if not path.exists():
        raise SystemExit(
            f"{path.absolute()} is missing; pass a --data-dir (or set SWAG_DATA) whose {parts[0]}/ has it"
        )
    return path


def fashion_mnist(root: Path) -> Images:
    """60,000 + 10,000 images (N, 1, 28, 28), ten kinds of clothing."""
    parts = ("00000-09999", "10000-19999", "20000-59999")
    return _mnist_like(root, "fashion_mnist", [f"train_images_{part}.npy.xz" for part in parts])


def mnist(root: Path) -> Images:
    """The first 10,000 training images and the 10,000 test images (N, 1, 28, 28) of handwritten digits."""
    return _mnist_like(root, "mnist", ["train_images_00000-09999.npy.xz"])


def cifar10(root: Path) -> Images:
    """50,000 + 10,000 images (N, 3, 32, 32); the training images were stored with loss (42.5 dB)."""
    files = [f"train_batch_{i}.q95.avif" for i in range(1, 6)]
    return _cifar(root, "cifar10", files)


def cifar100(root: Path) -> Images:
    """50,000 + 10,000 images (N, 3, 32, 32) of 100 classes; training images were stored with loss (39 dB)."""
    files = [f"train_{i}of5.q90.avif" for i in range(1, 6)]
    return _cifar(root, "cifar100", files)


def toy_regression(root: Path) -> tuple[Tensor, Tensor]:
    """The 1-D regression data of the subspace-inference paper: x (400,), y (400,)."""
    table = torch.from_numpy(np.load(at(root, "toy_regression", "data.npy"))).float()
    return table[:, 0], table[:, 1]


def wikitext2(root: Path) -> dict[str, str]:
    """The raw text of "train", "valid" and "test"."""
    texts = {}
    for part in ("train", "valid", "test"):
        with lzma.open(at(root, "wikitext2", f"{part}.txt.xz"), "rt", encoding="utf8") as file:
            texts[part] = file.read()
    return texts


def array(path: Path) -> np.ndarray:
    """An array from an .npy.xz file."""
    with lzma.open(path) as file:
        return np.load(io.BytesIO(file.read()))


def _mnist_like(root: Path, name: str, train_files: list[str]) -> Images:
    train = np.concatenate([array(at(root, name, file)) for file in train_files])
    test = array(at(root, name, "test_images.npy.xz"))
    with np.load(at(root, name, "labels.npz")) as labels:
        train_labels, test_labels = (_labels(labels, part) for part in ("train", "test"))
    return Images(
        torch.from_numpy(train).unsqueeze(1),
        train_labels[: len(train)],
        torch.from_numpy(test).unsqueeze(1),
        test_labels,
    )


def _cifar(root: Path, name: str, train_files: list[str]) -> Images:
    train = torch.cat([_mosaic(at(root, name, file)) for file in train_files])
    test = _mosaic(at(root, name, "test.webp"))
    with np.load(at(root, name, "labels.npz")) as labels:
        return Images(train, _labels(labels, "train"), test, _labels(labels, "test"))


def _mosaic(path: Path) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    tiles = pixels.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(10_000, 32, 32, 3)
    return torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))


def _labels(arrays: np.lib.npyio.NpzFile, part: str) -> Tensor:
    keys = [key for key in arrays.files if key.startswith(part) and "coarse" not in key]
    if len(keys) != 1:
        raise SystemExit(f"labels.npz holds {', '.join(arrays.files)}; expected one array for {part!r}")
    return torch.from_numpy(arrays[keys[0]].astype(np.int64)).reshape(-1)
