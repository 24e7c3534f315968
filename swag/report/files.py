"""Predictions and labels from .npz, .npy, .csv and .parquet, one file a method; pickles are never read.

.npz      probs (N, C), or member_probs (S, N, C), or mean and variance (N,),
          or member_means and member_variances (S, N); labels: labels (N,)
.npy      (N, C) probabilities or (S, N, C) members' probabilities; labels: (N,)
.csv      one column a class, with or without a line of names, or columns named mean and variance;
          labels: a column named labels, or the only one
.parquet  as .csv, with names; needs pyarrow
"""

import csv
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from swag.errors import FileError, InputError
from swag.predictive import CategoricalPredictive, GaussianPredictive

Numbers = npt.NDArray[Any]

_FORMS = (("probs",), ("member_probs",), ("mean", "variance"), ("member_means", "member_variances"))
_DIMENSIONS = {
    "probs": 2,
    "member_probs": 3,
    "mean": 1,
    "variance": 1,
    "member_means": 2,
    "member_variances": 2,
}


def read_predictions(path: str | os.PathLike[str]) -> Any:
    """One method's predictions, as `swag.Report` takes them: probabilities (N, C) or a predictive.

    Raises:
        FileError: missing, truncated, or pickled.
        InputError: it holds something else, or shapes that do not fit.
    """
    arrays = _read(path)
    name = os.fspath(path)
    if "" in arrays:  # a bare array, without names
        array = arrays[""]
        if array.ndim not in (2, 3):
            raise InputError(f"{name}: shape {array.shape}; give probabilities (N, C) or (S, N, C)")
        arrays = {"probs" if array.ndim == 2 else "member_probs": array}
    found = [form for form in _FORMS if all(key in arrays for key in form)]
    if len(found) != 1:
        raise InputError(
            f"{name}: holds {sorted(arrays) or 'nothing'}; give exactly one of "
            + ", ".join(" with ".join(form) for form in _FORMS)
        )
    parts = []
    for key in found[0]:
        array = arrays[key]
        if array.ndim != _DIMENSIONS[key] or array.dtype.kind != "f" or not array.size:
            raise InputError(
                f"{name}: {key} is {array.dtype} of shape {array.shape}; give floating-point numbers of "
                f"{_DIMENSIONS[key]} dimension(s), at least one row"
            )
        parts.append(torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))))
    try:
        if found[0] == ("probs",):
            return parts[0]
        if found[0] == ("member_probs",):
            return CategoricalPredictive.from_probs(parts[0])
        means, variances = (part[None] if part.ndim == 1 else part for part in parts)
        return GaussianPredictive(means, variances)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def read_labels(path: str | os.PathLike[str]) -> Numbers:
    """Labels or targets (N,).

    Raises:
        FileError: missing, truncated, or pickled.
        InputError: there are none in it, or of another shape.
    """
    arrays = _read(path)
    if len(arrays) == 1 and "labels" not in arrays:
        only = next(iter(arrays.values()))
        arrays = {"labels": only[:, 0] if only.ndim == 2 and only.shape[1] == 1 else only}
    if "labels" not in arrays:
        raise InputError(
            f"{os.fspath(path)}: holds {sorted(arrays)}; name the labels' array or column labels"
        )
    labels = arrays["labels"]
    if labels.ndim != 1 or labels.dtype.kind not in "iuf" or not labels.size:
        raise InputError(
            f"{os.fspath(path)}: labels is {labels.dtype} of shape {labels.shape}; give numbers (N,), N ≥ 1"
        )
    if labels.dtype.kind == "f" and Path(path).suffix == ".csv" and (labels == np.floor(labels)).all():
        return labels.astype(np.int64)  # text does not tell 1 from 1.0
    return labels


def _read(path: str | os.PathLike[str]) -> dict[str, Numbers]:
    readers: Mapping[str, Callable[[Path], dict[str, Numbers]]] = {
        ".npz": _read_npz,
        ".npy": lambda file: {"": np.load(file, allow_pickle=False)},
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    file = Path(path)
    if file.suffix.lower() not in readers:
        raise InputError(f"{file}: suffix {file.suffix!r}; use one of {', '.join(readers)}")
    if not file.is_file():
        raise FileError(f"{file}: no such file")
    try:
        return readers[file.suffix.lower()](file)
    except (InputError, FileError):
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if "pickle" in str(error).lower():
            raise FileError(f"{file}: holds pickled objects, which are refused; save plain arrays") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{file}: cannot be read, cut short perhaps ({reason}); write it again") from None


def _read_npz(file: Path) -> dict[str, Numbers]:
    with np.load(file, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _read_csv(file: Path) -> dict[str, Numbers]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        lines = [line for line in csv.reader(stream) if line]
    if not lines:
        raise InputError(f"{file}: is empty; give one line a row")
    names = None if all(_is_number(cell) for cell in lines[0]) else [cell.strip() for cell in lines.pop(0)]
    width = len(names or lines[0])
    for number, line in enumerate(lines, start=2 if names else 1):
        if len(line) != width or not all(_is_number(cell) for cell in line):
            raise InputError(
                f"{file}: line {number} does not hold {width} numbers; one column a class, commas between"
            )
    table = np.array([[float(cell) for cell in line] for line in lines], dtype=np.float64).reshape(-1, width)
    return _from_columns(table, names)


def _read_parquet(file: Path) -> dict[str, Numbers]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise InputError(f"{file}: .parquet needs pyarrow; install it, or save .npz") from None
    try:
        table = read_table(file)
    except ArrowException as error:
        raise FileError(f"{file}: cannot be read ({str(error).splitlines()[0]}); write it again") from None
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    if any(column.dtype.kind not in "iuf" for column in columns.values()):
        raise InputError(f"{file}: columns must be numbers, one a class")
    if "labels" in columns:
        return {"labels": columns["labels"]}
    return _from_columns(np.stack(list(columns.values()), axis=1).astype(np.float64), list(columns))


def _from_columns(table: Numbers, names: list[str] | None) -> dict[str, Numbers]:
    for wanted in (("mean", "variance"), ("labels",)):
        if names and set(wanted) <= set(names):
            return {name: table[:, names.index(name)] for name in wanted}
    return {"": table}


def _is_number(cell: str) -> bool:
    try:
        return not math.isinf(float(cell))
    except ValueError:
        return False
