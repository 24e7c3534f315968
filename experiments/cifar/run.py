"""SGD, SWA, SWAG-diag and SWAG on CIFAR, by the recipes of the SWAG paper, beside its figures.

    python experiments/cifar/run.py --device cuda                    VGG-16 on CIFAR-100: about 25 minutes
    python experiments/cifar/run.py --device cuda --recipes preresnet164 wrn28-10 --budget 0.2
    python experiments/cifar/run.py --quick                          every path in seconds, on the CPU
    python experiments/cifar/run.py --table                          the table from the results

One network from one seed is one file in --out. A run that was stopped goes on from its last epoch; --budget
shortens all epochs by one factor, and the table says so.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn
from torch.nn import functional as F

import swag
from experiments import arguments, record
from experiments.cifar.table import tables
from experiments.swa.loaders import Shuffled, Split, split
from experiments.swa.networks import seeded
from swag import metrics

HERE = Path(__file__).resolve().parent
KIND = "cifar"


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: the SWAG paper's settings.

    Attributes:
        network: a name of `experiments.swa.networks`.
        data: "cifar100", or "made up".
        lr: the first rate.
        swa_lr: the rate while collecting; SGD's own falls to a hundredth of the first.
        weight_decay: of all parameters.
        epochs: of each of the two trainings (SGD; SWAG).
        swa_start: the share of the epochs before collecting.
        batch: rows a step.
        rank: deviations kept.
        n_samples: weights drawn.
    """

    network: str
    data: str
    lr: float
    swa_lr: float
    weight_decay: float
    epochs: int = 300
    swa_start: float = 160 / 300
    batch: int = 128
    rank: int = 20
    n_samples: int = 30


RECIPES = {
    "vgg16": Recipe("vgg16", "cifar100", lr=0.05, swa_lr=0.01, weight_decay=5e-4),
    "preresnet164": Recipe("preresnet164", "cifar100", lr=0.1, swa_lr=0.05, weight_decay=3e-4),
    "wrn28-10": Recipe("wrn28-10", "cifar100", lr=0.1, swa_lr=0.05, weight_decay=5e-4),
}
QUICK = {"vgg16": "vgg16/8", "preresnet164": "preresnet11", "wrn28-10": "wrn10-1"}


def main() -> int:
    parser = arguments.parser(__doc__, quick="tiny networks on made-up images")
    parser.set_defaults(device="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["vgg16"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=float, default=1.0, help="a factor on the epochs, at most 1")
    args = parser.parse_args()
    if not 0 < args.budget <= 1:
        parser.error(f"--budget: got {args.budget:g}; pass a factor above 0 and at most 1")
    if args.device == "cpu" and not args.quick and not args.table:
        parser.error("on a CPU this takes weeks; pass --device cuda, or --quick to try every path")
    with arguments.results_folder(args, HERE) as out:
        out.mkdir(parents=True, exist_ok=True)
        if not args.table:
            torch.set_float32_matmul_precision("high")
            if args.device == "cpu":
                torch.set_num_threads(1)
            if args.quick:  # nothing can be learned from made-up labels, and every temperature says so
                logging.getLogger("swag").setLevel(logging.ERROR)
            for seed in args.seeds:
                for name in RECIPES if args.quick else args.recipes:
                    run(name, seed, out, args)
        results = [record.read(path, KIND) for path in sorted(out.glob("*.json"))]
        print(tables(results) if results else f"no results in {out}")
    return 0


def run(name: str, seed: int, out: Path, args: argparse.Namespace) -> None:
    """One network from one seed, unless its results are there."""
    recipe = RECIPES[name]
    if args.quick:
        recipe = replace(recipe, network=QUICK[name], data="made up", epochs=4, swa_start=0.5, n_samples=3)
    published_epochs = recipe.epochs
    recipe = replace(recipe, epochs=max(2, round(recipe.epochs * args.budget)))
    settings = {"recipe": asdict(recipe), "seed": seed, "published_epochs": published_epochs}
    path = out / f"{name}-{seed}.json"
    if record.done(path, KIND, settings):
        return
    data = split(recipe.data, args.data_dir, 50_000, 0, args.device)
    started = time.perf_counter()
    study = Study(recipe, data, seed, args.device, out / f"{name}-{seed}")
    methods = study.methods()
    seconds = round(time.perf_counter() - started, 1)
    found = {"name": name, "settings": settings, "methods": methods, "seconds": seconds}
    record.write(path, KIND, found, device=args.device)
    for checkpoint in out.glob(f"{name}-{seed}.*.pt"):
        checkpoint.unlink()


class Study:
    """Two trainings from one seed, and what is read out of them."""

    def __init__(self, recipe: Recipe, data: Split, seed: int, device: str, stem: Path) -> None:
        self.recipe, self.data, self.seed, self.device, self.stem = recipe, data, seed, device, stem
        self.test = data.test.batches(500)
        self.bn_loader = [images for images, _ in data.train.batches(500)]
        self.autocast = torch.bfloat16 if device != "cpu" else None

    def methods(self) -> dict[str, dict[str, float]]:
        """Scores by method."""
        sgd = self._trained("sgd", last_lr=0.01 * self.recipe.lr).model
        trained = self._trained("swag", last_lr=self.recipe.swa_lr)
        posteriors = {
            "SWA": (trained.swa(), 1),
            "SWAG-diag": (trained.collector.swag_diag(), self.recipe.n_samples),
            "SWAG": (trained.swag(), self.recipe.n_samples),
        }
        scores = {"SGD": self._scores(swag.Ensemble.from_models([sgd], autocast=self.autocast))}
        for name, (posterior, n_samples) in posteriors.items():
            ensemble = swag.Ensemble(
                trained.model,
                posterior,
                n_samples,
                bn_loader=self.bn_loader,
                seed=self.seed,
                autocast=self.autocast,
            )
            scores[name] = self._scores(ensemble)
        return scores

    def _trained(self, name: str, last_lr: float) -> Any:
        recipe = self.recipe
        torch.manual_seed(self.seed)
        model = seeded(recipe.network, self.data.n_classes, self.seed).to(self.device)
        loader = Shuffled(
            self.data.train,
            recipe.batch,
            shift=4,
            mirrored=True,
            generator=torch.Generator().manual_seed(self.seed),
        )
        return swag.training.train(
            model.to(memory_format=torch.channels_last),
            loader,
            F.cross_entropy,
            epochs=recipe.epochs,
            swa_start=recipe.swa_start,
            swa_lr=last_lr,
            rank=recipe.rank,
            optimizer=self._optimizer,
            autocast=self.autocast,
            checkpoint=self.stem.with_suffix(f".{name}.pt"),
            checkpoint_every=10,
            device=self.device,
        )

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        recipe = self.recipe
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)

    def _scores(self, ensemble: swag.Ensemble) -> dict[str, float]:
        probs, labels = ensemble.predict(self.test).probs.cpu(), self.data.test.labels.cpu()
        return {
            "accuracy": float(metrics.accuracy(probs, labels)),
            "nll": float(metrics.nll(probs, labels)),
            "nll_after_temperature": float(metrics.calibrated_nll(probs, labels)),
            "ece": float(metrics.ece(probs, labels)),
        }


if __name__ == "__main__":
    sys.exit(main())
