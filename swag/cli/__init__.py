"""The command `swag`: finds the subcommand, loads it and nothing else, and turns errors into exit codes.

    0    done
    1    a gate that the user set did not hold (`swag report --fail-if`)
    2    bad input: one line on standard error that says what to change
    130  stopped by Ctrl-C

A subcommand is a module with `add_arguments(parser)`, which must stay quick (no torch), and
`run(arguments) -> int`, which may load what it needs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

from swag.errors import SwagError


class Command(NamedTuple):
    """Where a subcommand lives, and its line in `swag --help`."""

    module: str
    help: str


COMMANDS = {
    "demo": Command("swag.cli.demo", "train, collect, sample and score on real images, in under a minute"),
    "report": Command("swag.cli.report", "score predictions in files, compare reports, gate a build"),
    "fit": Command("swag.cli.fit", "a posterior from checkpoints that exist"),
    "sample": Command("swag.cli.sample", "weights from a posterior, as ordinary checkpoints"),
    "merge": Command("swag.cli.merge", "several posteriors as one mixture: MultiSWAG"),
    "multi": Command("swag.multi", "MultiSWAG: members trained side by side, one mixture"),
    "info": Command("swag.cli.info", "what a file holds, and what its posterior looks like"),
    "forecast": Command("swag.cli.forecast", "the memory that settings will take, before any training"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; `argv` defaults to that of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in words if not word.startswith("-")), "")
    place = f"swag {name}" if name in COMMANDS else "swag"
    try:
        code = _run(name, words)
        sys.stdout.flush()
        return code
    except SwagError as error:
        print(f"{place}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{place}: interrupted; files that were written are whole", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as in `swag demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13


def _run(name: str, words: Sequence[str]) -> int:
    parser, own = _parsers(name)
    try:
        arguments, rest = parser.parse_known_args(words)
        if rest:
            own.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit as end:  # argparse has said what there is to say
        return end.code if isinstance(end.code, int) else 2
    return int(import_module(COMMANDS[name].module).run(arguments))


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error of the command does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _parsers(name: str) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The whole parser, and that of the subcommand `name`, which alone knows its arguments."""
    parser = own = _OneLineParser(
        prog="swag",
        description="Uncertainty from the weights of neural networks: SWA, SWAG and MultiSWAG in PyTorch.",
        epilog="swag COMMAND --help explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for key, command in COMMANDS.items():
        added = commands.add_parser(
            key, help=command.help, description=f"{command.help}.", allow_abbrev=False
        )
        if key == name:
            own = added
            import_module(command.module).add_arguments(own)
    return parser, own


class _Version(argparse.Action):
    """`--version`, without the cost of looking it up when nobody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from swag import __version__

        print(f"swag {__version__}")
        parser.exit(0)
