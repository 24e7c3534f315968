"""How `swag.save` finds what writes a sharded object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def save_whole(
    self: Any,
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, str | int | float | bool | None] | None = None,
) -> None:
    """What `swag.save` does with it; collective, see `swag.distributed.save`."""
    from swag.distributed.files import save  # which reads and writes the classes that have this method

    save(path, self, provenance=provenance)
