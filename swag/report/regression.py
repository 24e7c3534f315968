"""What a regression report computes from Gaussian (mixture) predictives and targets."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr, ndtri

from swag.metrics.regression import mean_abs_normal
from swag.report import bootstrap
from swag.report.columns import Column, tabulate
from swag.report.definitions import regression_metrics
from swag.report.inputs import GaussianOutput, gaussian_output, targets
from swag.report.intervals import Array
from swag.report.results import Curve, Histogram, Regression, Results, Settings
from swag.report.sampled import CalibrationErrors, Proportions, Resampled
from swag.report.words import summary

_PIT_BINS = 20
_LEVELS = np.arange(1, 100) / 100


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What the metrics need of one method's rows, (N,) each.

    Attributes:
        squared_error: (y − mean)².
        nll: −log p(y) of the exact mixture, None where members were not kept.
        nll_gaussian: −log N(y; mean, variance).
        crps: Of the exact mixture, or of the Gaussian where members were not kept.
        pit: F(y), likewise.
        width: Of the central interval at the report's level, likewise.
    """

    squared_error: Array
    nll: Array | None
    nll_gaussian: Array
    crps: Array
    pit: Array
    width: Array


def regression_results(
    given: Mapping[str, Any],
    labels: Any,
    baseline: str,
    settings: Settings,
    title: str,
    provenance: Mapping[str, str],
    note: str,
) -> Results:
    """All figures of a regression report; arguments as in `swag.report.build.build`."""
    y = targets(labels)
    outputs = {name: gaussian_output(output, y, f"predictions[{name!r}]") for name, output in given.items()}
    rows = {name: rows_of(output, y, settings.level) for name, output in outputs.items()}
    metrics, scores, differences = tabulate(columns(rows, settings), tuple(outputs), baseline)
    notes = [note]
    approximate = [name for name, output in outputs.items() if output.log_prob is None]
    if approximate:
        notes.append(
            f"{', '.join(approximate)}: members were not kept, so CRPS, coverage, width and PIT are "
            "those of the "
            "Gaussian with the same mean and variance, and there is no NLL of the mixture."
        )
    members = [
        f"{name} {output.n_samples}" for name, output in outputs.items() if output.n_samples is not None
    ]
    details = Regression(
        pit={name: pit_histogram(r.pit) for name, r in rows.items()},
        coverage={name: coverage_curve(r.pit) for name, r in rows.items()},
        spread={name: _spread(output) for name, output in outputs.items()},
    )
    return Results(
        kind="regression",
        title=str(title),
        n_rows=len(y),
        methods=tuple(outputs),
        baseline=baseline,
        settings=settings,
        metrics=metrics,
        scores=scores,
        differences=differences,
        summary=summary("regression", len(y), 0, baseline, metrics, scores, differences, settings),
        notes=tuple(notes),
        provenance={**provenance, **({"members averaged": ", ".join(members)} if members else {})},
        regression=details,
    )


def rows_of(output: GaussianOutput, y: Array, level: float) -> Rows:
    """Row contributions of one method."""
    z, std = (y - output.mean) / np.sqrt(output.variance), np.sqrt(output.variance)
    tail = 0.5 - level / 2
    return Rows(
        squared_error=np.square(y - output.mean),
        nll=None if output.log_prob is None else -output.log_prob,
        nll_gaussian=0.5 * (z**2 + np.log(2 * np.pi * output.variance)),
        crps=_crps(output, y),
        pit=ndtr(z) if output.cdf is None else output.cdf,
        width=2 * std * ndtri(1 - tail)
        if output.quantile is None
        else output.quantile(1 - tail) - output.quantile(tail),
    )


