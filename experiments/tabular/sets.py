"""Adult and the two wines, from disk; and stand-ins out of scikit-learn, which need no data folder."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes

from experiments.data import at, folder

NUMBERS = {"age": 0, "fnlwgt": 2, "education-num": 4, "capital-gain": 10, "capital-loss": 11, "hours": 12}
COLUMNS = 14


@dataclass(frozen=True)
class Table:
    """Mixed columns, as an object array (N, F), and labels 0 or 1."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    numbers: list[int]

    @property
    def categories(self) -> list[int]:
        return [column for column in range(self.train.shape[1]) if column not in self.numbers]


@dataclass(frozen=True)
class Shift:
    """Rows (N, F + 1) whose last column is the target: those to learn from, and others to which one moves."""

    near: np.ndarray
    far: np.ndarray
    threshold: float  # the target is "high" from here on, for classification


def adult(data_dir: Path | None) -> Table:
    """32,561 + 16,281 people of the census of 1994, and whether they earned more than 50,000 dollars."""
    root = folder(data_dir)
    train, test = (_people(at(root, "adult", f"adult.{part}.xz")) for part in ("data", "test"))
    return Table(*train, *test, list(NUMBERS.values()))


def wines(data_dir: Path | None) -> Shift:
    """1,599 red and 4,898 white wines: 11 measurements, and the quality that tasters gave (3 to 9)."""
    with np.load(at(folder(data_dir), "wine_shift", "wine_red_white.npz")) as arrays:
        return Shift(arrays["red"], arrays["white"], threshold=6)


def tumours() -> Table:
    """Breast cancer, two of its columns cut into named quarters: stands in for Adult with --quick."""
    features, labels = load_breast_cancer(return_X_y=True)
    table = features[:, :8].astype(object)
    for column in (6, 7):
        edges = np.quantile(features[:, column], [0.25, 0.5, 0.75])
        table[:, column] = np.array(["low", "middling", "high", "highest"])[
            np.digitize(features[:, column], edges)
        ]
    order = np.random.default_rng(0).permutation(len(table))
    table, labels = table[order], labels[order]
    return Table(table[:400], labels[:400], table[400:], labels[400:], list(range(6)))


def patients() -> Shift:
    """Diabetes, the lighter two thirds and the heavier third: stands in for the wines with --quick."""
    features, target = load_diabetes(return_X_y=True)
    rows = np.column_stack([features, target])
    heavy = features[:, 2] > np.quantile(features[:, 2], 2 / 3)
    return Shift(rows[~heavy], rows[heavy], threshold=float(np.median(target[~heavy])))


def _people(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with lzma.open(path, "rt", encoding="utf8") as file:
        lines = [line.strip().rstrip(".").split(", ") for line in file]
    people = [line for line in lines if len(line) == COLUMNS + 1]
    table = np.array([line[:-1] for line in people], dtype=object)
    for column in NUMBERS.values():
        table[:, column] = table[:, column].astype(float)
    return table, np.array([line[-1] == ">50K" for line in people], dtype=np.int64)
