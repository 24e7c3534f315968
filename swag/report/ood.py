"""Out-of-distribution detection: every score of every method, with both sets of rows resampled."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from swag.report import bootstrap
from swag.report.classification import entropy_histogram
from swag.report.columns import Column
from swag.report.definitions import OOD_MEASURES, auroc_metric
from swag.report.inputs import ClassProbabilities
from swag.report.results import Estimate, OutOfDistribution, Settings
from swag.report.sampled import Resampled, estimates

Array = npt.NDArray[np.float64]


def out_of_distribution(
    name: str,
    key: str,
    inside: Mapping[str, ClassProbabilities],
    outside: Mapping[str, ClassProbabilities],
    settings: Settings,
    stream: int,
) -> tuple[OutOfDistribution, Column]:
    """One out-of-distribution set: its table, and the entropy's AUROC as a column of the main table.

    Args:
        name: The set's name.
        key: The column's key.
        inside: Test rows by method.
        outside: The set's rows by method, a subset of the methods.
        settings: Replicates, level, seed.
        stream: The stream of resamples of this set's rows; test rows take stream 0 as everywhere.
    """
    n_classes = next(iter(inside.values())).probs.shape[1]
    methods = tuple(method for method in inside if method in outside)
    pairs = {
        (method, score): (inside[method].scores[score], outside[method].scores[score])
        for method in methods
        for score in inside[method].scores
        if score in outside[method].scores
    }
    found = _sampled(pairs, settings, stream)
    table: dict[str, dict[str, dict[str, Estimate]]] = {method: {} for method in methods}
    for score in dict.fromkeys(score for _, score in pairs):
        having = [method for method in methods if (method, score) in pairs]
        rows = [list(pairs).index((method, score)) for method in having]
        for measure, metric in OOD_MEASURES.items():
            for method, estimate in estimates(_take(found[measure], rows), having, metric.direction).items():
                table[method].setdefault(score, {})[measure] = estimate
    by_entropy = [list(pairs).index((method, "entropy")) for method in methods]
    histograms = {
        method: entropy_histogram(outside[method].scores["entropy"], n_classes) for method in methods
    }
    n_rows = len(outside[methods[0]].probs)
    column = Column(auroc_metric(key, name), methods, _take(found["auroc"], by_entropy))
    return OutOfDistribution(name, n_rows, table, histograms), column


def _sampled(
    pairs: Mapping[tuple[str, str], tuple[Array, Array]], settings: Settings, stream: int
) -> dict[str, Resampled]:
    scores = list(pairs.values())
    n_in, n_out = (len(rows) for rows in scores[0])
    rankings = [bootstrap.Ranking.of(*score) for score in scores]
    size = bootstrap.chunk_size(n_in + n_out)
    replicates: dict[str, list[list[Array]]] = {measure: [[] for _ in scores] for measure in OOD_MEASURES}
    for weights_in, weights_out in zip(
        bootstrap.weight_chunks(n_in, settings.n_bootstrap, settings.seed, size=size),
        bootstrap.weight_chunks(n_out, settings.n_bootstrap, settings.seed, stream=stream, size=size),
        strict=True,
    ):
        for k, ranking in enumerate(rankings):
            for measure, values in bootstrap.detection(ranking, weights_in, weights_out).items():
                replicates[measure][k].append(values)
    units = [bootstrap.detection(ranking, np.ones((1, n_in)), np.ones((1, n_out))) for ranking in rankings]
    influences = [auroc_influences(*score) for score in scores]
    return {
        measure: Resampled(
            np.array([unit[measure][0] for unit in units]),
            np.stack([np.concatenate(parts) for parts in replicates[measure]]),
            (np.stack([u for u, _ in influences]), np.stack([u for _, u in influences]))
            if measure == "auroc"
            else (),
            settings.level,
        )
        for measure in OOD_MEASURES
    }


def auroc_influences(scores_in: Array, scores_out: Array) -> tuple[Array, Array]:
    """P(out > in_i) / N for each test row and P(out_j > in) / N′ for each outside row, ties one half."""
    n_in, n_out = len(scores_in), len(scores_out)
    together = rankdata(np.concatenate([scores_in, scores_out]))
    below_out = (together[n_in:] - rankdata(scores_out)) / n_in
    above_in = 1.0 - (together[:n_in] - rankdata(scores_in)) / n_out
    return above_in / n_in, below_out / n_out


def _take(sampled: Resampled, rows: list[int]) -> Resampled:
    influences = tuple(u[rows] for u in sampled.influences)
    return Resampled(sampled.values[rows], sampled.replicates[rows], influences, sampled.level)
