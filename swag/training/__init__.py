"""The training side: averaging while a network is trained, by one call or piece by piece.

    result = swag.training.train(model, train_loader, loss, epochs=100, swa_start=0.75)
    ensemble = result.ensemble(n_samples=30, seed=0)

`train` is built from pieces that work alone: a schedule of `swag.schedules`, a `swag.Collector`, a loop of
the user's own. Names are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swag.training.averages import Average, RunningAverage, Swap
    from swag.training.callbacks import Callback, CollectInto, Epoch, Step, Stop
    from swag.training.custom_average import CustomAverage
    from swag.training.every_step import EveryStep
    from swag.training.fast_geometric import FGE, fge
    from swag.training.losses import DivergedError
    from swag.training.migrate import from_averaged_model, from_swa_gaussian, load_torchcontrib_
    from swag.training.multi import TrainedMembers, train_multi
    from swag.training.optimizer import SWAOptimizer
    from swag.training.result import Trained
    from swag.training.rules import EMA, DebiasedEMA, Equal, Rule
    from swag.training.semi_supervised import (
        UNLABELLED,
        CollectAt,
        Consistency,
        MeanTeacher,
        PiModel,
        SemiSupervised,
        Supervised,
        TwoHeads,
        TwoStreams,
        TwoStreamSampler,
        train_semi_supervised,
    )
    from swag.training.snapshots import Snapshots
    from swag.training.swap_phases import LargeBatch, SmallBatch
    from swag.training.swap_recipe import swap
    from swag.training.swap_result import SwapResult
    from swag.training.trainer import continue_training, train
    from swag.training.triggers import NonMonotonicTrigger
    from swag.training.window_average import WindowAverage

# Where each public name lives. No module here is called as one of the names is: it would take its place.
_HOMES = {
    "swag.training.averages": ("Average", "RunningAverage", "Swap"),
    "swag.training.custom_average": ("CustomAverage",),
    "swag.training.migrate": ("from_averaged_model", "from_swa_gaussian", "load_torchcontrib_"),
    "swag.training.optimizer": ("SWAOptimizer",),
    "swag.training.rules": ("EMA", "DebiasedEMA", "Equal", "Rule"),
    "swag.training.triggers": ("NonMonotonicTrigger",),
    "swag.training.window_average": ("WindowAverage",),
    "swag.training.callbacks": ("Callback", "CollectInto", "Epoch", "Step", "Stop"),
    "swag.training.every_step": ("EveryStep",),
    "swag.training.fast_geometric": ("FGE", "fge"),
    "swag.training.losses": ("DivergedError",),
    "swag.training.multi": ("TrainedMembers", "train_multi"),
    "swag.training.result": ("Trained",),
    "swag.training.semi_supervised": (
        "UNLABELLED",
        "CollectAt",
        "Consistency",
        "MeanTeacher",
        "PiModel",
        "SemiSupervised",
        "Supervised",
        "TwoHeads",
        "TwoStreams",
        "TwoStreamSampler",
        "train_semi_supervised",
    ),
    "swag.training.snapshots": ("Snapshots",),
    "swag.training.swap_phases": ("LargeBatch", "SmallBatch"),
    "swag.training.swap_recipe": ("swap",),
    "swag.training.swap_result": ("SwapResult",),
    "swag.training.trainer": ("continue_training", "train"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "EMA",
    "FGE",
    "UNLABELLED",
    "Average",
    "Callback",
    "CollectAt",
    "CollectInto",
    "Consistency",
    "CustomAverage",
    "DebiasedEMA",
    "DivergedError",
    "Epoch",
    "Equal",
    "EveryStep",
    "LargeBatch",
    "MeanTeacher",
    "NonMonotonicTrigger",
    "PiModel",
    "Rule",
    "RunningAverage",
    "SWAOptimizer",
    "SemiSupervised",
    "SmallBatch",
    "Snapshots",
    "Step",
    "Stop",
    "Supervised",
    "Swap",
    "SwapResult",
    "Trained",
    "TrainedMembers",
    "TwoHeads",
    "TwoStreamSampler",
    "TwoStreams",
    "WindowAverage",
    "continue_training",
    "fge",
    "from_averaged_model",
    "from_swa_gaussian",
    "load_torchcontrib_",
    "swap",
    "train",
    "train_multi",
    "train_semi_supervised",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value
    raise AttributeError(f"module 'swag.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
