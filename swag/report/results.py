"""What a report knows, as frozen values: every table, plot and file is drawn from these, from nothing else.

The nesting of these classes is the JSON schema (`swag.report.document` writes and reads it), so a field
renamed here is a new schema version.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Direction = Literal["higher", "lower", "none"]
Verdict = Literal["better", "worse", "no difference", "undetermined"]
Mark = Literal["best", "tied", ""]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A column: its key in the JSON file, how it is written, which way is better (if any), what it means."""

    key: str
    label: str
    unit: str
    direction: Direction
    definition: str
    interval: str


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One figure with its interval.

    Attributes:
        value: The figure on all rows; may be infinite (NLL), None where it was not asked for.
        low: Lower end of the interval, None where the resamples do not support one (one row, no spread).
        high: Upper end of the interval, or None.
        mark: "best" in its column, "tied" where the paired difference from the best includes 0, or "".
        infinite_rows: Rows whose contribution is infinite (NLL: the true class had probability 0).
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    mark: Mark = ""
    infinite_rows: int = 0


@dataclasses.dataclass(frozen=True)
class Difference:
    """A method minus the baseline on the same rows, with the interval of the paired resamples."""

    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the figures depend on besides the data."""

    n_bins: int
    n_bootstrap: int
    level: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability diagram: per bin (B + 1 edges) counts, mean confidence, accuracy, Wilson interval."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class Curve:
    """Points of a curve, thinned for plotting."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Fractions of rows per bin (edges: B + 1 values)."""

    edges: tuple[float, ...]
    fractions: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """How one method treats one class: one-vs-rest calibration and recall."""

    method: str
    name: str
    n_rows: int
    recall: float | None
    mean_probability: float
    frequency: float
    ece: float


@dataclasses.dataclass(frozen=True)
class UncertainInput:
    """One of the rows a method was least sure of; `image` is a PNG data URI, or "" without images."""

    row: int
    label: str
    prediction: str
    confidence: float
    entropy: float
    image: str


@dataclasses.dataclass(frozen=True)
class OutOfDistribution:
    """One out-of-distribution set: `scores[method][score][measure]`, and its entropy histograms."""

    name: str
    n_rows: int
    scores: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    entropy_out: Mapping[str, Histogram]


@dataclasses.dataclass(frozen=True)
class Classification:
    """What only a classification report has; mappings are keyed by method."""

    n_classes: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    temperatures: Mapping[str, float]
    reliability: Mapping[str, Reliability]
    risk_coverage: Mapping[str, Curve]
    entropy_in: Mapping[str, Histogram]
    worst_classes: tuple[ClassScore, ...]
    uncertain_method: str
    uncertain: tuple[UncertainInput, ...]
    ood: tuple[OutOfDistribution, ...]


@dataclasses.dataclass(frozen=True)
class Regression:
    """What only a regression report has; mappings are keyed by method."""

    pit: Mapping[str, Histogram]
    coverage: Mapping[str, Curve]
    spread: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Results:
    """A whole report: `scores[method][metric]` and `differences[method][metric]` against `baseline`."""

    kind: Literal["classification", "regression"]
    title: str
    n_rows: int
    methods: tuple[str, ...]
    baseline: str
    settings: Settings
    metrics: tuple[Metric, ...]
    scores: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Difference]]
    summary: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, str]
    classification: Classification | None = None
    regression: Regression | None = None
