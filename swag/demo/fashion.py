"""Fashion-MNIST, with MNIST as out of distribution, from files on disk."""

from __future__ import annotations

import io
import lzma
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swag.demo.data import Rows, Task
from swag.errors import FileError, InputError

VALIDATION = 1_000
N_TEST = 2_000  # of 10,000: thirty samples of seven methods on all of them would take most of the run
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# The training images lie in three files, with the first row of each one's successor.
_TRAIN_FILES = {
    "train_images_00000-09999.npy.xz": 10_000,
    "train_images_10000-19999.npy.xz": 20_000,
    "train_images_20000-59999.npy.xz": 60_000,
}
SMALLEST_SUBSET, LARGEST_SUBSET = 100, 60_000 - VALIDATION


def fashion_mnist(seed: int, folder: Path, subset: int) -> Task:
    """Fashion-MNIST as it is, without noise; out of distribution: MNIST's test images.

    Args:
        seed: of the choice of training, validation and test rows.
        folder: holds `fashion_mnist` and `mnist`; see `files`.
        subset: training rows.

    Raises:
        InputError: a file is missing, or the subset too large.
        FileError: a file is damaged.
    """
    check(folder, subset)
    generator = torch.Generator().manual_seed(seed)
    names, rows = _train_files(subset)
    images = torch.cat([_read_images(folder / "fashion_mnist" / name) for name in names])
    train_labels, test_labels = _read_labels(folder / "fashion_mnist" / "labels.npz")
    if (len(images), len(train_labels)) != (rows, 60_000):
        raise FileError(
            f"{folder / 'fashion_mnist'}: {len(images):,} images in {', '.join(names)} and "
            f"{len(train_labels):,} training labels, expected {rows:,} and 60,000; copy the files again"
        )
    chosen = torch.randperm(rows, generator=generator)[: subset + VALIDATION]
    parts = [subset, VALIDATION]
    train, validation = map(Rows, _grey(images[chosen]).split(parts), train_labels[chosen].split(parts))
    test = _read_images(folder / "fashion_mnist" / "test_images.npy.xz")
    other = _read_images(folder / "mnist" / "test_images.npy.xz")
    rows_in, rows_out = (torch.randperm(len(x), generator=generator)[:N_TEST] for x in (test, other))
    return Task(
        name="Fashion-MNIST",
        description="a random part of Fashion-MNIST, without noise",
        train=train,
        validation=validation,
        test=Rows(_grey(test[rows_in]), test_labels[rows_in]),
        ood=_grey(other[rows_out]),
        ood_name="MNIST",
        classes=CLASSES,
        widths=(16, 32, 64),
        strides=(2, 2, 2),
    )


def check(folder: Path, subset: int) -> None:
    """Raises InputError where a file is missing or the subset is too large, before anything is read."""
    if not SMALLEST_SUBSET <= subset <= LARGEST_SUBSET:
        raise InputError(
            f"--subset: got {subset:,}; pass {SMALLEST_SUBSET} to {LARGEST_SUBSET:,}: of 60,000 training "
            f"images {VALIDATION:,} are kept for validation"
        )
    needed = files(folder, subset)
    missing = [path for path in needed if not path.is_file()]
    if missing:
        names = [str(path.relative_to(folder)) for path in needed]
        raise InputError(
            f"--data-dir: no {missing[0].relative_to(folder)} in {folder}; pass --data-dir DIR or set "
            f"SWAG_DATA=DIR, where DIR holds {', '.join(names)} "
            "(images: xz of .npy, uint8 (N, 28, 28); labels: arrays 'train' and 'test')"
        )


def files(folder: Path, subset: int) -> list[Path]:
    """The files that so many training rows need."""
    names = ["labels.npz", *_train_files(subset)[0], "test_images.npy.xz"]
    return [*(folder / "fashion_mnist" / name for name in names), folder / "mnist" / "test_images.npy.xz"]


def _train_files(subset: int) -> tuple[list[str], int]:
    """The training files that hold subset + VALIDATION rows, and how many rows they have."""
    names: list[str] = []
    for name, last in _TRAIN_FILES.items():
        names.append(name)
        if subset + VALIDATION <= last:
            break
    return names, _TRAIN_FILES[names[-1]]


def _read_images(path: Path) -> Tensor:
    try:
        with lzma.open(path) as file:
            images = np.load(io.BytesIO(file.read()), allow_pickle=False)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise FileError(f"{path}: cannot be read ({error}); copy it again") from error
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise FileError(f"{path}: holds {images.dtype} {images.shape}, expected uint8 (N, 28, 28)")
    return torch.from_numpy(images)


def _read_labels(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["train"]).long(), torch.from_numpy(file["test"]).long()
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: cannot be read ({error}); copy it again") from error


def _grey(images: Tensor) -> Tensor:
    """uint8 (N, H, W) → float (N, 1, H, W) from 0 to 1."""
    return images[:, None].float() / 255
