"""Which parameters are meant: None, a predicate, or a list of names, module names and globs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from swag.errors import InputError

Select = Callable[[str, nn.Parameter], bool] | Sequence[str] | None


def selector(select: Select, pairs: list[tuple[str, nn.Parameter]]) -> Callable[[str, nn.Parameter], bool]:
    """The predicate behind a `select` argument, checked against the model's parameters."""
    if select is None:
        return lambda name, parameter: parameter.requires_grad
    if callable(select):
        return select
    if isinstance(select, str):
        raise InputError(f"select: got the string {select!r}; pass a list of patterns, as in [{select!r}]")
    patterns = list(select) if isinstance(select, Iterable) else [select]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(
            f"select: got {select!r}; pass a list of names, module names or globs, or a predicate on "
            "(name, parameter)"
        )
    for pattern in patterns:
        if not any(_matches(name, pattern) for name, _ in pairs):
            raise InputError(
                f"select: the pattern {pattern!r} matches none of the parameters "
                f"({', '.join(name for name, _ in pairs[:4])}, …)"
            )
    return lambda name, parameter: any(_matches(name, pattern) for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern + ".") or fnmatchcase(name, pattern)
