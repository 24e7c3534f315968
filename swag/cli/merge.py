"""`swag merge`: several posteriors as one mixture, MultiSWAG."""

from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = """\
Writes a mixture of posteriors of one architecture: MultiSWAG from SWAG posteriors of independent runs,
MultiSWA from SWA solutions. Parameters are compared by name and shape.

  swag merge run0.safetensors run1.safetensors run2.safetensors -o multi.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `swag merge`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.add_argument("posteriors", nargs="+", type=Path, metavar="FILE", help="posteriors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="what is written")
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="one a file, of sum 1 (default: all equal)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Merges; raises SwagError for what cannot be used."""
    import swag

    posteriors = []
    for path in arguments.posteriors:
        # Left in their files, which are not replaced: the output appears by renaming.
        posterior = swag.load(path, mapped=True)
        if isinstance(posterior, swag.Collector):
            raise swag.InputError(f"{path}: holds a collector, no posterior; save collector.swag() instead")
        posteriors.append(posterior)
    try:
        mixture = swag.Mixture(posteriors, arguments.weights)
    except swag.InputError as error:
        names = ", ".join(f"number {i} is {path}" for i, path in enumerate(arguments.posteriors))
        raise swag.InputError(f"{error} ({names})") from error
    swag.save(
        arguments.output,
        mixture,
        provenance={
            "made_by": "swag merge",
            **{f"component_{i}": path.name for i, path in enumerate(arguments.posteriors)},
        },
    )
    print(f"{arguments.output}: {mixture!r}")
    return 0
