"""What the trainers' arguments may be, checked before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from swag.batches import check_loader, is_iterator
from swag.errors import InputError
from swag.training.callbacks import Callback
from swag.training.every_step import EveryStep

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
MakeSchedule = Callable[[torch.optim.Optimizer], Any]

# The rate and weight decay of the papers' VGG-16 on CIFAR.
RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4


def rereadable(loader: Iterable[Any], epochs: int) -> None:
    """Raises InputError for what cannot be read once an epoch."""
    check_loader("train_loader", loader)
    if epochs > 1 and is_iterator(loader):
        raise InputError(
            "train_loader: is an iterator, which can be read once; pass a DataLoader or a list of batches"
        )


def checked_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """The callbacks, each of which can be called.

    Raises:
        InputError: no list, or one that cannot.
    """
    if not isinstance(callbacks, Iterable):
        raise InputError(f"callbacks: got a {type(callbacks).__name__}; pass a list, as in [callback]")
    found = tuple(callbacks)
    for index, callback in enumerate(found):
        if not callable(callback) or isinstance(callback, type):
            raise InputError(
                f"callbacks: number {index} is {callback!r:.80}; pass functions, or objects that can be "
                "called with an Epoch"
            )
    return found


def optimizer_for(
    model: nn.Module, optimizer: torch.optim.Optimizer | MakeOptimizer | None
) -> torch.optim.Optimizer:
    """The optimizer that was meant: the default, what a factory makes, or the instance itself.

    Raises:
        InputError: none of these, one of another model's parameters, or one that needs a closure.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("model: no parameter requires a gradient; unfreeze some before training")
    if optimizer is None:
        return torch.optim.SGD(trainable, lr=RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    made: Any = optimizer
    if not hasattr(made, "param_groups"):
        if not callable(made):
            raise InputError(
                f"optimizer: got a {type(optimizer).__name__}; pass a torch optimizer, or a function such as "
                "lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
            )
        made = made(trainable)
        if not hasattr(made, "param_groups"):
            raise InputError(f"optimizer: the function returned a {type(made).__name__}, not an optimizer")
    held = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    if not held & {id(parameter) for parameter in trainable}:
        raise InputError("optimizer: holds none of the model's parameters; build it from model.parameters()")
    if isinstance(made, torch.optim.LBFGS):
        raise InputError("optimizer: LBFGS needs a closure, which this loop lacks; write one of your own")
    return made


def schedule_for(optimizer: torch.optim.Optimizer, schedule: Any) -> Any:
    """The schedule that was meant: an instance over this optimizer, or what a factory makes of it.

    Raises:
        InputError: neither, or one that wants a metric or belongs to another optimizer (one inside an
            `SWAOptimizer` is no other).
    """
    made = schedule
    if isinstance(made, type) or not (hasattr(made, "step") or isinstance(made, EveryStep)):
        if not callable(schedule):
            raise InputError(
                f"schedule: got a {type(schedule).__name__}; pass a torch LR scheduler, or a function such "
                "as lambda optimizer: swag.schedules.cyclical(optimizer, lr_max=0.05, lr_min=0.005, cycle=5)"
            )
        made = schedule(optimizer)
        if not hasattr(made, "state_dict"):
            raise InputError(f"schedule: the function returned a {type(made).__name__}, not an LR scheduler")
    bare = made.schedule if isinstance(made, EveryStep) else made
    if isinstance(bare, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InputError("schedule: ReduceLROnPlateau wants a metric; step it yourself in a callback")
    owner = getattr(bare, "optimizer", optimizer)
    if owner is not optimizer and owner is not getattr(optimizer, "base", optimizer):
        raise InputError("schedule: belongs to another optimizer; pass a function that makes it from one")
    return made


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Around code of the user's that may evaluate the model: training goes on in the modes it was in.

    Layers that were frozen stay frozen, though model.eval() and model.train() were called. Layers that the
    code freezes (`layer.eval()`, the model itself in train mode) are meant to be: they stay so.
    """
    before = [(module, module.training) for module in model.modules()]
    yield
    freezing = model.training
    for module, training in before:
        module.training = training and (module.training or not freezing)


@contextmanager
def train_mode(model: nn.Module) -> Iterator[None]:
    """The model in train mode inside the block, every module back in its own mode afterwards.

    In a model that is in train mode already, modules in eval mode (frozen batch norm) stay as they are.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        if not model.training:
            model.train()
        yield
    finally:
        for module, training in modes:
            module.training = training
