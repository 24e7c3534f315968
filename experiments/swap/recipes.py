"""What is run: data, network, batches and rates of every method."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """All that a result depends on besides method and seed.

    Rates go up to `peak` over the first `warm_up` of a phase's epochs and down to 0 at its end, in straight
    lines, step by step. SGD with Nesterov's momentum of 0.9.

    Attributes:
        data: name of the data set.
        network: name of the network.
        train_rows: training rows used; the same for every seed.
        workers: W.
        shift: pixels that training images are moved by.
        mirrored: whether left and right may change places.
        smoothing: of the labels.
        large: rows of a large batch, of all workers together.
        large_epochs: of large-batch training, and the most of SWAP's phase 1.
        large_peak: its highest rate.
        stop: training accuracy at which SWAP leaves phase 1.
        small: rows of a small batch.
        small_epochs: of small-batch training from the start.
        small_peak: its highest rate.
        short_epochs: of the same in about SWAP's time, with a schedule of that length.
        alone_epochs: of SWAP's phase 2.
        alone_peak: its first rate.
        warm_up: a fraction of a phase's epochs; phase 2 has none.
        decay: weight decay.
        targets: test accuracies whose times are compared.
        bfloat16: whether to train under autocast.
    """

    data: str
    network: str
    train_rows: int
    workers: int
    shift: int
    mirrored: bool
    smoothing: float
    large: int
    large_epochs: int
    large_peak: float
    stop: float
    small: int
    small_epochs: int
    small_peak: float
    short_epochs: int
    alone_epochs: int
    alone_peak: float
    warm_up: float
    decay: float
    targets: tuple[float, ...]
    bfloat16: bool = False


FASHION = Recipe(
    data="fashion_mnist",
    network="small",
    train_rows=20_000,
    workers=2,
    shift=2,
    mirrored=True,
    smoothing=0.0,
    large=1_000,
    large_epochs=24,
    large_peak=0.4,
    stop=0.8,
    small=100,
    small_epochs=16,
    small_peak=0.1,
    short_epochs=10,
    alone_epochs=6,
    alone_peak=0.1,
    warm_up=0.2,
    decay=5e-4,
    targets=(0.84, 0.85, 0.86, 0.87),
)

# The SWAP paper's network, workers and batches for CIFAR-10 (ResNet-9, 8 × 512 rows); rates not tuned.
CIFAR = Recipe(
    data="cifar10",
    network="resnet9",
    train_rows=50_000,
    workers=8,
    shift=4,
    mirrored=True,
    smoothing=0.1,
    large=4_096,
    large_epochs=30,
    large_peak=1.2,
    stop=0.97,
    small=512,
    small_epochs=30,
    small_peak=0.4,
    short_epochs=15,
    alone_epochs=8,
    alone_peak=0.2,
    warm_up=0.25,
    decay=5e-4,
    targets=(0.93, 0.94),
    bfloat16=True,
)

RECIPES = {"fashion": FASHION, "cifar": CIFAR}


def quick(name: str) -> Recipe:
    """The same path through the code in a few seconds, on data that needs no folder."""
    short = {
        "large": 200,
        "large_epochs": 4,
        "small": 50,
        "small_epochs": 3,
        "short_epochs": 2,
        "alone_epochs": 2,
    }
    if name == "fashion":
        return replace(
            FASHION,
            data="digits",
            network="small-digits",
            train_rows=0,
            shift=1,
            mirrored=False,
            stop=0.5,
            targets=(0.3, 0.5),
            **short,
        )
    tiny = {**short, "large": 20, "small": 10, "large_epochs": 2}
    return replace(CIFAR, data="made up", network="resnet9/16", workers=3, targets=(0.2,), **tiny)
