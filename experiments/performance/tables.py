"""Results as Markdown: the same text in a terminal and in the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(table: Mapping[str, Any]) -> str:
    """A table: figures, and in brackets how many times the limit's they are."""
    columns = table["columns"]
    lines = [f"**{table['title']}**" + (f", {table['unit']}" if table["unit"] else ""), ""]
    lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    limit = next((row for row in table["rows"] if row["name"] == table["limit"]), None)
    for row in table["rows"]:
        name = f"**{row['name']}**" if row["role"] == "ours" else row["name"]
        cells = [_cell(row, column, limit, table["unit"]) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if table["note"]:
        lines += ["", table["note"]]
    return "\n".join(lines)


def goals(found: Sequence[Mapping[str, Any]]) -> str:
    """Goals, what was found, and whether they are met."""
    words = {True: "yes", False: "**no**", None: "–"}
    lines = ["| what | goal | found | met |", "|---|---|---|---|"]
    for goal in found:
        lines.append(f"| {goal['what']} | {goal['goal']} | {goal['found']} | {words[goal['met']]} |")
    return "\n".join(lines)


def contended(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells whose samples were disturbed, as "row (column)"."""
    return [
        f"{row['name']} ({column})"
        for table in tables
        for row in table["rows"]
        for column, cell in row["cells"].items()
        if cell.get("contended")
    ]


def _cell(row: Mapping[str, Any], column: str, limit: Mapping[str, Any] | None, unit: str) -> str:
    cell = row["cells"].get(column)
    if cell is None:
        return "–"
    figure = _figure(cell)
    text = _digits(figure * 1e3 if "median" in cell else figure)
    if limit is not None and limit is not row and column in limit["cells"]:
        base = _figure(limit["cells"][column])
        text += f" ({_digits(figure / base)}×)" if base else ""
    return text + ("*" if cell.get("contended") else "")


def _figure(cell: Mapping[str, Any]) -> float:
    return float(cell["median"] if "median" in cell else cell["value"])


def _digits(figure: float) -> str:
    """Three digits, two from small figures, none after the point from large ones."""
    if figure == 0:
        return "0"
    if abs(figure) >= 100:
        return f"{figure:,.0f}"
    if abs(figure) >= 0.01:
        return f"{figure:.3g}" if abs(figure) >= 1 else f"{figure:.2g}"
    return f"{figure:.1e}".replace("e-0", "e−").replace("e-", "e−")
