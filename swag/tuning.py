"""Which strategy is fastest on this machine, measured."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from swag.forwarding import Forwarding
from swag.strategy import Compiled, Loop, Strategy, Vmapped


def tune(forwarding: Forwarding, batch: Any, repeats: int) -> tuple[Forwarding, dict[str, float]]:
    """The fastest of the strategies as a ready `Forwarding`, and the seconds of each, fastest first."""
    candidates: list[Strategy] = [
        Loop(),
        Loop(fast=False),
        Vmapped(4),
        Vmapped(len(forwarding.members)),
        Compiled(),
    ]
    ready: dict[str, Forwarding] = {}
    for strategy in candidates:
        tried = forwarding.with_strategy(strategy)
        tried.each(batch, _drop)  # compiles, decides, warms up
        if tried.strategy == strategy:  # it did not fall back
            ready[repr(strategy)] = tried
    taken: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(repeats):  # in turn, so that a busy moment hits all alike
        for name, tried in ready.items():
            taken[name].append(_seconds(tried, batch))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ordered = dict(sorted(medians.items(), key=lambda item: item[1]))
    return ready[next(iter(ordered))], ordered


def _seconds(forwarding: Forwarding, batch: Any) -> float:
    start = time.perf_counter()
    forwarding.each(batch, _drop)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _drop(outputs: Tensor) -> None:
    pass
