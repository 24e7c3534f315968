"""How far the control variate's batch-norm statistics are from exact ones, in the averaged probabilities.

    python experiments/batchnorm/run.py --data-dir DIR   all networks and seeds, on Fashion-MNIST
    python experiments/batchnorm/run.py --quick          a few seconds, on scikit-learn's digits
    python experiments/batchnorm/run.py --table          the tables from the results, nothing is run

A network of one seed is one file in --out; a run that was stopped goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import sklearn.datasets
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from experiments import arguments, record
from experiments import data as stored
from experiments.batchnorm.networks import NETWORKS
from experiments.batchnorm.policies import PlainSubset, ReferenceSubset
from experiments.batchnorm.table import table

HERE = Path(__file__).resolve().parent
KIND = "batchnorm"


@dataclass(frozen=True)
class Settings:
    """All that a result depends on besides network and seed."""

    data: str = "Fashion-MNIST"
    train_rows: int = 10_000
    full_rows: int = 4_096  # what 'exact' and the control variate's one pass read
    bn_batch: int = 128
    test_rows: int = 1_000
    n_samples: int = 30
    scales: tuple[float, ...] = (0.5, 1.0)
    rows: tuple[int, ...] = (32, 64, 128, 256, 512)
    reference_fraction: float = 0.1
    warm_up_epochs: int = 5
    snapshots: int = 16  # one every half epoch
    rate: float = 0.05
    weight_decay: float = 5e-4
    batch: int = 64


QUICK = Settings(
    data="digits (quick)",
    train_rows=512,
    full_rows=256,
    test_rows=100,
    n_samples=4,
    scales=(0.5,),
    rows=(32, 64),
    reference_fraction=0.5,
    warm_up_epochs=1,
    snapshots=3,
)


@dataclass(frozen=True)
class Data:
    """Images (N, 1, 28, 28) from 0 to 1, and labels."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def main() -> int:
    parser = arguments.parser(__doc__, quick="a small run on digits, one seed", cpu_only=True)
    parser.add_argument("--nets", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with arguments.results_folder(args, HERE) as out:
        if not args.table:
            run_missing(out, args)
        print(table(finished(out)))
    return 0


def run_missing(out: Path, args: argparse.Namespace) -> None:
    """The networks and seeds whose files are not there."""
    settings = QUICK if args.quick else Settings()
    read: Data | None = None
    for net in args.nets:
        for seed in args.seeds[: 1 if args.quick else None]:
            path = out / f"{net}-{seed}.json"
            if record.done(path, KIND, asdict(settings)):
                print(f"{path.name}: already there", file=sys.stderr)
                continue
            read = read or (digits(settings) if args.quick else fashion_mnist(args.data_dir, settings))
            record.write(path, KIND, run(net, seed, settings, read))


def finished(out: Path) -> list[dict[str, Any]]:
    """The results in a folder.

    Raises:
        SystemExit: there are none, or not all are of the same settings.
    """
    results = [record.read(path, KIND) for path in sorted(out.glob("*-*.json"))]
    if not results:
        raise SystemExit(f"no results in {out}; run experiments/batchnorm/run.py first")
    if any(result["settings"] != results[0]["settings"] for result in results):
        raise SystemExit(f"{out} has results of several settings; keep those of one, or pass another --out")
    return results


def run(net: str, seed: int, settings: Settings, data: Data) -> dict[str, Any]:
    """Trains one network and compares all policies."""
    started = time.process_time()
    torch.manual_seed(seed)
    model = NETWORKS[net]()
    collector = train(model, data, settings, seed)
    trained = time.process_time() - started
    scales = {}
    for scale in settings.scales:
        scales[str(scale)] = compare(model, collector.swag(scale=scale), data, settings, seed)
        print(
            f"{net} {seed} scale {scale}: {time.process_time() - started:.0f} s", file=sys.stderr, flush=True
        )
    return {
        "net": net,
        "seed": seed,
        "settings": asdict(settings),
        "parameters": collector.layout.size,
        "scales": scales,
        "cpu_seconds": {"training": round(trained), "all": round(time.process_time() - started)},
    }


def train(model: nn.Module, data: Data, settings: Settings, seed: int) -> swag.Collector:
    """SGD at a constant rate; after the warm-up a snapshot every half epoch."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.rate, momentum=0.9, weight_decay=settings.weight_decay
    )
    collector = swag.Collector(model, rank=20)
    images, labels = data.train, data.train_labels
    half_epochs = 2 * settings.warm_up_epochs + settings.snapshots
    model.train()
    for half in range(half_epochs):
        if half % 2 == 0:
            halves = torch.randperm(len(images), generator=generator).chunk(2)
        for chosen in halves[half % 2].split(settings.batch):
            optimizer.zero_grad()
            F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        if half >= 2 * settings.warm_up_epochs:
            collector.collect(model)
    return collector


def compare(
    model: nn.Module, posterior: swag.Posterior, data: Data, settings: Settings, seed: int
) -> dict[str, Any]:
    """Every policy's averaged probabilities against exact ones, for the same weights and test rows."""

    def sampled(posterior: swag.Posterior, policy: Any, base: nn.Module = model) -> swag.Ensemble:
        return swag.Ensemble(
            base,
            posterior,
            settings.n_samples,
            bn_loader=data.train[: settings.full_rows].split(settings.bn_batch),
            batchnorm=policy,
            seed=seed,
            keep_members=True,
        )

    def predict(ensemble: swag.Ensemble) -> swag.CategoricalPredictive:
        return ensemble.predict(data.test.split(250))

    exact = predict(sampled(posterior, swag.ExactBatchNorm()))
    # The standard error of a mean of S members, averaged over rows and classes as the errors are.
    spread = exact.member_probs.double().std(0, correction=1) / settings.n_samples**0.5
    found = []
    average = swag.PointMass(posterior.mean, layout=posterior.layout)
    with_means = sampled(average, swag.ExactBatchNorm()).member(0)
    for description, policy in policies(settings, seed):
        base = with_means if description["policy"] == "mean" else model
        predictive = predict(sampled(posterior, policy, base))
        error = (predictive.probs.double() - exact.probs.double()).abs()
        scores = score(predictive, data.test_labels)
        found.append({**description, "mean": error.mean().item(), "max": error.max().item(), **scores})
    return {
        "monte_carlo": {"mean": spread.mean().item(), "max": spread.max().item()},
        "exact": {"rows_per_sample": settings.full_rows, **score(exact, data.test_labels)},
        "policies": found,
    }


def policies(settings: Settings, seed: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each with its description; rows_per_sample are forward passes of one row, for one sample.

    `shared_rows` are forward passes once for all samples: at the mean weights.
    """
    n, full = settings.n_samples, settings.full_rows
    for rows in settings.rows:
        fixed = swag.ControlVariateBatchNorm(rows=rows, seed=seed, fresh=False)
        shared = {"shared_rows": full + rows}
        yield {"policy": "fixed", "rows": rows, "rows_per_sample": rows, **shared}, fixed
        cost = {"rows_per_sample": 2 * rows, "shared_rows": full}
        yield {"policy": "fresh", "rows": rows, **cost}, replace(fixed, fresh=True)
    for rows in sorted({*settings.rows, *(2 * rows for rows in settings.rows)}):
        cost = {"rows_per_sample": rows, "shared_rows": 0}
        yield {"policy": "plain", "rows": rows, **cost}, PlainSubset(rows, seed)
    # As many as a control variate with 128 fresh rows takes, its share of the one pass included.
    rows = 2 * 128 + full // n
    yield (
        {"policy": "plain, all costs", "rows": rows, "rows_per_sample": rows, "shared_rows": 0},
        PlainSubset(rows, seed + 1),
    )
    reference = ReferenceSubset(settings.reference_fraction, settings.bn_batch, seed)
    rows = reference.rows_of(full)
    yield {"policy": "reference", "rows": rows, "rows_per_sample": rows, "shared_rows": 0}, reference
    yield {"policy": "mean", "rows": 0, "rows_per_sample": 0, "shared_rows": full}, swag.KeepBatchNorm()
    yield {"policy": "none", "rows": 0, "rows_per_sample": 0, "shared_rows": 0}, swag.KeepBatchNorm()


def score(predictive: swag.CategoricalPredictive, labels: Tensor) -> dict[str, float]:
    """Accuracy and NLL on the test rows: is this a trained network?"""
    right = (predictive.log_probs.argmax(1) == labels).double().mean().item()
    return {"accuracy": round(right, 4), "nll": round(F.nll_loss(predictive.log_probs, labels).item(), 5)}


def fashion_mnist(data_dir: Path | None, settings: Settings) -> Data:
    """The first rows of the training set and of the test set, which are shuffled already."""
    images = stored.fashion_mnist(stored.folder(data_dir))
    train, test = settings.train_rows, settings.test_rows
    return Data(
        images.train[:train].float() / 255,
        images.train_labels[:train],
        images.test[:test].float() / 255,
        images.test_labels[:test],
    )


def digits(settings: Settings) -> Data:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8×8."""
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    small = torch.from_numpy(pixels[order]).float().view(-1, 1, 8, 8) / 16
    images = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    train, test = slice(settings.train_rows), slice(-settings.test_rows, None)
    targets = torch.from_numpy(labels[order]).long()
    return Data(images[train], targets[train], images[test], targets[test])


if __name__ == "__main__":
    sys.exit(main())
