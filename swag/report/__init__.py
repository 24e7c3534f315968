"""Every calibration, out-of-distribution and regression figure with its uncertainty, in one file to open.

    Predictive ──► Results ──► table, HTML, JSON, Markdown, CSV, plots

`build` computes frozen `Results` once; everything else only reads them.
"""

from swag.report.files import read_labels, read_predictions
from swag.report.plots import (
    plot_confidence_histogram,
    plot_coverage,
    plot_entropy_histogram,
    plot_pit,
    plot_reliability,
    plot_risk_coverage,
)
from swag.report.report import Report
from swag.report.results import Difference, Estimate, Metric, Results

__all__ = [
    "Difference",
    "Estimate",
    "Metric",
    "Report",
    "Results",
    "plot_confidence_histogram",
    "plot_coverage",
    "plot_entropy_histogram",
    "plot_pit",
    "plot_reliability",
    "plot_risk_coverage",
    "read_labels",
    "read_predictions",
]
