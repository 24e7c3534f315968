"""Questions that many arguments are asked."""

from __future__ import annotations

from numbers import Integral

from swag.errors import InputError


def whole(name: str, value: object, least: int = 1) -> int:
    """A whole number, `least` or more; numpy's count, True and False do not.

    Raises:
        InputError: it is none.

    >>> whole("n_samples", 30)
    30
    """
    if isinstance(value, bool) or not isinstance(value, int | Integral) or value < least:
        raise InputError(f"{name}: got {value!r}; pass a whole number, {least} or more")
    return int(value)
