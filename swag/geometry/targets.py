"""What a batch should be predicted as, unless the caller says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from swag.errors import InputError

Targets = Callable[[Any], Any]


def targets_of(batch: Any) -> Any:
    """The second element of a tuple or list, a dict's "labels".

    Raises:
        InputError: the batch has neither.
    """
    if isinstance(batch, Mapping) and "labels" in batch:
        return batch["labels"]
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[1]
    raise InputError(
        f"batch: cannot find the targets in a {type(batch).__name__}; give (inputs, targets), or pass "
        "targets=lambda batch: ... to say where they are"
    )
