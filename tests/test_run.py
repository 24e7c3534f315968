"""The `run` script: when it installs, that it does so once, and that codes and signals come through.

Nothing is installed here: the installer is a stand-in, and the "environment" holds a link to this Python.
"""

import ast
import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "run"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="run needs fcntl")

# What a child process needs to use the script as a module; its argument 1 is a folder of the test's own.
PRELUDE = f"""
import importlib.machinery, importlib.util, os, sys, time
from pathlib import Path
loader = importlib.machinery.SourceFileLoader("run_script", {str(SCRIPT)!r})
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run_script", loader))
loader.exec_module(run)
folder = Path(sys.argv[1])
venv = folder / "venv"

def install(venv, fresh):
    (venv / "bin").mkdir(parents=True, exist_ok=True)
    run.venv_python(venv).unlink(missing_ok=True)
    run.venv_python(venv).symlink_to(sys.executable)
"""


@pytest.fixture(scope="module")
def run() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("run_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader("run_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    return tmp_path


class Installer:
    """Counts its calls and makes an environment that looks real enough."""

    def __init__(self, run: ModuleType) -> None:
        self.run = run
        self.fresh: list[bool] = []

    def __call__(self, venv: Path, fresh: bool, extras: str = "") -> None:
        self.fresh.append(fresh)
        self.extras = extras
        python = self.run.venv_python(venv)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.unlink(missing_ok=True)
        python.symlink_to(sys.executable)


def start(folder: Path, body: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + body, str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- the key ---------------------------------------------------------------------------------------------


def test_key_is_stable_and_names_the_python(run: ModuleType, project: Path) -> None:
    assert run.environment_key(project) == run.environment_key(project)
    assert run.environment_key(project).startswith(run.PYTHON + " ")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_key_changes_with_each_file(run: ModuleType, project: Path, name: str) -> None:
    before = run.environment_key(project)
    (project / name).write_text((project / name).read_text() + "# more\n")
    assert run.environment_key(project) != before


def test_key_changes_when_text_moves_between_the_files(run: ModuleType, project: Path) -> None:
    (project / "pyproject.toml").write_text("ab")
    (project / "constraints.txt").write_text("c")
    before = run.environment_key(project)
    (project / "pyproject.toml").write_text("a")
    (project / "constraints.txt").write_text("bc")
    assert run.environment_key(project) != before


def test_key_changes_with_the_folder_and_the_python(
    run: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run.environment_key(project)
    moved = project / "moved"
    moved.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (moved / name).write_bytes((project / name).read_bytes())
    assert run.environment_key(moved) != before
    monkeypatch.setattr(run, "PYTHON", "cpython-399-3.99.0")
    assert run.environment_key(project) != before


# --- the stamp -------------------------------------------------------------------------------------------


def test_installs_once_and_then_not_again(run: ModuleType, tmp_path: Path) -> None:
    install, venv, key = Installer(run), tmp_path / "venv", f"{run.PYTHON} a"
    assert run.ensure(venv, key, install)
    assert not run.ensure(venv, key, install)
    assert install.fresh == [True]
    assert run.read_stamp(venv) == key


def test_a_changed_project_updates_in_place(run: ModuleType, tmp_path: Path) -> None:
    install, venv = Installer(run), tmp_path / "venv"
    run.ensure(venv, f"{run.PYTHON} a", install)
    assert run.ensure(venv, f"{run.PYTHON} b", install)
    assert install.fresh == [True, False]
    assert not run.is_ready(venv, f"{run.PYTHON} a")


def test_another_python_starts_from_nothing(run: ModuleType, tmp_path: Path) -> None:
    install, venv = Installer(run), tmp_path / "venv"
    run.ensure(venv, "cpython-310-3.10.1 a", install)
    run.ensure(venv, f"{run.PYTHON} a", install)
    assert install.fresh == [True, True]


def test_a_vanished_interpreter_starts_from_nothing(run: ModuleType, tmp_path: Path) -> None:
    install, venv, key = Installer(run), tmp_path / "venv", f"{run.PYTHON} a"
    run.ensure(venv, key, install)
    run.venv_python(venv).unlink()
    run.venv_python(venv).symlink_to(tmp_path / "gone")
    assert run.ensure(venv, key, install)
    assert install.fresh == [True, True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interrupted_installation_leaves_no_stamp(
    run: ModuleType, tmp_path: Path, error: type[BaseException]
) -> None:
    install, venv = Installer(run), tmp_path / "venv"

    def interrupted(venv: Path, fresh: bool) -> None:
        install(venv, fresh)
        raise error

    run.ensure(venv, f"{run.PYTHON} a", install)
    with pytest.raises(error):
        run.ensure(venv, f"{run.PYTHON} b", interrupted)
    assert run.read_stamp(venv) == ""
    assert run.ensure(venv, f"{run.PYTHON} a", install)  # even the old key is not believed any more
    assert install.fresh == [True, False, True]


def test_a_killed_installation_leaves_no_stamp_and_no_lock(run: ModuleType, tmp_path: Path) -> None:
    body = """
def hang(venv, fresh):
    install(venv, fresh)
    (folder / "installing").touch()
    time.sleep(60)
run.ensure(venv, run.PYTHON + " a", hang)
"""
    with start(tmp_path, body) as process:
        wait_until((tmp_path / "installing").exists)
        process.kill()
        process.communicate()
    install = Installer(run)
    assert run.read_stamp(tmp_path / "venv") == ""
    assert run.ensure(tmp_path / "venv", f"{run.PYTHON} a", install)
    assert install.fresh == [True]


# --- two at once -----------------------------------------------------------------------------------------


def test_two_at_once_install_once(tmp_path: Path) -> None:
    body = """
def slow(venv, fresh):
    with (folder / "log").open("a") as log:
        log.write("installed\\n")
    while not (folder / "go").exists():
        time.sleep(0.01)
    install(venv, fresh)
print(run.ensure(venv, run.PYTHON + " a", slow))
"""
    with start(tmp_path, body) as first:
        wait_until((tmp_path / "log").exists)
        with start(tmp_path, body) as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            (tmp_path / "go").touch()
            answers = [process.communicate(timeout=30)[0].strip() for process in (first, second)]
    assert answers == ["True", "False"]
    assert (tmp_path / "log").read_text() == "installed\n"
    assert first.returncode == second.returncode == 0


def test_the_second_installs_when_the_first_fails(tmp_path: Path) -> None:
    body = """
def slow(venv, fresh):
    with (folder / "log").open("a") as log:
        log.write(sys.argv[2] + "\\n")
    if sys.argv[2] == "first":
        while not (folder / "go").exists():
            time.sleep(0.01)
        sys.exit(5)
    install(venv, fresh)
run.ensure(venv, run.PYTHON + " a", slow)
"""
    with start(tmp_path, body, "first") as first:
        wait_until((tmp_path / "log").exists)
        with start(tmp_path, body, "second") as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            (tmp_path / "go").touch()
            first.communicate(timeout=30)
            second.communicate(timeout=30)
    assert (first.returncode, second.returncode) == (5, 0)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_an_orphaned_child_keeps_the_lock(run: ModuleType, tmp_path: Path) -> None:
    body = """
def hang(venv, fresh):
    run.call([sys.executable, "-c", "import time, pathlib, sys\\n"
              "pathlib.Path(sys.argv[1]).touch()\\n"
              "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)\\n"
              "pathlib.Path(sys.argv[3]).touch()",
              *(str(folder / name) for name in ("started", "go", "ended"))])
run.ensure(venv, run.PYTHON + " a", hang)
"""
    with start(tmp_path, body) as first:
        wait_until((tmp_path / "started").exists)
        first.kill()
        first.wait()
        second_body = """
def check(venv, fresh):
    assert (folder / "ended").exists()
    install(venv, fresh)
run.ensure(venv, run.PYTHON + " a", check)
"""
        with start(tmp_path, second_body) as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            (tmp_path / "go").touch()
            assert second.wait(timeout=30) == 0


# --- children --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7])
def test_call_returns_the_childs_code(run: ModuleType, code: int) -> None:
    assert run.call([sys.executable, "-c", f"raise SystemExit({code})"]) == code


def test_call_returns_128_plus_the_signal_that_ended_the_child(run: ModuleType) -> None:
    assert run.call(["/bin/sh", "-c", "kill -9 $$"]) == 128 + 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_child_and_no_further_one_starts(tmp_path: Path, number: signal.Signals) -> None:
    child = """
import pathlib, signal, sys, time
def leave(number, frame):
    raise SystemExit(40)
signal.signal(int(sys.argv[2]), leave)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""
    body = f"""
run.in_foreground = lambda: False
run.call([sys.executable, "-c", {child!r}, str(folder / "started"), "{int(number)}"])
(folder / "further").touch()
"""
    with start(tmp_path, body) as process:
        wait_until((tmp_path / "started").exists)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == 40
    assert not (tmp_path / "further").exists()


def test_a_signal_counts_as_failure_though_the_child_ends_well(tmp_path: Path) -> None:
    child = (
        "import pathlib, signal, sys; signal.signal(15, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1]).touch(); sys.stdin.readline()"
    )
    body = f"""
run.call([sys.executable, "-c", {child!r}, str(folder / "started")])
"""
    process = subprocess.Popen([sys.executable, "-c", PRELUDE + body, str(tmp_path)], stdin=subprocess.PIPE)
    with process:
        wait_until((tmp_path / "started").exists)
        process.terminate()
        time.sleep(0.1)
        process.communicate(b"\n", timeout=30)
    assert process.returncode == 128 + 15


def test_commands_replace_the_script_and_keep_folder_and_code(tmp_path: Path) -> None:
    body = """
code = "import os, sys; print(os.getpid(), os.getcwd(), sys.argv[1:]); sys.exit(9)"
sys.exit(run.main(["python", "-c", code, "a b", "--c"], venv, install))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + body, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    output, _ = process.communicate(timeout=30)
    assert output.strip() == f"{process.pid} {tmp_path.resolve()} ['a b', '--c']"
    assert process.returncode == 9


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["demo", "--fast"], "swag demo --fast"),
        (["swag", "info", "x"], "swag info x"),
        (["bench", "-h"], "python -m experiments.performance -h"),
        (["python"], "python"),
        (["docs", "--linkcheck"], "python build.py --linkcheck"),
    ],
)
def test_what_each_command_starts(
    run: ModuleType, tmp_path: Path, command: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(run, "become", lambda c: started.append(" ".join(Path(word).name for word in c)) or 3)
    assert run.main(command, tmp_path / "venv", Installer(run)) == 3
    assert started == [expected]


def test_only_tests_and_docs_wait_for_the_frameworks(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = Installer(run)
    monkeypatch.setattr(run, "become", lambda command: 0)
    monkeypatch.setattr(run, "check", lambda python, arguments: 0)
    asked = []
    for command in ("demo", "demo", "test", "docs", "demo"):
        assert run.main([command], tmp_path / "venv", install) == 0
        asked.append((len(install.fresh), install.extras))
    assert asked == [(1, ""), (1, ""), *[(2, run.ALL_EXTRAS)] * 3]


def fake_python(folder: Path, failing: dict[str, int]) -> Path:
    """Stands in for the environment's Python: writes down what it was asked, fails where it is told to."""
    cases = "".join(f'  "-m {step}"*) exit {code} ;;\n' for step, code in failing.items())
    python = folder / "python"
    python.write_text(f'#!/bin/sh\necho "$*" >> "{folder}/steps"\ncase "$*" in\n{cases}esac\nexit 0\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("failing", "code"), [({}, 0), ({"pytest": 2}, 2), ({"mypy": 4}, 4), ({"ruff check": 1, "pytest": 2}, 1)]
)
def test_check_runs_every_step_and_reports_the_first_failure(
    run: ModuleType, tmp_path: Path, failing: dict[str, int], code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    python = fake_python(tmp_path, failing)
    assert run.check(str(python), ["-k", "mean"]) == code
    steps = (tmp_path / "steps").read_text().splitlines()
    assert [step.split()[1] for step in steps] == ["ruff", "ruff", "mypy", "pytest"]
    assert steps[-1] == "-m pytest -k mean"
    summary = capfd.readouterr().err.splitlines()[-1]
    assert all(step in summary for step in failing) if failing else "all checks passed" in summary


def test_torch_is_pinned_in_the_constraints(run: ModuleType) -> None:
    constraints = (SCRIPT.parent / "constraints.txt").read_text()
    assert run.pinned("torch", constraints).startswith("torch==")
    assert run.pinned("torch", "torchmetrics==1.0\ntorch==2.13.0  # why\n") == "torch==2.13.0"
    with pytest.raises(SystemExit, match=r"torch==VERSION"):
        run.pinned("torch", "torchmetrics==1.0\n")


# --- by hand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["help"], ["-h"], ["--help"]])
def test_help(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert "./run test" in done.stdout
    assert done.stderr == ""


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([str(SCRIPT), "tset"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "no command 'tset'" in done.stderr
    assert done.stdout == ""


def test_an_old_python_gets_a_sentence() -> None:
    source = SCRIPT.read_text()
    ast.parse(source, feature_version=(3, 7))  # an older Python can read it far enough to say so
    body = f"import runpy, sys; sys.version_info = (3, 9, 1); runpy.run_path({str(SCRIPT)!r})"
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "3.9" in done.stderr
    assert "Traceback" not in done.stderr
