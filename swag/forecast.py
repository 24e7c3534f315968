"""What settings cost in memory, before anything is trained; and whether it is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from swag.errors import InputError
from swag.parameters import Layout

# The scratch of `noise.NormalSource` and of drawing in pieces.
_DRAWING = 8 << 20
# A container's limit, what it takes, and the file cache in that, which it can free: both versions of cgroups.
_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


@final
@dataclass(frozen=True)
class Forecast:
    """Bytes above the model itself, for given settings.

    Attributes:
        n_parameters: D.
        rank: K.
        n_samples: S.
        statistics: first snapshot, mean and squared deviations: 3 numbers a parameter.
        deviations: the K rows.
        posterior: mean, variances and rows read out of the collector, while it still exists.
        sampling: S drawn weight vectors, and scratch.
        prediction: S drawn weight vectors and the private copy of the model; activations come on top.
        on_disk: whether the rows lie in a file.
    """

    n_parameters: int
    rank: int
    n_samples: int
    statistics: int
    deviations: int
    posterior: int
    sampling: int
    prediction: int
    on_disk: bool = False

    @property
    def collecting(self) -> int:
        """Memory while training: the statistics, and the rows where they are in memory."""
        return self.statistics + (0 if self.on_disk else self.deviations)

    def __str__(self) -> str:
        rows = [
            ("statistics", self.statistics, "first snapshot, mean, squared deviations"),
            ("deviations", self.deviations, f"{self.rank} rows" + (", on disk" if self.on_disk else "")),
            ("= collecting", self.collecting, "from the first snapshot on"),
            ("posterior", self.posterior, "read out by .swag(), beside the collector"),
            ("sampling", self.sampling, f"{self.n_samples} drawn weight vectors"),
            ("prediction", self.prediction, "the draws and a copy of the model; activations come on top"),
        ]
        lines = [f"{name:<13} {readable(size):>10}  {note}" for name, size, note in rows]
        return "\n".join([f"{self.n_parameters:,} parameters, memory above the model itself:", *lines])


def forecast(
    layout: Layout,
    rank: int = 20,
    *,
    n_samples: int = 30,
    deviation_dtype: torch.dtype = torch.float32,
    on_disk: bool = False,
) -> Forecast:
    """What a collector, its posterior, and an ensemble take for a layout.

    Args:
        layout: the parameters.
        rank: K.
        n_samples: S.
        deviation_dtype: of the rows.
        on_disk: with rows in a file (`deviation_folder`).

    >>> found = forecast(Layout([("weight", (1000, 1000), torch.float32)]), rank=20)
    >>> found.collecting
    92000000
    """
    size, item = layout.size, layout.statistics_dtype.itemsize
    rows = rank * size * deviation_dtype.itemsize
    draws = n_samples * size * item
    model = sum((entry.stop - entry.start) * entry.dtype.itemsize for entry in layout.entries)
    return Forecast(
        n_parameters=size,
        rank=rank,
        n_samples=n_samples,
        statistics=3 * size * item,
        deviations=rows,
        posterior=2 * size * item + rows,
        sampling=draws + _DRAWING,
        prediction=draws + model,
        on_disk=on_disk,
    )


def check_fits(
    layout: Layout, rank: int, *, deviation_dtype: torch.dtype, device: torch.device, on_disk: bool
) -> None:
    """Raises InputError where a collector's memory is not there, and names settings that would fit."""
    there = available_memory(device)
    wanted = forecast(layout, rank, deviation_dtype=deviation_dtype, on_disk=on_disk)
    if there is None or wanted.collecting <= there:
        return
    left = there - wanted.statistics
    dtype = str(deviation_dtype).removeprefix("torch.")
    offers = []
    for name, width in ((dtype, deviation_dtype.itemsize), ("bfloat16", 2)):
        fits = left // max(width * layout.size, 1)
        if fits >= 2 and (name == dtype or width < deviation_dtype.itemsize):
            offers.append(f"rank={min(fits, rank)} with {name} rows")
    if left >= 0 and device.type == "cpu":
        offers.append("deviation_folder= on a disk")
    if left >= 0:
        offers.append("rank=0 (SWA and SWAG-diag)")
    offers.append("fewer parameters with select=")
    raise InputError(
        f"rank: {rank} with {dtype} rows takes {readable(wanted.collecting)} for {layout.size:,} parameters, "
        f"and {readable(there)} are free on {device}; these would fit: {', '.join(offers)}"
    )


def available_memory(device: torch.device) -> int | None:
    """Free bytes on a device, with what the system could free; None where nobody knows."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + (
            torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        )
    if device.type != "cpu":
        return None
    limits = [_group_left(Path(at), limit, used, cache) for at, limit, used, cache in _GROUPS]
    limits.append(_system_left())
    return min((value for value in limits if value is not None), default=None)


def readable(n_bytes: int) -> str:
    """A size for people.

    >>> readable(1_234_567_890), readable(512)
    ('1.23 GB', '512 B')
    """
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}" if unit != "B" else f"{n_bytes} B"
        value /= 1000
    return f"{value:.3g} TB" if value < 1000 else f"{value:,.0f} TB"


def _system_left() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _group_left(folder: Path, limit: str, used: str, cache: tuple[str, ...]) -> int | None:
    try:
        taken = int((folder / used).read_text())
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            taken -= int(value) if name in cache else 0
        return max(int((folder / limit).read_text()) - taken, 0)
    except (OSError, ValueError):  # no such group, or "max"
        return None
