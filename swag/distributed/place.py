"""Which process this is, and which device is its own."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from swag.errors import InputError


def place() -> tuple[int, int]:
    """This process's rank and the number of ranks: the process group's, or torchrun's, or of one alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def own_device(device: torch.device | str | None) -> torch.device | None:
    """The device of this rank: an accelerator without a number gets the local rank's."""
    if device is None:
        return None
    named = torch.device(device)
    if named.type == "cpu" or named.index is not None or named.type == "mps":
        return named
    n = torch.get_device_module(named).device_count()
    if n == 0:
        raise InputError(f"device: got {device!r}, and there is none; pass 'cpu' or leave it out")
    return torch.device(named.type, int(os.environ.get("LOCAL_RANK", 0)) % n)
