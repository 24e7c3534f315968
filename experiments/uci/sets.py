"""Regression tables with their published train/test splits, read from .npz files, and standardised splits.

A table is `data` (N, columns) with `index_features`, `index_target`, `index_train` (splits, n_train) and
`index_test` (splits, n_test); or `data` whose last column is the target with `test_fold` (N,), row n being in
the test part of split test_fold[n].
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import data
from swag.errors import FileError, InputError

NAMES = ("boston", "energy", "yacht", "wine", "power", "kin8nm", "elevators", "protein")
_FOLDERS = ("", "uci_gal", "uci_large")


@final
@dataclass(frozen=True)
class Table:
    """Rows in original units, and which of them each split trains and tests on."""

    name: str
    features: NDArray[np.float64]  # (N, d)
    target: NDArray[np.float64]  # (N,)
    train: tuple[NDArray[np.int64], ...]
    test: tuple[NDArray[np.int64], ...]

    @property
    def fingerprint(self) -> str:
        """Tells tables apart: a digest of everything in it."""
        digest = hashlib.sha256()
        for array in (self.features, self.target, *self.train, *self.test):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


@final
@dataclass(frozen=True)
class Split:
    """One split, standardised with the mean and standard deviation of its training rows alone.

    Attributes:
        x, y: the training rows (N, d) and (N,), standardised, float32.
        test_x: (M, d), standardised with the same numbers.
        test_y: (M,) in original units, float64.
        centre, unit: y_original = centre + unit · y.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    centre: float
    unit: float


def find(name: str, data_dir: Path | None) -> Path:
    """The file of a set: an .npz file by its path, or any NAME.npz below the data folder or in it."""
    if name.endswith(".npz"):
        for path in (Path(name), *([data_dir / name] if data_dir else [])):
            if path.is_file():
                return path
        raise FileError(f"--set: {name} is missing; pass an .npz file or one of {', '.join(NAMES)}")
    unknown = InputError(
        f"--set: got {name!r}; pass one of {', '.join(NAMES)}, or the path of an .npz file (or the name of "
        "one in --data-dir)"
    )
    if name not in NAMES and (data_dir is None or Path(name).name != name):
        raise unknown
    root = data.folder(data_dir)
    for folder in _FOLDERS:
        if (path := root / folder / f"{name}.npz").is_file():
            return path
    if name not in NAMES:
        raise unknown
    raise FileError(
        f"{name}.npz is neither in {root} nor in its uci_gal/ or uci_large/; pass --data-dir DIR or set "
        "SWAG_DATA"
    )


def read(path: Path) -> Table:
    """The table in an .npz file.

    Raises:
        FileError: not an .npz file, or arrays are missing or do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise FileError(f"{path} cannot be read as .npz ({error})") from error
    rows = arrays.get("data")
    if rows is None or rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number):
        raise FileError(f"{path}: needs an array 'data' (N, columns) of numbers; it has {', '.join(arrays)}")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise FileError(f"{path}: data[{row}, {column}] is {rows[row, column]}; all values must be finite")
    if "test_fold" in arrays:
        folds = arrays["test_fold"].reshape(-1)
        if len(folds) != len(rows):
            raise FileError(f"{path}: test_fold has {len(folds)} entries for {len(rows)} rows")
        columns, target = np.arange(rows.shape[1] - 1), rows.shape[1] - 1
        numbers = range(int(folds.max()) + 1)
        train = tuple(np.flatnonzero(folds != k) for k in numbers)
        test = tuple(np.flatnonzero(folds == k) for k in numbers)
    else:
        columns, target, train, test = _listed(path, arrays, rows.shape)
    for split, (fit, held) in enumerate(zip(train, test, strict=True)):
        if len(fit) == 0 or len(held) == 0:
            raise FileError(f"{path}: split {split} has {len(fit)} training and {len(held)} test rows")
        if np.intersect1d(fit, held).size:
            raise FileError(f"{path}: split {split} has rows both in its training and its test part")
    return Table(path.stem, rows[:, columns], rows[:, target], train, test)


def _listed(
    path: Path, arrays: dict[str, NDArray[np.generic]], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], int, tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]]:
    wanted = ("index_features", "index_target", "index_train", "index_test")
    missing = [key for key in wanted if key not in arrays]
    if missing:
        raise FileError(f"{path}: lacks {', '.join(missing)} (or test_fold); it has {', '.join(arrays)}")
    columns, target, train, test = (np.atleast_1d(arrays[key]) for key in wanted)
    for key, index, limit in zip(
        wanted, (columns, target, train, test), (*shape[::-1][:1] * 2, *shape[:1] * 2), strict=True
    ):
        if not np.issubdtype(index.dtype, np.number) or (index != np.floor(index)).any():
            raise FileError(f"{path}: {key} must hold whole numbers")
        if index.size == 0 or index.min() < 0 or index.max() >= limit:
            raise FileError(f"{path}: {key} must hold indices from 0 to {limit - 1}")
    train, test = np.atleast_2d(train), np.atleast_2d(test)
    if target.size != 1 or len(train) != len(test):
        raise FileError(
            f"{path}: expected one index_target, and as many rows in index_train (has {len(train)}) as in "
            f"index_test (has {len(test)})"
        )
    if int(target.flat[0]) in columns:
        raise FileError(f"{path}: index_target {int(target.flat[0])} is also among index_features")
    whole = np.int64
    return columns.astype(whole), int(target.flat[0]), tuple(train.astype(whole)), tuple(test.astype(whole))


def split(table: Table, number: int) -> Split:
    """One split in standardised units.

    A feature that is constant in the training rows becomes 0 everywhere: it cannot be learned from.

    Raises:
        InputError: the target is constant in the training rows.
    """
    train, test = table.train[number], table.test[number]
    features, target = table.features[train], table.target[train]
    centre, unit = float(target.mean()), float(target.std())
    if not unit > 1e-12 * max(1.0, abs(centre)):
        raise InputError(
            f"{table.name}: the target is constant ({centre:g}) in the training rows of split {number}; "
            "there is nothing to learn"
        )
    mean, std = features.mean(0), features.std(0)
    constant = std <= 1e-12 * np.maximum(1.0, np.abs(mean))
    scale = np.where(constant, np.inf, std)
    return Split(
        x=_float((features - mean) / scale),
        y=_float((target - centre) / unit),
        test_x=_float((table.features[test] - mean) / scale),
        test_y=torch.from_numpy(table.target[test]),
        centre=centre,
        unit=unit,
    )


def alike(splits: Sequence[int], table: Table) -> list[list[int]]:
    """The splits grouped by their numbers of rows: one stack needs tensors of one shape."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number in splits:
        groups.setdefault((len(table.train[number]), len(table.test[number])), []).append(number)
    return list(groups.values())


def _float(array: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(array).float()
