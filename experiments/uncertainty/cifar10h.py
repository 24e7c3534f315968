"""How near predictives come to the answers of people: CIFAR-10H, some fifty judgements an image. Needs a GPU.

    python experiments/uncertainty/cifar10h.py --device cuda     not yet run
    python experiments/uncertainty/cifar10h.py --quick           the path in seconds, on made-up images

VGG-like convnet with batch norm, 60 epochs on CIFAR-10, three trajectories: SGD, SWA, SWAG, deep ensemble and
MultiSWAG, scored by cross-entropy and KL divergence to the distribution of people's answers, and by the rank
correlation of the predictive's entropy with that of the answers. The training images were stored with loss
(42.5 dB); CIFAR-10H is for non-commercial use.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from experiments import arguments, data, record
from experiments.rows import Rows
from experiments.swa.loaders import Shuffled
from swag import schedules
from swag.training import EveryStep, train

HERE, KIND = Path(__file__).resolve().parent, "cifar10h"
PER_SEED = 3


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="default: $SWAG_DATA, else ./data")
    parser.add_argument("--out", type=Path, help="folder of the results (default: beside this script)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if not args.quick and torch.device(args.device).type != "cuda":
        raise SystemExit("CIFAR-10H takes hours on a CPU; pass --device cuda, or --quick to try the path")
    with arguments.results_folder(args, HERE) as out:
        images = made_up() if args.quick else read(data.folder(args.data_dir))
        settings = {"epochs": 4 if args.quick else 60, "width": 4 if args.quick else 64}
        settings |= {"rate": 0.05, "decay": 5e-4, "samples": 3 if args.quick else 30}
        for seed in args.seeds[: 1 if args.quick else None]:
            path = out / f"cifar10h-{seed}.json"
            if not record.done(path, KIND, settings | {"seed": seed}):
                rows = study(seed, settings, *(part.to(args.device) for part in images))
                content = {"settings": settings | {"seed": seed}, "rows": rows}
                record.write(path, KIND, content, device=args.device)
            for row in record.read(path, KIND)["rows"]:
                print(seed, *(f"{k} {v:.4f}" if isinstance(v, float) else v for k, v in row.items()))
    return 0


def read(root: Path) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels, shares of people's answers (N, 10)."""
    images = data.cifar10(root)
    with np.load(data.at(root, "cifar10h", "cifar10h_counts.npz")) as file:
        counts = torch.from_numpy(file["counts"] if "counts" in file.files else file[file.files[0]]).float()
    train, test = (x.float() / 255 for x in (images.train, images.test))
    std, mean = torch.std_mean(train, (0, 2, 3), keepdim=True)
    shares = counts / counts.sum(1, keepdim=True)
    return (train - mean) / std, images.train_labels, (test - mean) / std, images.test_labels, shares


def made_up() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 10
    images = [
        torch.randn(60, 3, 32, 32, generator=generator) + 0.3 * labels[:, None, None, None] for _ in range(2)
    ]
    shares = 0.8 * F.one_hot(labels, 10) + 0.02
    return images[0], labels, images[1], labels, shares


def network(width: int, seed: int) -> nn.Sequential:
    """Six convolutions with batch norm in three stages, the mean over positions, a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        channels = 3
        for stage in (1, 2, 4):
            for stride in (1, 2):
                layers += [
                    nn.Conv2d(channels, width * stage, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(width * stage),
                    nn.ReLU(),
                ]
                channels = width * stage
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def study(
    seed: int,
    settings: dict[str, float],
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    shares: Tensor,
) -> list[dict[str, object]]:
    """Every method's scores from one group of trajectories."""
    rows, epochs = Rows(x, y), int(settings["epochs"])
    points, collectors = [], []
    for member in range(PER_SEED):
        for schedule in (None, lambda optimizer: EveryStep(schedules.cosine(optimizer, epochs=epochs))):
            own = 100 * seed + member
            model = network(int(settings["width"]), own).to(x.device)
            loader = Shuffled(rows, 128, shift=4, mirrored=True, generator=torch.Generator().manual_seed(own))
            result = train(
                model,
                loader,
                F.cross_entropy,
                epochs=epochs,
                swa_start=0.5,
                optimizer=lambda parameters: torch.optim.SGD(
                    parameters, lr=settings["rate"], momentum=0.9, weight_decay=settings["decay"]
                ),
                schedule=schedule,
            )
            if schedule is None:
                collectors.append(result.collector)
            else:
                points.append(swag.PointMass.of(model))
    n_samples = int(settings["samples"])
    posteriors: dict[str, tuple[swag.Posterior, int]] = {
        "SGD": (points[0], 1),
        "SWA": (collectors[0].swa(), 1),
        "SWAG": (collectors[0].swag(), n_samples),
        "deep ensemble": (swag.Mixture(points), PER_SEED),
        "MultiSWAG": (swag.Mixture([c.swag() for c in collectors]), n_samples),
    }
    found: list[dict[str, object]] = []
    for method, (posterior, n) in posteriors.items():
        ensemble = swag.Ensemble(model, posterior, n, bn_loader=rows.batches(), seed=seed)
        predictive = ensemble.predict(x_test.split(1000))
        cross = -(shares * predictive.log_probs).sum(1).mean()
        own_entropy = -torch.special.xlogy(shares, shares).sum(1)
        found.append(
            {
                "method": method,
                "accuracy": swag.metrics.accuracy(predictive.probs, y_test),
                "nll": swag.metrics.nll(predictive.probs, y_test),
                "cross-entropy to people": float(cross),
                "KL from people": float(cross - own_entropy.mean()),
                "rank correlation of entropies": float(
                    spearmanr(predictive.entropy.cpu(), own_entropy.cpu()).statistic
                ),
            }
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
