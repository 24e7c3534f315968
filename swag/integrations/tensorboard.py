"""A report in TensorBoard: its scores as scalars, its table as text, its diagrams as images.

with SummaryWriter("runs/swag") as writer:
    log_report(writer, report, step=epoch)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, Protocol

from swag.errors import InputError
from swag.integrations.requirements import require
from swag.report import (
    Report,
    Results,
    plot_confidence_histogram,
    plot_coverage,
    plot_entropy_histogram,
    plot_pit,
    plot_reliability,
    plot_risk_coverage,
)
from swag.report.results import Estimate
from swag.report.table import markdown

require("tensorboard", "2.18", "tensorboard")


class Writer(Protocol):
    """What is used of `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None) -> None:
        """One number of a step."""

    def add_text(self, tag: str, text_string: str, global_step: Any = None) -> None:
        """Markdown of a step."""

    def add_figure(self, tag: str, figure: Any, global_step: Any = None) -> None:
        """A matplotlib figure of a step."""


def log_report(writer: Writer, report: Report, step: int, *, tag: str = "report") -> None:
    r"""Writes a report into TensorBoard at a step.

    Scalars are `{tag}/{score}/{method}`, so that the methods of one score stand side by side, with the ends
    of the interval as `{tag}/{score}/{method}/low` and `/high`; out-of-distribution measures are
    `{tag}/ood/{set}/{measure} of {score}/{method}`. What is not finite is in the table alone. The table is
    the text `{tag}`; diagrams (reliability, risk–coverage and entropies, or F(y) and coverage) are the images
    `{tag}/{diagram}/{method}`.

    Args:
        writer: a `SummaryWriter`, or what has its `add_scalar`, `add_text` and `add_figure`, such as the
            `experiment` of Lightning's `TensorBoardLogger`.
        report: a `swag.Report`.
        step: where it stands on the horizontal axis, 0 or more.
        tag: the name everything begins with.

    Raises:
        InputError: something that cannot write, no report, a negative step or no tag; nothing was written.

    >>> import torch, swag
    >>> class Printed:
    ...     def add_scalar(self, tag, value, step):
    ...         print(tag, value, step) if tag == "report/accuracy/coin" else None
    ...     def add_text(self, tag, text, step): pass
    ...     def add_figure(self, tag, figure, step): pass
    >>> report = swag.Report({"coin": torch.full((4, 2), 0.5)}, torch.tensor([0, 0, 0, 1]), n_bootstrap=10)
    >>> log_report(Printed(), report, step=3)
    report/accuracy/coin 0.75 3
    """
    missing = [
        name for name in ("add_scalar", "add_text", "add_figure") if not callable(getattr(writer, name, None))
    ]
    if missing:
        hint = "pass its .experiment" if hasattr(writer, "experiment") else "pass a SummaryWriter"
        raise InputError(f"writer: a {type(writer).__name__} has no {missing[0]}; {hint}")
    if not isinstance(report, Report):
        raise InputError(f"report: got a {type(report).__name__}; pass a swag.Report")
    if isinstance(step, bool) or not isinstance(step, Integral) or step < 0:
        raise InputError(f"step: got {step!r}; pass an integer of at least 0, such as the epoch")
    if not isinstance(tag, str) or not tag:
        raise InputError(f"tag: got {tag!r}; pass a text such as 'validation'")
    results, step = report.results, int(step)
    for name, value in _scalars(results):
        writer.add_scalar(f"{tag}/{name}", value, step)
    writer.add_text(tag, markdown(results), step)
    for name, size, paint in _diagrams(results):
        writer.add_figure(f"{tag}/{name}", _drawn(size, paint), step)


def _scalars(results: Results) -> Iterator[tuple[str, float]]:
    for method, scores in results.scores.items():
        for key, estimate in scores.items():
            yield from _numbers(f"{key}/{method}", estimate)
    for ood in results.classification.ood if results.classification else ():
        for method, by_score in ood.scores.items():
            for score, measures in by_score.items():
                for measure, estimate in measures.items():
                    yield from _numbers(f"ood/{ood.name}/{measure} of {score}/{method}", estimate)


def _numbers(name: str, estimate: Estimate) -> Iterator[tuple[str, float]]:
    ends = {name: estimate.value, f"{name}/low": estimate.low, f"{name}/high": estimate.high}
    for full_name, value in ends.items():
        if value is not None and abs(value) < float("inf"):
            yield full_name, float(value)


Paint = Callable[[Any], object]


def _diagrams(results: Results) -> Iterator[tuple[str, tuple[float, float], Paint]]:
    """Name, size in inches, and what draws on a figure."""
    if results.classification is not None:
        details = results.classification
        for method, reliability in details.reliability.items():
            yield f"reliability/{method}", (3.2, 4.0), _reliability(reliability)
        yield "risk–coverage", (4.8, 3.6), _with_legend(plot_risk_coverage, details.risk_coverage)
        for ood in details.ood:
            for method, outside in ood.entropy_out.items():
                paint = _with_legend(plot_entropy_histogram, details.entropy_in[method], outside)
                yield f"entropies/{ood.name}/{method}", (3.6, 2.6), paint
    if results.regression is not None:
        for method, pit in results.regression.pit.items():
            yield f"F(y)/{method}", (3.6, 2.6), _alone(plot_pit, pit, results.n_rows)
        yield "coverage", (4.4, 3.8), _with_legend(plot_coverage, results.regression.coverage)


def _reliability(reliability: Any) -> Paint:
    def paint(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        plot_reliability(upper, reliability).set_xlabel("")
        plot_confidence_histogram(lower, reliability)

    return paint


def _alone(plot: Callable[..., Any], *values: Any) -> Paint:
    return lambda figure: plot(figure.subplots(), *values)


def _with_legend(plot: Callable[..., Any], *values: Any) -> Paint:
    return lambda figure: plot(figure.subplots(), *values).legend(frameon=False, fontsize=8)


def _drawn(size: tuple[float, float], paint: Paint) -> Any:
    from matplotlib.figure import Figure  # no pyplot: nothing of the caller's is touched

    figure = Figure(figsize=size, layout="constrained")
    paint(figure)
    return figure
