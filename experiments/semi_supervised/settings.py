"""What is run: data, labels, network, batches, schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Setting:
    """All that a result depends on besides method, seed and what was chosen on the validation part.

    Attributes:
        data: name of the data set.
        network: name of the network.
        labels: rows whose labels are used; of the source domain in an adaptation.
        unlabelled: rows without a label; of the target domain in an adaptation.
        validation: further training rows with labels (of the target domain in an adaptation), on which rates
            and weights were chosen.
        second_domain: of the unlabelled, validation and test rows: blurred by a Gaussian of so many pixels,
            then noise of such a deviation on pixels from 0 to 1; None for the labelled rows' own domain.
        n_labelled: labelled rows in a batch.
        n_unlabelled: unlabelled rows in a batch.
        epochs: passes through the unlabelled rows.
        first_end: the end of the first descent, in epochs.
        cycle: of the repeated piece.
        fast_every: epochs between fast-SWA's snapshots.
        pixels: the largest shift.
        mirrored: whether left and right may change places.
        noise: standard deviation of the noise, on standardised images.
        decay: weight decay.
        teacher_decay: of Mean Teacher's average.
        ramp: epochs of the consistency weight's ramp.
        rates: candidates for the first rate.
        weights: candidates for the consistency weight.
        coupling: of the network's two heads; None for one head.
        bfloat16: whether to train under autocast.
    """

    data: str
    network: str
    labels: int
    unlabelled: int
    validation: int
    second_domain: tuple[float, float] | None
    n_labelled: int
    n_unlabelled: int
    epochs: int
    first_end: float
    cycle: float
    fast_every: float
    pixels: int
    mirrored: bool
    noise: float
    decay: float
    teacher_decay: float
    ramp: float
    rates: tuple[float, ...]
    weights: tuple[float, ...]
    coupling: float | None = None
    bfloat16: bool = False


FASHION_500 = Setting(
    data="fashion_mnist",
    network="small",
    labels=500,
    unlabelled=10_000,
    validation=2_000,
    second_domain=None,
    n_labelled=50,
    n_unlabelled=50,
    epochs=12,
    first_end=6,
    cycle=1,
    fast_every=0.1,
    pixels=2,
    mirrored=True,
    noise=0.15,
    decay=5e-4,
    teacher_decay=0.97,
    ramp=2,
    rates=(0.03, 0.1),
    weights=(1.0, 10.0, 100.0),
)
FASHION_2000 = replace(FASHION_500, labels=2_000)
# 10,000 training images: half of the rest gives the source, half the target.
MNIST = replace(
    FASHION_500,
    data="mnist",
    labels=4_500,
    unlabelled=4_500,
    validation=1_000,
    second_domain=(1.0, 0.15),
    epochs=24,
    first_end=12,
    cycle=2,
    fast_every=0.2,
    mirrored=False,
    ramp=4,
)
# The published schedule and Mean Teacher's 13-layer network; the rest follows the authors' code.
CIFAR_4000 = Setting(
    data="cifar10",
    network="cnn13",
    labels=4_000,
    unlabelled=44_000,
    validation=2_000,
    second_domain=None,
    n_labelled=50,
    n_unlabelled=50,
    epochs=480,
    first_end=180,
    cycle=30,
    fast_every=3,
    pixels=4,
    mirrored=True,
    noise=0.0,
    decay=1e-4,
    teacher_decay=0.97,
    ramp=5,
    rates=(0.1,),
    weights=(100.0,),
    coupling=0.01,
    bfloat16=True,
)

SETTINGS = {
    "fashion-500": FASHION_500,
    "fashion-2000": FASHION_2000,
    "mnist-target": MNIST,
    "cifar-4000": CIFAR_4000,
}
ON_CPU = ("fashion-500", "fashion-2000", "mnist-target")


def quick(name: str) -> Setting:
    """The same path through the code in seconds, on digits or made-up images."""
    tiny = replace(
        SETTINGS[name],
        labels=100,
        unlabelled=200,
        validation=100,
        n_labelled=20,
        n_unlabelled=20,
        epochs=4,
        first_end=2,
        cycle=1,
        fast_every=0.5,
        pixels=1,
        ramp=1,
        rates=(0.1,),
        weights=(1.0, 10.0),
        bfloat16=False,
    )
    if name == "cifar-4000":
        return replace(tiny, data="made up", network="cnn13/16", epochs=2, weights=(1.0,))
    return replace(tiny, data="digits", network="small-digits")
