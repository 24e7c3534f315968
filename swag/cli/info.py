"""`swag info`: what a file is, and what its posterior looks like."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Shows what a file holds: its kind, parameters and sizes; and diagnoses a posterior: how correlated its
snapshots are and how many independent ones they are worth, its effective rank, the share of variance in the
low-rank part, each layer's spread relative to its weights, and warnings.

  swag info posterior.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `swag info`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.add_argument("file", type=Path, metavar="FILE", help="from swag fit, merge or swag.save")
    parser.add_argument("--layers", action="store_true", help="every parameter, with its spread")
    parser.add_argument("--no-diagnosis", action="store_true", help="read the header alone")


def run(arguments: argparse.Namespace) -> int:
    """Prints; raises SwagError for what cannot be read."""
    import swag
    from swag.files import describe
    from swag.forecast import readable
    from swag.parameters import Layout

    found = describe(arguments.file)
    header = found.header
    print(
        f"{arguments.file}: {_title(header)}, {readable(found.n_bytes)}, written by swag {found.swag_version}"
    )
    for name, value in found.provenance.items():
        print(f"  {name}: {value}")
    for name, spec in found.tensors.items():
        dtype = str(spec.dtype).removeprefix("torch.")
        print(f"  {name:<12} {dtype:<9} {list(spec.shape)!s:<16} {readable(spec.stop - spec.start)}")
    listed = _layout(header)
    layout = None if listed is None else Layout.from_list(listed)
    if layout is not None:
        print(f"{len(layout.entries)} parameters, {layout.size:,} weights")
    if arguments.no_diagnosis or header["kind"] == "ensemble":
        _print_layers(layout, {}, arguments.layers)
        return 0
    obj = swag.load(arguments.file, mapped=header["kind"] != "collector")
    if isinstance(obj, swag.Collector):
        print(f"collector of rank {obj.rank} after {obj.n_collected} snapshots")
        if obj.n_collected < 2:
            return 0
        obj = obj.swag() if obj.rank >= 2 else obj.swag_diag()
    diagnosis = obj.diagnose()
    print(diagnosis)
    _print_layers(layout, {spread.name: spread.relative_std for spread in diagnosis.layers}, arguments.layers)
    return 0


def _title(header: dict[str, Any]) -> str:
    words = str(header["kind"]).replace("_", " ")
    if header["kind"] == "mixture":
        inside = [str(component["kind"]).replace("_", " ") for component in header["components"]]
        return f"mixture of {len(inside)}: {', '.join(sorted(set(inside)))}"
    return words


def _layout(header: dict[str, Any]) -> Any:
    if header["kind"] == "mixture":
        return next(filter(None, map(_layout, header["components"])), None)
    return header["layout"]


def _print_layers(layout: Any, spread: dict[str, float], wanted: bool) -> None:
    if not wanted or layout is None:
        return
    for entry in layout.entries:
        std = f"  {spread[entry.name]:.2g}" if entry.name in spread else ""
        print(f"  {entry.name:<40} {list(entry.shape)!s:<20} {str(entry.dtype).removeprefix('torch.')}{std}")
