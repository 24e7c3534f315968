"""What a classification report computes from probabilities and labels: the columns of its table."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from swag.errors import InputError
from swag.metrics.binning import bin_edges, bin_index
from swag.metrics.classification import row_scores
from swag.metrics.selective import risk_coverage
from swag.metrics.temperature import fit_temperature
from swag.report import bootstrap
from swag.report.columns import Column
from swag.report.definitions import classification_metrics
from swag.report.inputs import ClassProbabilities, Labels, class_labels, class_probabilities
from swag.report.intervals import wilson_interval
from swag.report.results import ClassScore, Curve, Histogram, Reliability, Settings
from swag.report.sampled import CalibrationErrors, Proportions, Resampled

Array = npt.NDArray[np.float64]

_CURVE_POINTS = 200
_ENTROPY_BINS = 25


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What the metrics need of every method's rows, (M, N) each."""

    correct: Array
    confidence: Array
    nll: Array
    brier: Array
    bins: npt.NDArray[np.intp]


def rows_of(outputs: Sequence[ClassProbabilities], labels: Labels, n_bins: int) -> Rows:
    """Row contributions of M methods; the NLL is from log-probabilities where there are any."""
    index, y = torch.arange(len(labels), device="cpu"), torch.from_numpy(labels)
    scores = [row_scores(output.probs, labels) for output in outputs]
    nlls = [
        row.nll if output.log_probs is None else -output.log_probs[index, y].double()
        for row, output in zip(scores, outputs, strict=True)
    ]

    def stacked(columns: Iterable[torch.Tensor]) -> Array:
        return torch.stack([column.double() for column in columns]).numpy()

    return Rows(
        correct=stacked(row.correct for row in scores),
        confidence=stacked(row.confidence for row in scores),
        nll=stacked(nlls) + 0.0,
        brier=stacked(row.brier for row in scores),
        bins=np.stack([bin_index(row.confidence, n_bins).numpy() for row in scores]),
    )


def columns(
    outputs: Mapping[str, ClassProbabilities],
    labels: Labels,
    temperature_nll: Mapping[str, Array],
    settings: Settings,
) -> list[Column]:
    """Every column that needs the test rows alone, from one set of resamples.

    Args:
        outputs: By method.
        labels: (N,).
        temperature_nll: (N,) row NLLs after temperature scaling, of the methods that have validation rows.
        settings: Bins, replicates, level, seed.
    """
    methods, n = tuple(outputs), len(labels)
    rows = rows_of(list(outputs.values()), labels, settings.n_bins)
    m, gaps = len(methods), rows.correct - rows.confidence
    accepted = [
        bootstrap.Acceptance.of(1.0 - hit, p) for hit, p in zip(rows.correct, rows.confidence, strict=True)
    ]
    contributions = np.concatenate([rows.nll, rows.brier, *(nll[None] for nll in temperature_nll.values())])
    ones = np.ones((1, n))
    means, gap_sums, aurcs = [], [], []
    for weights in bootstrap.weight_chunks(n, settings.n_bootstrap, settings.seed):
        means.append(bootstrap.weighted_means(contributions, weights))
        gap_sums.append(bootstrap.bin_sums(gaps, rows.bins, settings.n_bins, weights))
        aurcs.append(_aurcs(accepted, weights))
    replicates = np.concatenate(means, axis=1)
    values = bootstrap.weighted_means(contributions, ones)[:, 0]

    def mean_of(first: int, count: int) -> Resampled:
        part = slice(first, first + count)
        return Resampled(values[part], replicates[part], (contributions[part] / n,), settings.level)

    metric = classification_metrics(settings.n_bins)
    infinite = np.isposinf(contributions).sum(axis=1)
    found = [
        Column(metric["accuracy"], methods, Proportions(rows.correct, settings.level)),
        Column(metric["nll"], methods, mean_of(0, m), tuple(int(k) for k in infinite[:m])),
    ]
    if temperature_nll:
        scaled = tuple(int(k) for k in infinite[2 * m :])
        found.append(
            Column(
                metric["nll_temperature"],
                tuple(temperature_nll),
                mean_of(2 * m, len(temperature_nll)),
                scaled,
            )
        )
    sums = bootstrap.bin_sums(gaps, rows.bins, settings.n_bins, ones)[:, :, 0]
    calibration = CalibrationErrors(sums, np.concatenate(gap_sums, axis=2), n, settings.level)
    risk = Resampled(_aurcs(accepted, ones)[:, 0], np.concatenate(aurcs, axis=1), (), settings.level)
    return [
        *found,
        Column(metric["brier"], methods, mean_of(m, m)),
        Column(metric["ece"], methods, calibration),
        Column(metric["aurc"], methods, risk),
    ]


