"""`swag sample`: weights from a posterior, as ordinary checkpoints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_DESCRIPTION = """\
Writes weights drawn from a posterior as checkpoints that load into your own code: DIR/sample_0000.pt, … in
the format, under the names and with all the other content of the checkpoint given as --base. Sample i depends
on the seed and on i alone. Batch-norm statistics are those of the base: recompute them before use.

  swag sample posterior.safetensors -n 8 --base run/epoch99.pt -o samples
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `swag sample`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.add_argument("posterior", type=Path, metavar="FILE", help="from swag fit, merge or swag.save")
    parser.add_argument("--base", type=Path, required=True, metavar="CKPT", help="the checkpoint to imitate")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="made when missing")
    parser.add_argument("-n", "--n-samples", type=int, metavar="N", help="how many (default: 1)")
    parser.add_argument(
        "--first", type=int, metavar="I", default=0, help="index of the first (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="(default: %(default)s)")
    parser.add_argument("--mean", action="store_true", help="write the mean, the SWA solution, as DIR/mean.…")
    parser.add_argument("--key", help="where in a pickled base the weights lie")


def run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoints; raises SwagError for what cannot be used."""
    import torch

    import swag
    from swag.checkpoints import open_checkpoint, write_checkpoint
    from swag.progress import track

    path, base, folder = arguments.posterior, arguments.base, arguments.output
    n = arguments.n_samples if arguments.n_samples is not None else 0 if arguments.mean else 1
    if n < 0 or arguments.first < 0 or (n == 0 and not arguments.mean):
        raise swag.InputError(
            f"-n: got {n} from index {arguments.first}; pass a number of samples of at least 1"
        )
    posterior = swag.load(path, mapped=True)
    if isinstance(posterior, swag.Collector):
        raise swag.InputError(f"{path}: holds a collector; fit again, or save collector.swag()")
    if posterior.layout is None:
        raise swag.InputError(
            f"{path}: this posterior has no names for its weights, so they fit no checkpoint"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise swag.FileError(f"{folder}: cannot be made ({error.strerror}); pass another folder") from error
    suffix = "" if base.is_dir() else base.suffix
    if arguments.mean:
        write_checkpoint(folder / f"mean{suffix}", base, posterior.layout, posterior.mean, key=arguments.key)
    for index in track(range(arguments.first, arguments.first + n), "sample", total=n):
        theta = posterior.sample_range(
            index, index + 1, generator=torch.Generator().manual_seed(arguments.seed)
        )[0]
        target = folder / f"sample_{index:04d}{suffix}"
        write_checkpoint(target, base, posterior.layout, theta, key=arguments.key)
    with open_checkpoint(base, arguments.key) as checkpoint:
        if any(name.endswith("running_var") for name in checkpoint.tensors):
            print(
                "batch-norm statistics are those of the base; recompute them for each checkpoint, with "
                "swag.refresh_batchnorm_(model, train_loader) or your own code, before predicting",
                file=sys.stderr,
            )
    print(f"{folder}: {n} sample{'' if n == 1 else 's'}{' and the mean' if arguments.mean else ''}")
    return 0
