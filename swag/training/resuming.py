"""What moves the weights (optimizer, schedule, scaler, loaders) in a checkpoint, and back out of it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from swag.errors import FileError, InputError
from swag.training.random_states import loader_states, put_loader_states_
from swag.training.steps import Steps


def parts_of(steps: Steps, loaders: Sequence[Iterable[Any]]) -> dict[str, Any]:
    """Their states, by the names they have in a checkpoint."""
    return {
        "optimizer": steps.optimizer.state_dict(),
        "schedule": None if steps.schedule is None else dict(steps.schedule.state_dict()),
        "scaler": None if steps.scaler is None else steps.scaler.state_dict(),
        "loaders": loader_states(loaders),
    }


def put_parts_(steps: Steps, loaders: Sequence[Iterable[Any]], state: Mapping[str, Any]) -> None:
    """Puts back what `parts_of` gave.

    Raises:
        InputError: something does not fit; what came before it was put back already.
    """
    try:
        if steps.schedule is not None and state["schedule"] is not None:
            steps.schedule.load_state_dict(copy.deepcopy(state["schedule"]))
        # After the schedule, which may set rates; copied, since optimizers go on with the tensors given.
        steps.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if steps.scaler is not None and state["scaler"] is not None:
            steps.scaler.load_state_dict(state["scaler"])
        put_loader_states_(loaders, state["loaders"])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint: does not fit this optimizer, schedule or loader ({error}); set them up as in "
            "the run that wrote it"
        ) from error


def settings_of(steps: Steps, autocast: torch.dtype | None) -> dict[str, Any]:
    """What a run and the one it resumes must share, whichever trainer set it up."""
    return {
        "accumulate": steps.accumulate,
        "clip_norm": steps.clip_norm,
        "autocast": None if autocast is None else str(autocast),
        "grad_scaler": steps.scaler is not None,
        "optimizer": type(steps.optimizer).__name__,
    }


def changed_settings(steps: Steps, state: Mapping[str, Any]) -> list[str]:
    """What the optimizer and the schedule were told otherwise now than in the run that wrote the state.

    Rates that a schedule moves are compared by where they started.
    """
    found = []
    groups = zip(steps.optimizer.param_groups, state["optimizer"].get("param_groups", ()), strict=False)
    for place, (mine, theirs) in enumerate(groups):
        moved = {"momentum", "betas"} if "max_momentum" in mine else set()  # by OneCycleLR, CyclicLR
        for key in mine.keys() & theirs.keys() - {"params", "param_names", "lr"} - moved:
            if _plain(mine[key]) != _plain(theirs[key]):
                name = "starting rate" if key == "initial_lr" else key
                found.append(
                    f"group {place} of the optimizer has {name} {_plain(mine[key])!r:.40} here and "
                    f"{_plain(theirs[key])!r:.40} there"
                )
    if steps.schedule is not None and state["schedule"] is not None:
        own = steps.schedule.state_dict()
        if "shapes" in own and own["shapes"] != state["schedule"].get("shapes"):
            found.append(f"the schedule has {own['shapes']} here and {state['schedule'].get('shapes')} there")
    return sorted(found)


@contextmanager
def settings_kept(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Around preparations: where they fail, the groups' rates and other settings are as they were."""
    before = [
        {key: (value, _copied(value)) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    try:
        yield
    except (InputError, FileError):
        for group, values in zip(optimizer.param_groups, before, strict=False):
            for key in [key for key in group if key != "params" and key not in values]:
                del group[key]
            for key, (value, copied) in values.items():
                if isinstance(value, Tensor):
                    value.detach().copy_(copied)
                group[key] = value
        raise


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, Tensor) else value
    return list(value) if isinstance(value, tuple) else value
