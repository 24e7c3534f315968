"""How numbers are written: as many digits as the intervals deserve, the same in a whole column."""

import math
from collections.abc import Iterable

from swag.report.results import Difference, Direction, Estimate

ARROWS: dict[Direction, str] = {"higher": "↑", "lower": "↓", "none": ""}


def digits(figures: Iterable[Estimate | Difference]) -> int:
    """Decimals that show two digits of the column's middle half-width, at most four of its largest figure."""
    figures = list(figures)
    sizes = [abs(f.value) for f in figures if f.value is not None and math.isfinite(f.value) and f.value]
    halves = sorted(
        (f.high - f.low) / 2
        for f in figures
        if f.low is not None and f.high is not None and math.isfinite(f.high - f.low) and f.high > f.low
    )
    most = 3 - math.floor(math.log10(max(sizes))) if sizes else 3
    wanted = 1 - math.floor(math.log10(halves[len(halves) // 2])) if halves else most
    return min(5, max(0, min(wanted, most)))


def number(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A figure in text: "–" where there is none, ∞, a true minus sign, no "−0.000".

    Example:
        >>> number(-0.00001, 3), number(float("inf"), 3), number(0.25, 2, sign=True)
        ('0.000', '∞', '+0.25')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    if float(text) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def significant(value: float | None) -> str:
    """A figure of unknown size with three significant digits."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def interval(low: float | None, high: float | None, decimals: int, *, sign: bool = False) -> str:
    """An interval in text, or "" where there is none."""
    if low is None or high is None:
        return ""
    return f"[{number(low, decimals, sign=sign)}, {number(high, decimals, sign=sign)}]"


def percent(level: float) -> str:
    """A level in words: 0.95 → "95 %"."""
    return f"{100 * level:g} %"


def count(n: int) -> str:
    """A whole number with its thousands set apart: 10000 → "10,000"."""
    return f"{n:,}"
