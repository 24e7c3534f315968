"""What is run: data, network, budget and rates of every part of the experiment."""

from __future__ import annotations

from dataclasses import dataclass, replace

# (rate, weight decay)
Choice = tuple[float, float]


@dataclass(frozen=True)
class Search:
    """What to choose rate and weight decay from.

    Attributes:
        rates: all tried at the first weight decay.
        decays: the others are tried at the best of the rates.
    """

    rates: tuple[float, ...]
    decays: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """All that a result depends on besides method and seed.

    Attributes:
        data: name of the data set.
        network: name of the network.
        train_rows: training rows used; the same for every seed.
        validation_rows: held out of the training rows, to choose settings by.
        batch: rows in a step.
        shift: pixels that training images are moved by.
        epochs: the budget of the baseline.
        averaging_epochs: the budget of SWA, SWAG and FGE.
        start: the epoch after which averaging, or FGE, begins.
        sgd: rates and weight decays to choose from for SGD with momentum 0.9.
        adam: the same for AdamW; None: AdamW is not run.
        tuning_epochs: of each try of a rate and a weight decay, with one seed of its own.
        swa_lr: the averaging's rate, as parts of the chosen rate to choose from in runs of the whole length.
        collect_every: epochs between two snapshots.
        fge_cycle: length of FGE's cycles in epochs; 0: FGE is not run.
        fge_lr: FGE's highest rate, as parts of the chosen rate to choose from; its lowest is a hundredth.
        rank: of SWAG.
        n_samples: of SWAG; 0: SWAG is not run.
    """

    data: str
    network: str
    train_rows: int
    validation_rows: int
    batch: int
    shift: int
    epochs: int
    averaging_epochs: int
    start: int
    sgd: Search
    adam: Search | None = None
    tuning_epochs: int = 0
    swa_lr: tuple[float, ...] = (0.5,)
    collect_every: float = 1
    fge_cycle: float = 0
    fge_lr: tuple[float, ...] = (0.5,)
    rank: int = 0
    n_samples: int = 0


FASHION = Recipe(
    data="fashion_mnist",
    network="small",
    train_rows=10_000,
    validation_rows=2_000,
    batch=50,
    shift=2,
    epochs=16,
    averaging_epochs=16,
    start=12,
    sgd=Search(rates=(0.05, 0.1, 0.2, 0.4, 0.8), decays=(5e-4, 1e-4, 2e-3, 5e-3)),
    adam=Search(rates=(4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2), decays=(0.01, 0.0, 1e-3, 0.05)),
    tuning_epochs=8,
    swa_lr=(0.1, 0.25, 0.5, 1.0),
    collect_every=0.5,
    fge_cycle=1,
    fge_lr=(0.1, 0.25, 0.5, 1.0),
)

# The SWA authors' rates, weight decays and budgets. Averaging has one and a half budgets, as for SWAG, so SGD
# is run with as many besides.
CIFAR = Recipe(
    data="cifar100",
    network="vgg16",
    train_rows=50_000,
    validation_rows=0,
    batch=128,
    shift=4,
    epochs=200,
    averaging_epochs=300,
    start=160,
    sgd=Search((0.05,), (5e-4,)),
    swa_lr=(0.2,),
    rank=20,
    n_samples=30,
)

RECIPES = {
    "fashion": FASHION,
    "vgg16": CIFAR,
    "preresnet164": replace(
        CIFAR,
        network="preresnet164",
        epochs=150,
        averaging_epochs=225,
        start=125,
        sgd=Search((0.1,), (3e-4,)),
        swa_lr=(0.5,),
    ),
    # A third of the published budget.
    "wrn28-10": replace(
        CIFAR,
        network="wrn28-10",
        epochs=60,
        averaging_epochs=90,
        start=50,
        sgd=Search((0.1,), (5e-4,)),
        swa_lr=(0.5,),
    ),
}
ON_CPU, ON_CUDA = ("fashion",), ("vgg16", "preresnet164", "wrn28-10")


def quick(name: str) -> Recipe:
    """The same path through the code in a few seconds, on data that needs no folder."""
    short = {"batch": 50, "epochs": 3, "averaging_epochs": 4, "start": 2}
    if name == "fashion":
        return replace(
            FASHION,
            data="digits",
            network="small-digits",
            train_rows=0,
            validation_rows=0,
            shift=1,
            tuning_epochs=1,
            sgd=Search((0.1, 0.2), (5e-4, 5e-3)),
            adam=Search((2e-3, 8e-3), (0.05, 0.2)),
            swa_lr=(0.25, 0.5),
            fge_lr=(0.25, 0.5),
            **short,
        )
    small = {"vgg16": "vgg16/8", "preresnet164": "preresnet11", "wrn28-10": "wrn10-1"}[name]
    one = {**short, "batch": 20, "epochs": 2, "averaging_epochs": 3, "start": 1}
    return replace(RECIPES[name], data="made up", network=small, rank=3, n_samples=2, **one)