def columns(rows: Mapping[str, Rows], settings: Settings) -> list[Column]:
    """Every column of the table, from one set of resamples.

    Args:
        rows: By method.
        settings: Replicates, level, seed.
    """
    methods, every = tuple(rows), list(rows.values())
    exact = tuple(name for name, r in rows.items() if r.nll is not None)
    kinds = {
        "nll": [r.nll for r in every if r.nll is not None],
        "nll_gaussian": [r.nll_gaussian for r in every],
        "rmse": [r.squared_error for r in every],
        "crps": [r.crps for r in every],
        "width": [r.width for r in every],
    }
    contributions = np.stack([column for found in kinds.values() for column in found])
    n = contributions.shape[1]
    tail = 0.5 - settings.level / 2
    pit = np.stack([r.pit for r in every])
    covered = ((pit >= tail) & (pit <= 1 - tail)).astype(np.float64)
    bins = np.searchsorted(_LEVELS, pit, side="left")
    means, counts = [], []
    for weights in bootstrap.weight_chunks(n, settings.n_bootstrap, settings.seed):
        means.append(bootstrap.weighted_means(contributions, weights))
        counts.append(_quantile_gaps(bins, weights))
    replicates = np.concatenate(means, axis=1)
    ones = np.ones((1, n))
    values = bootstrap.weighted_means(contributions, ones)[:, 0]
    metric = regression_metrics(settings.level)
    found, start = [], 0
    for key, part in kinds.items():
        rows_here = slice(start, start + len(part))
        start += len(part)
        if not part:
            continue
        value, replicate, influence = values[rows_here], replicates[rows_here], contributions[rows_here] / n
        if key == "rmse":
            value, replicate = np.sqrt(value), np.sqrt(replicate)
            influence = influence / np.maximum(2 * value, 1e-300)[:, None]
        sampled = Resampled(value, replicate, (influence,), settings.level)
        found.append(Column(metric[key], exact if key == "nll" else methods, sampled))
    gaps = CalibrationErrors(
        _quantile_gaps(bins, ones)[:, :, 0], np.concatenate(counts, axis=2), n, settings.level
    )
    coverage = Column(metric["coverage"], methods, Proportions(covered, settings.level))
    return [*found[:-1], Column(metric["calibration_error"], methods, gaps), coverage, found[-1]]


def pit_histogram(pit: Array) -> Histogram:
    """Shares of rows by F(y), in 20 bins over [0, 1]; flat where the predictive is calibrated."""
    counts, edges = np.histogram(np.clip(pit, 0, 1), _PIT_BINS, (0, 1))
    return Histogram(tuple(edges.tolist()), tuple((counts / len(pit)).tolist()))


def coverage_curve(pit: Array) -> Curve:
    """Share of targets inside the central interval, by its nominal level."""
    nominal = np.linspace(0, 1, 41)
    inside = np.abs(2 * pit - 1)[None] <= nominal[:, None]
    return Curve(tuple(nominal.tolist()), tuple(inside.mean(axis=1).tolist()))


def _quantile_gaps(bins: npt.NDArray[np.intp], weights: bootstrap.Weights) -> Array:
    """Σ_i w_i (1[u_i ≤ q] − q) / L for the L levels q, (M, L, c): its absolute sum is N times the error."""
    n_levels = len(_LEVELS)
    counts = bootstrap.bin_sums(np.ones(bins.shape), bins, n_levels + 1, weights).cumsum(axis=1)
    return (counts[:, :-1] - _LEVELS[:, None] * counts[:, -1:]) / n_levels


def _crps(output: GaussianOutput, y: Array) -> Array:
    r"""CRPS of a Gaussian, or of a mixture of S Gaussians (Grimit et al. 2006) with A(m, v) = E|N(m, v)|.

    (1/S) Σ_s A(y − μ_s, σ_s²) − 1/(2S²) Σ_st A(μ_s − μ_t, σ_s² + σ_t²).
    """
    at = torch.from_numpy(y)
    if output.member_means is None or output.member_variances is None:
        means, variances = (torch.from_numpy(part)[None] for part in (output.mean, output.variance))
    else:
        means, variances = torch.from_numpy(output.member_means), torch.from_numpy(output.member_variances)
    members = len(means)
    total = torch.zeros_like(at)
    for s in range(members):
        between = mean_abs_normal(means[s] - means[s:], variances[s] + variances[s:])
        total += mean_abs_normal(at - means[s], variances[s]) / members
        total -= (2 * between.sum(0) - between[0]) / (2 * members**2)
    return total.clamp_min(0).numpy()


def _spread(output: GaussianOutput) -> dict[str, float]:
    if output.aleatoric is None:
        return {"variance": float(output.variance.mean())}
    return {
        "variance": float(output.variance.mean()),
        "aleatoric": float(output.aleatoric.mean()),
        "epistemic": float(output.variance.mean() - output.aleatoric.mean()),
    }
