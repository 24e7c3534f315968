"""`swag fit`: a posterior from checkpoints on disk."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Reads checkpoints (.safetensors, .pt, .pth, .bin, .ckpt, folders as Hugging Face's libraries write them,
folders of such, or globs) as snapshots of one training run and writes a posterior. Files are taken in natural
order ("epoch9" before "epoch10"). Batch-norm statistics and integers are left out. Nothing is ever unpickled.

  swag fit run/epoch*.pt -o posterior.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `swag fit`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", help="file, folder or glob")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="what is written")
    parser.add_argument(
        "--rank", type=int, default=20, metavar="K", help="deviations kept (default: %(default)s)"
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=("swag", "swag-diag", "swa", "collector"),
        default="swag",
        help="what to write; a collector can go on collecting, and be read out in every way (default: swag)",
    )
    parser.add_argument(
        "--scale", type=float, metavar="S", help="of the covariance (default: 0.5 for swag, 1 for swag-diag)"
    )
    parser.add_argument(
        "--select",
        action="append",
        metavar="PATTERN",
        help="only parameters of this name, module or glob; may be given several times",
    )
    parser.add_argument("--key", help="where in a pickled dict the weights lie, as in ema.state_dict")
    parser.add_argument(
        "--deviation-dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the deviations; bfloat16 halves the file (default: %(default)s)",
    )
    parser.add_argument(
        "--on-disk",
        action="store_true",
        help="keep the deviations beside the output while reading, for models larger than memory",
    )
    parser.add_argument("--in-order", action="store_true", help="take the files in the order given")


def run(arguments: argparse.Namespace) -> int:
    """Fits and writes; raises SwagError for what cannot be used."""
    import torch

    import swag
    from swag.checkpoints import expand, natural_key
    from swag.files import save_swag

    output: Path = arguments.output
    paths = expand(arguments.checkpoints)
    if not arguments.in_order:
        paths = sorted(paths, key=natural_key)
    if output.is_dir() or not output.parent.is_dir():
        raise swag.FileError(f"{output}: cannot be written; pass a file in a folder that exists")
    if any(path.exists() and output.exists() and os.path.samefile(path, output) for path in paths):
        raise swag.InputError(f"output: {output} is one of the checkpoints; pass another file")
    if arguments.kind in ("swa", "collector") and arguments.scale is not None:
        raise swag.InputError(f"--scale: means nothing for --as {arguments.kind}; leave it out")
    collector = swag.fit_checkpoints(
        paths,
        rank=arguments.rank if arguments.kind in ("swag", "collector") else 0,
        select=arguments.select,
        key=arguments.key,
        deviation_dtype=getattr(torch, arguments.deviation_dtype),
        deviation_folder=output.parent if arguments.on_disk else None,
    )
    provenance: dict[str, Any] = {
        "made_by": "swag fit",
        "n_checkpoints": len(paths),
        "first_checkpoint": paths[0].name,
        "last_checkpoint": paths[-1].name,
    }
    if arguments.kind == "swag":
        scale = 0.5 if arguments.scale is None else arguments.scale
        save_swag(output, collector, scale, provenance=provenance)
    elif arguments.kind == "swag-diag":
        posterior = collector.swag_diag(1.0 if arguments.scale is None else arguments.scale)
        swag.save(output, posterior, provenance=provenance)
    else:
        made = collector.swa() if arguments.kind == "swa" else collector
        swag.save(output, made, provenance=provenance)
    print(f"{output}: {arguments.kind} of {len(paths)} checkpoints, {collector.layout.size:,} parameters")
    if collector.n_collected < 2:
        print("one checkpoint has no spread", file=sys.stderr)
    return 0
