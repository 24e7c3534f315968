"""Which strategies and other callbacks a `SWAGCallback` can work with."""

from __future__ import annotations

from typing import Protocol

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from swag.errors import InputError


class Collecting(Protocol):
    """What is asked of such callbacks."""

    validate_average: bool

    @property
    def state_key(self) -> str:
        """Its name in checkpoints."""

    @property
    def sets_rates(self) -> bool:
        """Whether it sets learning rates."""


def check_strategy(trainer: Trainer) -> None:
    """Raises InputError for strategies that hide the parameters."""
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
        raise InputError(
            f"strategy: {type(trainer.strategy).__name__} keeps parameters without names and shapes; use "
            "DDP, or ModelParallelStrategy with torch's fully_shard in configure_model"
        )


def check_callbacks(mine: Collecting, swags: list[Collecting], others: list[Callback]) -> None:
    """Raises InputError for callbacks that would work against this one.

    Args:
        mine: the callback that asks.
        swags: the trainer's others of its kind.
        others: the trainer's callbacks of other kinds.
    """
    if any(other is mine or other.state_key == mine.state_key for other in swags):
        raise InputError(
            f"callbacks: {mine.state_key} is there twice; pass one, or tell them apart with name="
        )
    averaging = [o for o in swags if o.validate_average] + [
        c for c in others if isinstance(c, WeightAveraging)
    ]
    if mine.validate_average and averaging:
        raise InputError(
            f"validate_average: {type(averaging[0]).__name__} puts its average into the module for "
            "validation, too; leave that to one of them"
        )
    rated = [o for o in swags if o.sets_rates]
    rated += [c for c in others if isinstance(c, StochasticWeightAveraging)]  # type: ignore[misc]
    if mine.sets_rates and rated:
        raise InputError(
            f"swa_lr: {type(rated[0]).__name__} sets the learning rate, too; leave that to one of them"
        )