def _aurcs(accepted: Sequence[bootstrap.Acceptance], weights: bootstrap.Weights) -> Array:
    return np.stack([bootstrap.aurc(rows, weights) for rows in accepted])


def reliability(rows: Rows, i: int, settings: Settings) -> Reliability:
    """Method i's reliability diagram; empty bins hold None."""
    correct, confidence, bins = rows.correct[i], rows.confidence[i], rows.bins[i]
    counts, sums, hits = (np.bincount(bins, w, settings.n_bins) for w in (None, confidence, correct))
    low, high = wilson_interval(hits, counts, settings.level)

    def per_bin(values: Array) -> tuple[float | None, ...]:
        return tuple(float(v) if k else None for v, k in zip(values, counts, strict=True))

    safe = np.maximum(counts, 1)
    return Reliability(
        edges=bin_edges(settings.n_bins),
        counts=tuple(counts.tolist()),
        confidence=per_bin(sums / safe),
        accuracy=per_bin(hits / safe),
        low=per_bin(low),
        high=per_bin(high),
    )


def risk_coverage_curve(probs: torch.Tensor, labels: Labels) -> Curve:
    """Error rate among the most confident share of rows, at up to 200 shares."""
    curve = risk_coverage(probs, labels, max_points=_CURVE_POINTS)
    return Curve(curve.coverage, curve.risk)


def entropy_histogram(entropy: Array, n_classes: int) -> Histogram:
    """Shares of rows by predictive entropy, from 0 to log C nats."""
    edges = np.linspace(0, np.log(n_classes), _ENTROPY_BINS + 1)
    counts, _ = np.histogram(np.clip(entropy, 0, edges[-1]), edges)
    return Histogram(tuple(edges.tolist()), tuple((counts / len(entropy)).tolist()))


def worst_classes(
    output: ClassProbabilities, labels: Labels, method: str, names: Sequence[str], n_bins: int, most: int = 5
) -> tuple[ClassScore, ...]:
    """The classes with the highest one-vs-rest ECE, Σ_b |Σ_{i∈b} (1[y_i = c] − p_ic)| / N, worst first."""
    errors = _one_vs_rest(output.probs, labels, n_bins)
    predicted = output.probs.double().mean(dim=0)
    chosen = output.probs.argmax(dim=1).numpy()
    scores = []
    for c in np.argsort(-errors, kind="stable")[:most]:
        rows = labels == c
        scores.append(
            ClassScore(
                method=method,
                name=names[c],
                n_rows=int(rows.sum()),
                recall=float((chosen[rows] == c).mean()) if rows.any() else None,
                mean_probability=float(predicted[c]),
                frequency=float(rows.mean()),
                ece=float(errors[c]),
            )
        )
    return tuple(scores)


def _one_vs_rest(probs: torch.Tensor, labels: Labels, n_bins: int) -> Array:
    """(C,) Σ_b |Σ_{i∈b} (1[y_i = c] − p_ic)| / N."""
    errors = np.empty(probs.shape[1])
    for c in range(len(errors)):
        p = probs[:, c].contiguous()
        gaps = np.bincount(bin_index(p, n_bins).numpy(), (labels == c) - p.double().numpy(), n_bins)
        errors[c] = np.abs(gaps).sum() / len(labels)
    return errors


def temperature_nll(
    outputs: Mapping[str, ClassProbabilities],
    labels: Labels,
    validation: Mapping[str, Any],
    validation_labels: Any,
) -> tuple[dict[str, Array], dict[str, float]]:
    """Row NLLs (N,) after temperature scaling fitted on validation rows, and the temperatures, by method."""
    nlls, temperatures = {}, {}
    for method, given in validation.items():
        if method not in outputs:
            raise InputError(
                f"validation[{method!r}]: no such method in predictions; use some of {list(outputs)}"
            )
        name = f"validation[{method!r}]"
        fitted_on, test = class_probabilities(given, name).probs, outputs[method]
        n_rows, n_classes = fitted_on.shape
        if n_classes != test.probs.shape[1]:
            raise InputError(
                f"{name} has {n_classes} classes, predictions[{method!r}] {test.probs.shape[1]}; "
                "give the same classes"
            )
        if fitted_on.shape == test.probs.shape and torch.equal(fitted_on.to(test.probs), test.probs):
            raise InputError(
                f"{name} holds the very rows of predictions[{method!r}]; fit temperatures on other rows"
            )
        rows = class_labels(validation_labels, n_rows, n_classes, "validation_labels")
        temperatures[method] = fit_temperature(fitted_on, rows)
        logs = test.probs.double().log() if test.log_probs is None else test.log_probs.double()
        scaled = torch.log_softmax(logs / temperatures[method], dim=1)
        nlls[method] = (
            -scaled[torch.arange(len(labels), device="cpu"), torch.from_numpy(labels)].numpy() + 0.0
        )
    return nlls, temperatures
