"""What a framework must be for its integration to work, asked before it is imported."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version

from swag.errors import SwagError


class MissingPackage(SwagError, ImportError):
    """A framework is not installed, or is too old; the text holds the line that mends it."""


def require(package: str, minimum: str, extra: str) -> None:
    """Raises unless the package can be imported and is of this version or a later one.

    Args:
        package: the name it is imported by, e.g. "sklearn".
        minimum: the oldest version that serves, e.g. "2.6"; release numbers alone are compared, so a
            development or pre-release of that version serves, too.
        extra: the extra of this library that brings it.

    Raises:
        MissingPackage: it is missing, cannot be imported (the cause is chained), or is older. It is also the
            standard `ImportError`.

    >>> require("torch", "2.6", "lightning")
    >>> require("no_such_framework", "1.0", "lightning")
    Traceback (most recent call last):
    ...
    swag.integrations.requirements.MissingPackage: no_such_framework: not installed, version 1.0 or later is \
wanted; pip install "swag-torch[lightning]"
    """
    mend = f'pip install "swag-torch[{extra}]"'
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise MissingPackage(
                f"{package}: it needs '{error.name}', which is not installed; {mend}"
            ) from error
        raise MissingPackage(
            f"{package}: not installed, version {minimum} or later is wanted; {mend}"
        ) from error
    except (
        Exception
    ) as error:  # compiled parts that do not match raise anything, torchvision's a RuntimeError
        raise MissingPackage(
            f"{package}: is installed, but importing it raises {type(error).__name__} ({error}); packages in "
            f"this environment do not match: mend them, or make a new one and {mend}"
        ) from error
    folders = list(getattr(module, "__path__", ()))
    if folders and getattr(module, "__file__", None) is None:  # an empty namespace package
        raise MissingPackage(
            f"{package}: not installed (only a folder of that name, {folders[0]}), version {minimum} "
            f"or later is wanted; {mend}"
        )
    found = _version(package, module)
    if found is not None and _release(found) < _release(minimum):
        raise MissingPackage(
            f"{package}: found version {found}, version {minimum} or later is wanted; "
            f"{mend.replace('install', 'install --upgrade')}"
        )


def _version(package: str, module: object) -> str | None:
    """What the module says of itself, or its distribution; None (no objection) where neither speaks."""
    stated = getattr(module, "__version__", None)
    if isinstance(stated, str):
        return stated
    root = package.partition(".")[0]
    try:
        return version(packages_distributions().get(root, [root])[0])
    except PackageNotFoundError:
        return None


def _release(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, without trailing zeros: 2.6.0rc1+cpu → (2, 6)."""
    numbers: list[int] = []
    for part in text.partition("+")[0].split("."):
        digits = len(part) - len(part.lstrip("0123456789"))
        if digits == 0:
            break
        numbers.append(int(part[:digits]))
        if digits < len(part):  # "0rc1": what follows is no release number
            break
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
