"""What the demo says: figures over members, what did not improve, what it is not, where to go next."""

from __future__ import annotations

import shutil
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from swag.demo.settings import Settings
from swag.report import Metric, Report, Results

Figures = dict[str, dict[str, list[float]]]

# Each step that one pays for, and what one would have without it.
STEPS = (
    ("SWA", "SGD"),
    ("SWAG-diag", "SWA"),
    ("SWAG", "SWA"),
    ("Deep ensemble", "SGD"),
    ("MultiSWA", "Deep ensemble"),
    ("MultiSWAG", "MultiSWA"),
)
IT_IS_A_DEMO = (
    "This is a demo: one small network, small images, one split, a short search for the weight decay and "
    "none for anything else. It shows how to compare methods, not which is best on your problem."
)


def page(report: Report, figures: Figures, weight_decays: Mapping[str, float], width: int = 110) -> str:
    """All that is printed on standard output but the last lines, for a terminal of `width` columns."""
    results = report.results
    members = len(figures["SGD"]["nll"])
    first = "The first member of each method, and the ensembles of all" if members > 1 else "Each method"
    parts = [
        results.title,
        "",
        _wrapped(f"Data: {results.provenance['data']}.", width),
        _wrapped(
            "Weight decay, chosen on the validation images: "
            + _list(f"{value:g} for {family}" for family, value in weight_decays.items())
            + ".",
            width,
        ),
        "",
        f"{first}:",
        "",
        report.table(width),
        "",
    ]
    if members > 1:
        parts += [
            f"Mean ± standard deviation over {members} members (ensembles: the one figure there is):",
            "",
            members_table(columns(results), figures, width),
            "",
        ]
    parts += [
        *(_wrapped(line, width) for line in results.summary[1:]),
        *(_wrapped(line, width) for line in notes(results, figures)),
    ]
    return "\n".join(parts)


def notes(results: Results, figures: Figures) -> tuple[str, ...]:
    """What did not improve over the members, and what a demo cannot show."""
    return (
        *not_improved(columns(results), figures),
        *fooled(columns(results), figures),
        IT_IS_A_DEMO,
    )


def columns(results: Results) -> list[Metric]:
    """The report's metrics that are shown over members too."""
    return [metric for metric in results.metrics if metric.key != "aurc"]


def not_improved(metrics: Sequence[Metric], figures: Figures) -> list[str]:
    """One line for each step after which a mean over members was not better than before it."""
    lines = []
    for method, before in STEPS:
        worse = []
        for metric in metrics:
            new, old = (statistics.fmean(figures[name][metric.key]) for name in (method, before))
            if not (new > old if metric.direction == "higher" else new < old):
                worse.append(f"{metric.label} {new:.3f} against {old:.3f}")
        if worse:
            lines.append(f"{method} did not improve on {before} in {_list(worse)}.")
    return lines or ["Every step improved every column's mean, here."]


def fooled(metrics: Sequence[Metric], figures: Figures) -> list[str]:
    """A line where out-of-distribution images are met with less doubt than test images."""
    lines = []
    for metric in metrics:
        methods = [method for method, row in figures.items() if statistics.fmean(row[metric.key]) < 0.5]
        if metric.key.startswith("auroc_") and methods:
            lines.append(
                f"{metric.label} is below 0.5 for {_list(methods)}: these methods doubt the "
                "out-of-distribution images less than the test images."
            )
    return lines


def members_table(metrics: Sequence[Metric], figures: Figures, width: int = 110) -> str:
    """One line a method, one column a metric, in as many blocks as the width asks for."""
    names = _padded(["", *figures])
    blocks = [names]
    for metric in metrics:
        column = _padded([metric.label, *(_spread(row[metric.key]) for row in figures.values())])
        if blocks[-1] is not names and len(blocks[-1][0]) + 2 + len(column[0]) > width:
            blocks.append(names)
        blocks[-1] = [f"{line}  {cell}" for line, cell in zip(blocks[-1], column, strict=True)]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def ending(files: Sequence[Path], settings: Settings) -> str:
    """Where the files are and what to try next."""
    page, mixture = settings.output / "report.html", settings.output / "multiswag.safetensors"
    return "\n".join(
        [
            f"Written to {settings.output}: {_list(path.name for path in files)}.",
            f"Next: open {page}; run again with --seed {settings.seed + 1} and see which differences stay.",
            f'In Python: swag.load("{mixture}").sample(30) draws the weights of 30 networks.',
        ]
    )


def terminal_width() -> int:
    """Columns to print in; 110 where standard output is no terminal."""
    return max(60, shutil.get_terminal_size((110, 24)).columns)


def _spread(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"


def _list(items: Iterable[str]) -> str:
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _padded(cells: Sequence[str]) -> list[str]:
    return [cell.ljust(max(map(len, cells))) for cell in cells]


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(f"- {line}", width=width, subsequent_indent="  ")
