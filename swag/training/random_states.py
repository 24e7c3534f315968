"""The random generators that a training run draws from: read, put back, and lent to a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

from swag.noise import checked_seed, key_for

_NUMPY_SEEDS = 1 << 32


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of torch's generators (CPU and `device`), Python's and NumPy's: tensors and plain data."""
    version, numbers, spare = random.getstate()
    name, keys, position, has_gauss, gauss = cast(Any, np.random.get_state(legacy=True))
    return {
        "torch": torch.get_rng_state(),
        "device": _of_device(device),
        "python": [version, torch.tensor(numbers, dtype=torch.int64, device="cpu"), spare],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
    }


def put_random_states_(states: dict[str, Any], device: torch.device) -> None:
    """Puts back what `random_states` gave."""
    torch.set_rng_state(states["torch"])
    if states["device"] is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states["device"], *_which(device))
    version, numbers, spare = states["python"]
    random.setstate((version, tuple(numbers.tolist()), spare))
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))


@contextmanager
def lent_to(seed: int, device: torch.device) -> Iterator[None]:
    """Inside the block all these generators start from `seed`; afterwards they are as they were."""
    seed = checked_seed(seed)
    before = random_states(device)
    try:
        torch.random.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        random.seed(seed)
        np.random.seed(key_for(seed) % _NUMPY_SEEDS)
        yield
    finally:
        put_random_states_(before, device)


def loader_states(loaders: Iterable[Any]) -> list[Any]:
    """The states of loaders: their generators', and their own where they have `state_dict()`."""
    return [
        {
            "generators": [generator.get_state() for generator in generators_of(loader)],
            "own": loader.state_dict() if _has_state(loader) else None,
        }
        for loader in loaders
    ]


def put_loader_states_(loaders: Iterable[Any], states: Iterable[Any]) -> None:
    """Puts back what `loader_states` gave."""
    for loader, state in zip(loaders, states, strict=True):
        for generator, value in zip(generators_of(loader), state["generators"], strict=True):
            generator.set_state(value)
        if state["own"] is not None and _has_state(loader):
            loader.load_state_dict(state["own"])


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a loader, its samplers and its data set, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = [
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
        getattr(loader, "dataset", None),
    ]
    found: list[torch.Generator] = []
    for owner in owners:
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
            found.append(generator)
    return found


def tell_epoch(loader: Any, epoch: int) -> None:
    """Tells the samplers that want to know (`DistributedSampler`) which epoch begins, from 0."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
        if callable(getattr(sampler, "set_epoch", None)):
            sampler.set_epoch(epoch)  # type: ignore[union-attr]


def _of_device(device: torch.device) -> torch.Tensor | None:
    if device.type == "cpu":
        return None
    return torch.get_device_module(device).get_rng_state(*_which(device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """There is one Apple GPU, and its functions take no device."""
    return () if device.type == "mps" else (device,)


def _has_state(loader: Any) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
