"""The errors this library raises: each names the argument, what came, and the fix.

`InputError` is also a `ValueError` and `StateError` also a `RuntimeError`, so code that catches the
standard ones goes on working; `SwagError` catches them all.
"""


class SwagError(Exception):
    """Anything this library raises on purpose."""


class InputError(SwagError, ValueError):
    """An argument cannot be used as it came; nothing was changed."""


class StateError(SwagError, RuntimeError):
    """The call came at the wrong time, e.g. a posterior was asked for before any snapshot."""


class FileError(SwagError, OSError):
    """A file is missing, damaged, or holds something else than was asked for."""
