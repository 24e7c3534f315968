"""The command `swag`: help, version, exit codes, one-line errors; and no torch before it is needed."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import swag
from swag import cli
from swag.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A subcommand `try` whose `run` a test replaces."""
    module = ModuleType("made_up_command")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--number", type=int, default=0)

    def run(arguments: argparse.Namespace) -> int:
        return arguments.number

    module.add_arguments, module.run = add_arguments, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_command", module)
    monkeypatch.setitem(COMMANDS, "try", cli.Command("made_up_command", "made up"))
    return module


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "usage: swag" in out
    for name in COMMANDS:
        assert f"\n    {name} " in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"swag {swag.__version__}\n"


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swag", "--version"], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"swag {swag.__version__}\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "COMMAND"),
        (["dance"], "'dance'"),
        (["--loud"], "COMMAND"),
        (["try", "--number", "many"], "--number"),
        (["try", "--num", "1"], "--num"),
        (["try", "more"], "more"),
    ],
)
def test_bad_words_give_2_and_one_line(
    words: list[str], complaint: str, command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("swag try: error: " if words[:1] == ["try"] and len(words) > 2 else "swag")
    assert complaint in captured.err
    assert "--help" in captured.err


def test_a_command_gives_the_exit_code(command: ModuleType) -> None:
    assert main(["try"]) == 0
    assert main(["try", "--number", "1"]) == 1


@pytest.mark.parametrize("kind", [swag.InputError, swag.StateError, swag.FileError])
def test_errors_of_the_library_give_2_and_one_line(
    kind: type[swag.SwagError], command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise kind("number: got 3;\n  pass 4")

    command.run = run  # type: ignore[attr-defined]
    assert main(["try"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "swag try: error: number: got 3; pass 4\n")


def test_other_errors_keep_their_traceback(command: ModuleType) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise ZeroDivisionError("ours")

    command.run = run  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        main(["try"])


def test_ctrl_c_gives_130_and_one_line(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    command.run = run  # type: ignore[attr-defined]
    assert main(["try"]) == 130
    assert capsys.readouterr().err.strip().splitlines() == [
        "swag try: interrupted; files that were written are whole"
    ]


def test_a_reader_who_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "swag", "--version"],
            stdout=gone,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["dance"], *([name, "--help"] for name in COMMANDS)]
)
def test_torch_is_not_loaded_before_it_is_needed(words: list[str]) -> None:
    done = run_python(
        f"import sys; from swag.cli import main; main({words}); "
        "print(*{'torch', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded(name: str) -> None:
    module = import_module(COMMANDS[name].module)
    assert callable(module.add_arguments) and callable(module.run)


def test_every_public_name_is_there() -> None:
    done = run_python("import swag; [getattr(swag, name) for name in swag.__all__]; from swag import *")
    assert done.returncode == 0, done.stderr
    assert set(swag.__all__) <= set(dir(swag))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = swag.no_such_name
