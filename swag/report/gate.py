"""A gate for continuous integration: conditions on a report's figures that must not hold.

    SWAG.ece > 0.03                 the figure
    SWAG.nll.low > 0.5              an end of its interval
    SWAG.nll.difference.low > 0     the paired difference from the baseline, and the ends of its interval
    *.ece > 0.03                    any method

Operators: > >= < <= == !=. A metric's name is its key in the JSON file, e.g. auroc_MNIST.
"""

import operator
import re
from collections.abc import Callable

from swag.errors import InputError
from swag.report.results import Difference, Estimate, Results

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_PATTERN = re.compile(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")


def failures(results: Results, condition: str) -> list[str]:
    """What of a report meets a condition that must not hold; empty when the gate is passed.

    Args:
        results: The report's.
        condition: E.g. "SWAG.ece > 0.03".

    Returns:
        One line a figure, e.g. "SWAG.ece is 0.0412 > 0.03".

    Raises:
        InputError: it cannot be read, or names a method, metric or part that the report lacks.
    """
    match = _PATTERN.fullmatch(condition)
    if match is None:
        raise InputError(f'condition {condition!r}: cannot be read; write it like "SWAG.ece > 0.03"')
    path, sign, text = match.groups()
    try:
        bound = float(text)
    except ValueError:
        raise InputError(f"condition {condition!r}: {text!r} is not a number") from None
    methods, metric, parts = _split(results, path, condition)
    found = []
    for method in methods:
        value = _figure(results, method, metric, parts, condition)
        if value is not None and _OPERATORS[sign](value, bound):
            found.append(f"{'.'.join([method, metric, *parts])} is {value:.6g} {sign} {text}")
    return found


def _split(results: Results, path: str, condition: str) -> tuple[list[str], str, list[str]]:
    keys = [metric.key for metric in results.metrics]
    for method in sorted(results.methods, key=len, reverse=True):  # names may hold dots
        if path.startswith(f"{method}."):
            rest, methods = path[len(method) + 1 :], [method]
            break
    else:
        if not path.startswith("*."):
            raise InputError(
                f"condition {condition!r}: no such method; use one of {list(results.methods)}, or *"
            )
        rest, methods = path[2:], list(results.methods)
    metric, *parts = rest.split(".")
    if metric not in keys:
        raise InputError(f"condition {condition!r}: no metric {metric!r}; use one of {keys}")
    allowed: tuple[list[str], ...] = (
        [],
        ["low"],
        ["high"],
        ["difference"],
        ["difference", "low"],
        ["difference", "high"],
    )
    if parts not in allowed:
        raise InputError(
            f"condition {condition!r}: {'.'.join(parts)!r} is not low, high or difference[.low|.high]"
        )
    return methods, metric, parts


def _figure(results: Results, method: str, metric: str, parts: list[str], condition: str) -> float | None:
    figure: Estimate | Difference | None = results.scores[method].get(metric)
    if parts[:1] == ["difference"]:
        figure = results.differences.get(method, {}).get(metric)
        parts = parts[1:]
    value = None if figure is None else getattr(figure, parts[0] if parts else "value")
    if value is None and not condition.lstrip().startswith("*."):
        raise InputError(f"condition {condition!r}: the report has no such figure for {method}")
    return None if value is None else float(value)
