"""`swag forecast`: what settings will take in memory."""

from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = """\
Says what collecting, sampling and predicting will take in memory, before anything is trained.

  swag forecast run/epoch0.pt --rank 20 --samples 30
  swag forecast --parameters 7e9 --rank 10 --deviation-dtype bfloat16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `swag forecast`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="CKPT", help="a checkpoint of the model")
    parser.add_argument("--parameters", type=float, metavar="D", help="instead of a checkpoint")
    parser.add_argument("--rank", type=int, default=20, metavar="K", help="(default: %(default)s)")
    parser.add_argument("--samples", type=int, default=30, metavar="S", help="(default: %(default)s)")
    parser.add_argument("--select", action="append", metavar="PATTERN", help="only parameters of this name")
    parser.add_argument("--key", help="where in a pickled dict the weights lie")
    parser.add_argument(
        "--deviation-dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)"
    )
    parser.add_argument("--on-disk", action="store_true", help="with the deviations in a file")


def run(arguments: argparse.Namespace) -> int:
    """Prints the forecast; raises SwagError for what cannot be used."""
    import torch

    import swag
    from swag.checkpoints import layout_of_checkpoint, open_checkpoint
    from swag.forecast import available_memory, forecast, readable

    if (arguments.checkpoint is None) == (arguments.parameters is None):
        raise swag.InputError("CKPT: pass a checkpoint, or --parameters with their number")
    if arguments.rank < 0 or arguments.samples < 1:
        raise swag.InputError("--rank: pass a rank of 0 or more, and --samples of 1 or more")
    if arguments.checkpoint is not None:
        with open_checkpoint(arguments.checkpoint, arguments.key) as checkpoint:
            layout = layout_of_checkpoint(checkpoint, arguments.select)
    elif 1 <= arguments.parameters < 1e15:
        layout = swag.Layout([("parameters", (int(arguments.parameters),), torch.float32)])
    else:
        raise swag.InputError(f"--parameters: got {arguments.parameters:g}; pass their number, as in 7e9")
    print(
        forecast(
            layout,
            arguments.rank,
            n_samples=arguments.samples,
            deviation_dtype=getattr(torch, arguments.deviation_dtype),
            on_disk=arguments.on_disk,
        )
    )
    free = available_memory(torch.device("cpu"))
    if free is not None:
        print(f"free here: {readable(free)}")
    return 0
