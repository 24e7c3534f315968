"""The report as text: aligned tables for terminals, Markdown, and CSV."""

import csv
import io
from collections.abc import Sequence

from swag.report.numerals import ARROWS, digits, interval, number, percent
from swag.report.results import Estimate, Mark, Metric, Results

MARKS: dict[Mark, str] = {"best": "*", "tied": "~", "": " "}
_NAME_WIDTH = 28


def text(results: Results, width: int = 110) -> str:
    """Summary, table and paired differences for a terminal of `width` columns."""
    parts = [
        results.title,
        "",
        *_bullets(results.summary, width),
        "",
        scores(results, width),
        "",
        legend(results),
    ]
    if results.differences:
        parts += ["", f"Minus {results.baseline} on the same rows:", differences(results, width)]
    return "\n".join(parts)


def scores(results: Results, width: int = 110) -> str:
    """One line a method, one column a metric, in as many blocks as the width asks for."""
    columns = []
    for metric in results.metrics:
        cells = [results.scores[method].get(metric.key, Estimate(None)) for method in results.methods]
        decimals = digits(cells)
        head = f"{metric.label} {ARROWS[metric.direction]}"
        columns.append((head, [f"{_cell(cell, decimals)}{MARKS[cell.mark]}" for cell in cells]))
    return _blocks(results.methods, columns, width)


def differences(results: Results, width: int = 110) -> str:
    """The paired differences from the baseline, with what they amount to in words."""
    methods = [method for method in results.methods if method in results.differences]
    columns = []
    for metric in results.metrics:
        cells = [results.differences[method].get(metric.key) for method in methods]
        if not any(cells):
            continue
        decimals = digits(cell for cell in cells if cell is not None)
        texts = []
        for cell in cells:
            if cell is None:
                texts.append("–")
                continue
            ends = interval(cell.low, cell.high, decimals, sign=True)
            word = {"no difference": "no diff."}.get(cell.verdict, cell.verdict)
            texts.append(f"{number(cell.value, decimals, sign=True)} {ends} {word}".replace("  ", " "))
        columns.append((f"{metric.label} {ARROWS[metric.direction]}", texts))
    return _blocks(methods, columns, width)


def legend(results: Results, width: int = 110) -> str:
    """What the marks and brackets mean."""
    level = percent(results.settings.level)
    parts = [f"[ ] {level} interval over test rows"]
    if len(results.methods) > 1:
        parts += ["* best in its column", f"~ not told apart from the best at {level}"]
    line = "   ".join(parts)
    return line if len(line) <= width else "\n".join(parts)


def markdown(results: Results) -> str:
    """The summary, the table and the differences as GitHub Markdown."""
    lines = [f"# {_escape(results.title)}", "", *(f"- {_escape(line)}" for line in results.summary), ""]
    heads = [f"{metric.label} {ARROWS[metric.direction]}" for metric in results.metrics]
    lines += _markdown_head(["", *heads])
    decimals = {metric.key: digits(_column(results, metric)) for metric in results.metrics}
    for method in results.methods:
        cells = []
        for metric in results.metrics:
            cell = results.scores[method].get(metric.key, Estimate(None))
            value = number(cell.value, decimals[metric.key])
            value = f"**{value}**" if cell.mark == "best" else value
            tied = " ~" if cell.mark == "tied" else ""
            cells.append(f"{value} {interval(cell.low, cell.high, decimals[metric.key])}".strip() + tied)
        lines.append(f"| {' | '.join([_escape(method), *cells])} |")
    level = percent(results.settings.level)
    lines += [
        "",
        f"[ ] {level} interval over test rows; **bold** best in its column; ~ not told apart from the best.",
    ]
    if results.differences:
        lines += ["", f"## Minus {_escape(results.baseline)} on the same rows", ""]
        lines += _markdown_head(["", "Metric", "Difference", f"{level} interval", "Verdict"])
        for method, row in results.differences.items():
            for metric in results.metrics:
                if metric.key in row:
                    d, k = row[metric.key], decimals[metric.key]
                    cells = [number(d.value, k, sign=True), interval(d.low, d.high, k, sign=True), d.verdict]
                    lines.append(f"| {' | '.join([_escape(method), metric.label, *cells])} |")
    return "\n".join([*lines, ""])


def comma_separated(results: Results) -> str:
    """One row a figure: set and score are empty except in the out-of-distribution tables."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("value", "low", "high", "mark", "difference", "difference_low", "difference_high", "verdict")
    writer.writerow(["method", "metric", "set", "score", *names])
    for method in results.methods:
        for key, cell in results.scores[method].items():
            d = results.differences.get(method, {}).get(key)
            paired = (
                ["", "", "", ""] if d is None else [_plain(d.value), _plain(d.low), _plain(d.high), d.verdict]
            )
            writer.writerow([method, key, "", "", *_plain_cell(cell), *paired])
    for ood in results.classification.ood if results.classification else ():
        for method, by_score in ood.scores.items():
            for score, measures in by_score.items():
                for key, cell in measures.items():
                    writer.writerow([method, key, ood.name, score, *_plain_cell(cell), "", "", "", ""])
    return buffer.getvalue()


def _column(results: Results, metric: Metric) -> list[Estimate]:
    return [results.scores[method].get(metric.key, Estimate(None)) for method in results.methods]


def _cell(cell: Estimate, decimals: int) -> str:
    ends = interval(cell.low, cell.high, decimals)
    return f"{number(cell.value, decimals)} {ends}" if ends else number(cell.value, decimals)


def _plain(value: float | None) -> str:
    return "" if value is None else repr(value)


def _plain_cell(cell: Estimate) -> list[str]:
    return [_plain(cell.value), _plain(cell.low), _plain(cell.high), cell.mark]


def _blocks(names: Sequence[str], columns: Sequence[tuple[str, Sequence[str]]], width: int) -> str:
    shown = [name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…" for name in names]
    first = max(len(name) for name in shown)
    blocks: list[list[str]] = []
    used = width + 1
    for head, cells in columns:
        size = max(len(head), *(len(cell) for cell in cells))
        if used + 2 + size > width:
            blocks.append([" " * first, *(name.ljust(first) for name in shown)])
            used = first
        used += 2 + size
        block = blocks[-1]
        for row, cell in enumerate([head, *cells]):
            block[row] += "  " + cell.ljust(size)
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def _bullets(lines: Sequence[str], width: int) -> list[str]:
    import textwrap

    return [textwrap.fill(line, width, initial_indent="- ", subsequent_indent="  ") for line in lines]


def _markdown_head(heads: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", f"|{'|'.join(['---', *['---'] * (len(heads) - 1)])}|"]


def _escape(value: str) -> str:
    for sign in ("\\", "`", "*", "_", "<", ">", "|", "[", "]"):
        value = value.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return value
