"""`swag report`: predictions in files to a report, a comparison of two reports, and a gate for CI."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swag.errors import FileError, InputError

_DESCRIPTION = """\
Scores predictions against labels: a table with intervals on standard output, and the files asked for.

  swag report SGD.npz SWAG.npz --labels labels.npz --html report.html --json report.json
  swag report SWAG.npz --labels labels.npz --fail-if "SWAG.ece > 0.03"
  swag report --compare before.json after.json

A prediction file (.npz, .npy, .csv, .parquet) holds one method, named by the file's stem: probs (N, C),
member_probs (S, N, C), or mean and variance, (N,) or (S, N). The label file holds labels (N,).
"""
_FORMATS = ("html", "json", "md", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `swag report`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="predictions, one method a file")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="labels or targets (N,)")
    parser.add_argument(
        "--ood",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a method's predictions (the stem's) for inputs of another kind; repeat for more",
    )
    parser.add_argument(
        "--validation", type=Path, nargs="+", metavar="FILE", help="predictions to fit temperatures on"
    )
    parser.add_argument("--validation-labels", type=Path, metavar="FILE", help="their labels")
    parser.add_argument("--baseline", metavar="METHOD", help="differences are from it (default: the first)")
    parser.add_argument("--bins", type=int, default=15, metavar="N", help="of the ECE (default: %(default)s)")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the resamples (default: %(default)s)"
    )
    parser.add_argument("--title", metavar="TEXT", help="of the report")
    parser.add_argument("--date", metavar="TEXT", help="to print in the report; none by default")
    for suffix in _FORMATS:
        parser.add_argument(f"--{suffix}", type=Path, metavar="FILE", help=f"write the report as .{suffix}")
    parser.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help='exit with 1 where it holds, as in "SWAG.ece > 0.03"; repeat for more',
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("BEFORE", "AFTER"),
        help="what changed between two .json reports",
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0, or 1 where a gate did not hold; raises SwagError before any file is written."""
    from swag.report import Report

    if arguments.compare is not None:
        if arguments.files or arguments.labels:
            raise InputError("--compare: takes two reports and no predictions; leave the others out")
        before, after = (Report.load(path) for path in arguments.compare)
        print(before.compare(after))
        return 0
    targets = [path for suffix in _FORMATS if (path := _target(arguments, suffix)) is not None]
    report = _build(arguments)
    failures = [line for condition in arguments.fail_if for line in report.failures(condition)]
    print(report)
    for path in targets:
        report.save(path)
        print(f"written: {path}")
    for line in failures:
        print(f"swag report: failed: {line}", file=sys.stderr)
    return 1 if failures else 0


def _build(arguments: argparse.Namespace) -> Any:
    from swag.progress import track
    from swag.report import Report, read_labels, read_predictions

    if not arguments.files:
        raise InputError("FILE: pass at least one file of predictions; see swag report --help")
    if arguments.labels is None:
        raise InputError("--labels: is missing; pass the file that holds the labels")
    if (arguments.validation is None) != (arguments.validation_labels is None):
        raise InputError("--validation, --validation-labels: pass both or neither")
    predictions = {
        _method(p, arguments.files): read_predictions(p) for p in track(arguments.files, "reading")
    }
    options: dict[str, Any] = {}
    if arguments.validation is not None:
        files = arguments.validation
        options["validation"] = {_known(path, predictions): read_predictions(path) for path in files}
        options["validation_labels"] = read_labels(arguments.validation_labels)
    if arguments.title is not None:
        options["title"] = arguments.title
    if arguments.date is not None:
        options["provenance"] = {"date": arguments.date}
    return Report(
        predictions,
        read_labels(arguments.labels),
        ood=_ood(arguments.ood, predictions) or None,
        baseline=arguments.baseline,
        n_bins=arguments.bins,
        n_bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        **options,
    )


def _ood(words: Sequence[str], predictions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    from swag.report import read_predictions

    sets: dict[str, dict[str, Any]] = {}
    for word in words:
        name, sign, file = word.partition("=")
        if not (name and sign and file):
            raise InputError(f"--ood: got {word!r}; write it as NAME=FILE, such as MNIST=mnist/SWAG.npz")
        path = Path(file)
        method = _known(path, predictions)
        sets.setdefault(name, {})[method] = read_predictions(path)
    return sets


def _method(path: Path, files: Sequence[Path]) -> str:
    if sum(other.stem == path.stem for other in files) > 1:
        raise InputError(
            f"{path}: another file is named {path.stem!r} too; a method's name is its file's stem"
        )
    return path.stem


def _known(path: Path, predictions: dict[str, Any]) -> str:
    if path.stem not in predictions:
        raise InputError(
            f"{path}: there is no method {path.stem!r} among {', '.join(predictions)}; name it after one"
        )
    return path.stem


def _target(arguments: argparse.Namespace, suffix: str) -> Path | None:
    path: Path | None = getattr(arguments, suffix)
    if path is None:
        return None
    if path.suffix.lower() != f".{suffix}":
        raise InputError(f"--{suffix}: {path} should end in .{suffix}")
    if not path.absolute().parent.is_dir():
        raise FileError(f"{path}: the folder {path.parent} does not exist; make it first")
    return path
