"""`swag demo`: its options; what it does is in swag/demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from swag.demo.settings import DATA, DEFAULT_SUBSET, Settings

_DESCRIPTION = """\
Trains small networks on real images, collects their weights, and scores SGD, SWA, SWAG-diag, SWAG, a deep
ensemble, MultiSWA and MultiSWAG on test images and on images of another kind. The table goes to standard
output, a few lines of progress to standard error, and into --output: report.html, report.json, a SWAG
posterior a member (swag_0.safetensors, …) and multiswag.safetensors. The same seed gives the same table.

  digits         scikit-learn's handwritten digits with noise; comes with the package; under a minute
  fashion-mnist  Fashion-MNIST against MNIST, from files in --data-dir; a few minutes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `swag demo`."""
    default = Settings()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION

    def number(name: str, value: int | None, text: str) -> None:
        parser.add_argument(name, type=int, metavar="N", default=value, help=text)

    number("--seed", default.seed, "of everything random (default: %(default)s)")
    number("--members", default.members, "networks of each kind (default: %(default)s)")
    number("--samples", default.samples, "drawn from a posterior (default: %(default)s)")
    number("--epochs", default.epochs, "of each training (default: %(default)s)")
    number("--subset", default.subset, f"training images of Fashion-MNIST (default: {DEFAULT_SUBSET:,})")
    parser.add_argument("--data", choices=DATA, default=default.data, help="(default: %(default)s)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="holds fashion_mnist and mnist (default: $SWAG_DATA, else ./data)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=default.output,
        help="where the files go (default: ./%(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo; raises SwagError for options that cannot be used."""
    from swag.demo.run import run as run_demo

    run_demo(Settings(**vars(arguments)))
    return 0
