"""What is trained and how, at full size and for `--quick`."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Settings of the whole study; every results file names those it was made with.

    Attributes:
        data: "fashion_mnist", or "digits" (in scikit-learn).
        train_rows, validation_rows: of the training images, the same for every seed.
        corrupted_rows, ood_rows: of the test images, corrupted, and of those of another kind.
        widths, strides: of the network's convolutions.
        batch, epochs: of every training with one result; SGD and SWAG have the same.
        members: M, trajectories of an ensemble. Every group of seeds has its own M.
        rates, decays: SGD's, tried on validation rows: the rates first, the decays with the best of them.
        swa_start, collect_every: averaging begins after that part of the epochs; epochs between snapshots.
        swa_lr: the averaging's rate, as parts of SGD's, tried.
        rank, n_samples: of SWAG; `n_samples` also of MC dropout and VI. MultiSWAG shares them among members.
        scales: of SWAG's covariance, tried.
        dropout: probabilities, tried.
        mcmc_cycle, mcmc_cycles, mcmc_kept: epochs in a cycle, cycles, networks kept at the end of each.
        mcmc_temperature: tried; 1 is the posterior's.
        vi_epochs, vi_kl: epochs after SGD's, and weights of the KL divergence, tried; 1 is the bound's.
        laplace_samples: of the last layer, which cost next to nothing.
        seed: of the tuning; `--seeds` are others.
    """

    data: str = "fashion_mnist"
    train_rows: int = 12_000
    validation_rows: int = 2_000
    corrupted_rows: int = 500
    ood_rows: int = 2_000
    widths: tuple[int, int, int] = (24, 48, 96)
    strides: tuple[int, int, int] = (2, 2, 2)
    batch: int = 100
    epochs: int = 12
    members: int = 3
    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    decays: tuple[float, ...] = (5e-4, 2e-3, 5e-3)
    swa_start: float = 0.5
    collect_every: float = 0.3
    swa_lr: tuple[float, ...] = (0.25, 0.5, 1.0)
    rank: int = 20
    n_samples: int = 30
    scales: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)
    dropout: tuple[float, ...] = (0.05, 0.1, 0.2)
    mcmc_cycle: int = 6
    mcmc_cycles: int = 3
    mcmc_kept: int = 3
    mcmc_temperature: tuple[float, ...] = (1.0, 0.1, 0.01)
    vi_epochs: int = 4
    vi_kl: tuple[float, ...] = (1.0, 0.1, 0.01)
    laplace_samples: int = 100
    seed: int = 1_000_000


FULL = Recipe()

QUICK = replace(
    FULL,
    data="digits",
    train_rows=0,
    validation_rows=0,
    corrupted_rows=50,
    ood_rows=100,
    widths=(8, 16, 16),
    strides=(1, 2, 1),
    batch=100,
    epochs=3,
    members=2,
    rates=(0.2, 0.4),
    decays=(5e-4,),
    collect_every=1,
    swa_lr=(0.5,),
    rank=4,
    n_samples=4,
    scales=(0.25, 0.5),
    dropout=(0.1,),
    mcmc_cycle=2,
    mcmc_cycles=2,
    mcmc_kept=1,
    mcmc_temperature=(1.0, 0.1),
    vi_epochs=1,
    vi_kl=(0.1,),
    laplace_samples=10,
)
