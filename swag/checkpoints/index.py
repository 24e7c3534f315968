"""The index of a sharded checkpoint, as Hugging Face's libraries write it: which file holds which tensor."""

from __future__ import annotations

import json
from pathlib import Path

from swag.errors import FileError
from swag.tensorfile import unique_keys

_LARGEST = 1 << 25


def read_index(index: Path) -> dict[str, Path]:
    """The shard of every tensor, by the tensor's name; shards lie beside the index, nowhere else.

    Raises:
        FileError: the index is damaged, or a shard is missing or lies in another folder.
    """
    try:
        if index.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        document = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
        places = document["weight_map"]
        if not isinstance(places, dict) or not places:
            raise ValueError("weight_map names no tensor")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"{index}: not a whole index ({error!r}); copy or write it again") from error
    found: dict[str, Path] = {}
    for name, shard in places.items():
        if (
            not isinstance(shard, str)
            or shard in ("", ".", "..")
            or "/" in shard
            or "\\" in shard
            or "\0" in shard
        ):
            raise FileError(
                f"{index}: tensor '{name}' lies in {shard!r:.200}; a shard lies in the index's own folder"
            )
        found[name] = index.parent / shard
    missing = next((shard for shard in found.values() if not shard.is_file()), None)
    if missing is not None:
        raise FileError(f"{index}: the shard {missing.name} is missing; copy it into the same folder")
    return found
