"""Which figures a page shows, each drawn as inline SVG from the results."""

from functools import partial
from typing import TYPE_CHECKING, Any

from swag.report.plots import (
    plot_confidence_histogram,
    plot_coverage,
    plot_entropy_histogram,
    plot_pit,
    plot_reliability,
    plot_risk_coverage,
)
from swag.report.results import Classification, Regression, Results
from swag.report.svg import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def classification_figures(results: Results) -> dict[str, Any]:
    """SVG by section; small multiples are lists of (caption, svg)."""
    details = results.classification
    assert details is not None
    diagrams = [
        (
            method,
            draw(
                partial(_paint_reliability, details, method),
                2.5,
                3.05,
                f"Reliability diagram of {method}: accuracy against confidence in bins, and rows per bin",
                f"r{k}",
            ),
        )
        for k, method in enumerate(results.methods)
    ]
    risk = draw(
        partial(_paint_risk, details),
        4.8,
        3.6,
        "Risk–coverage curves: error rate among the most confident rows",
        "c",
    )
    entropies = []
    for s, ood in enumerate(details.ood):
        panels = [
            (
                method,
                draw(
                    partial(_paint_entropy, details, s, method),
                    2.5,
                    1.75,
                    f"Entropies of {method} on test rows and on {ood.name}",
                    f"e{s}-{k}",
                ),
            )
            for k, method in enumerate(ood.entropy_out)
        ]
        entropies.append({"name": ood.name, "panels": panels})
    return {"reliability": diagrams, "risk_coverage": risk, "entropies": entropies}


def regression_figures(results: Results) -> dict[str, Any]:
    """SVG by section of a regression report."""
    details = results.regression
    assert details is not None
    histograms = [
        (
            method,
            draw(
                partial(_paint_pit, results, method),
                2.5,
                1.9,
                f"Histogram of the probability integral transform of {method}",
                f"p{k}",
            ),
        )
        for k, method in enumerate(results.methods)
    ]
    coverage = draw(
        partial(_paint_coverage, details),
        4.8,
        3.9,
        "Share of targets inside central intervals, by level",
        "v",
    )
    return {"pit": histograms, "coverage": coverage}


def _paint_reliability(details: Classification, method: str, figure: "Figure") -> None:
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    plot_reliability(upper, details.reliability[method])
    upper.set_xlabel("")
    plot_confidence_histogram(lower, details.reliability[method])


def _paint_risk(details: Classification, figure: "Figure") -> None:
    ax = figure.subplots()
    plot_risk_coverage(ax, details.risk_coverage)
    if len(details.risk_coverage) > 1:
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower left", ncols=3, handlelength=2.6)


def _paint_entropy(details: Classification, k: int, method: str, figure: "Figure") -> None:
    plot_entropy_histogram(figure.subplots(), details.entropy_in[method], details.ood[k].entropy_out[method])


def _paint_pit(results: Results, method: str, figure: "Figure") -> None:
    assert results.regression is not None
    pit = results.regression.pit[method]
    plot_pit(figure.subplots(), pit, results.n_rows, level=results.settings.level)


def _paint_coverage(details: Regression, figure: "Figure") -> None:
    ax = figure.subplots()
    plot_coverage(ax, details.coverage)
    if len(details.coverage) > 1:
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower left", ncols=3, handlelength=2.6)
