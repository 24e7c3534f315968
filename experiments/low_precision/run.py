"""Does the average of an 8-bit run reach that of a float run, and are 2-bit weights usable (SWALP, SQWA)?

    python experiments/low_precision/run.py                Fashion-MNIST, 3 seeds
    python experiments/low_precision/run.py --quick        about 15 seconds, on scikit-learn's digits
    python experiments/low_precision/run.py --table        the results as Markdown, without running anything
    python experiments/low_precision/run.py --device cuda --data cifar10     VGG-16, the published setting

A seed of a comparison is one file in --out; a run that was stopped goes on with what is missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import data, record
from experiments.low_precision.methods import Data, Settings, run_seed, run_word_length
from experiments.low_precision.table import table

HERE = Path(__file__).resolve().parent
KIND = "low_precision"
# Shorter words, for SGD-LP and SWALP alone: they cost something where eight bits cost nothing.
SHORTER = (4,)

FASHION = Settings()
# The SWALP paper's: 200 epochs of warm-up at 0.05 and 100 of averaging at 0.01, once an epoch.
CIFAR10 = Settings(
    data="cifar10",
    network="vgg16",
    train_rows=50_000,
    warm_up_epochs=200,
    tail_epochs=100,
    snapshots_per_epoch=1,
    rate=0.05,
    swa_rate=0.01,
    batch=128,
    augment=True,
    captures=7,
    capture_epochs=10,
    tune_epochs=20,
)
SETTINGS = {
    "fashion_mnist": FASHION,
    "cifar10": CIFAR10,
    "cifar100": replace(CIFAR10, data="cifar100"),
    "digits": replace(
        FASHION,
        data="digits",
        network="small",
        train_rows=1_000,
        test_rows=797,
        warm_up_epochs=3,
        tail_epochs=2,
        captures=3,
        tune_epochs=1,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of the data (default: $SWAG_DATA, else data/)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: beside this script)")
    named = [name for name in SETTINGS if name != "digits"]
    parser.add_argument("--data", choices=named, default=named[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="a small run on digits, into a temporary folder")
    parser.add_argument("--table", action="store_true", help="print the table of --out and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or (Path(temporary) if args.quick else HERE / "results")
        if not args.table:
            settings = SETTINGS["digits" if args.quick else args.data]
            seeds = args.seeds[:1] if args.quick else args.seeds
            images = load(settings, args.data_dir, args.device)
            for seed in seeds:
                run(run_seed, out / f"run-{settings.data}-{seed}.json", settings, images, seed, args.device)
            for wl in SHORTER if args.data == "fashion_mnist" else ():
                shorter = replace(settings, word_length=wl)
                for seed in seeds:
                    file = out / f"words-{settings.data}-{wl}-{seed}.json"
                    run(run_word_length, file, shorter, images, seed, args.device)
        results = [record.read(file, KIND) for file in sorted(out.glob("run-*.json"))]
        print(table(results, [record.read(file, KIND) for file in sorted(out.glob("words-*.json"))]))
    return 0


def run(
    measure: Callable[[Settings, Data, int], dict[str, Any]],
    file: Path,
    settings: Settings,
    images: Data,
    seed: int,
    device: str,
) -> None:
    """One results file, unless it is there."""
    wanted = asdict(settings)
    if not record.done(file, KIND, wanted):
        payload = {"settings": wanted, "seed": seed, **measure(settings, images, seed)}
        record.write(file, KIND, payload, device=device)


def load(settings: Settings, data_dir: Path | None, device: str) -> Data:
    """The first rows of the training and of the test set, by channel of mean 0 and variance 1."""
    if settings.data == "digits":
        images = digits(settings)
    else:
        images = getattr(data, settings.data)(data.folder(data_dir))
    train = images.train[: settings.train_rows].float() / 255
    mean, spread = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)

    def scaled(x: Tensor) -> Tensor:
        return ((x.float() / 255 - mean) / spread).to(device)

    return Data(
        scaled(images.train[: settings.train_rows]),
        images.train_labels[: settings.train_rows].to(device),
        scaled(images.test[: settings.test_rows]),
        images.test_labels[: settings.test_rows].to(device),
    )


def digits(settings: Settings) -> data.Images:
    """scikit-learn's 8 × 8 digits, which need no folder."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy(found.images).mul(255 / 16).to(torch.uint8).unsqueeze(1)
    labels, n = torch.from_numpy(found.target).long(), settings.train_rows
    return data.Images(x[:n], labels[:n], x[n:], labels[n:])


if __name__ == "__main__":
    sys.exit(main())
