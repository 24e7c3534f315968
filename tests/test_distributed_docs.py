"""The page on outgrowing one machine: its scripts run as they stand, and survive a worker's death."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import swag
from tests.distributed_runs import run

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "outgrowing_one_machine.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
SCRIPTS = {found[1]: block for block in BLOCKS if (found := re.match(r"# (\w+\.py)\n", block))}
# Kills rank 1 for good in the middle of the collection phase, once.
KILLER = """
        if training.step == 36 and rank == 1 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), 9)
"""


def lay_out(folder: Path, **changed: str) -> None:
    for name, text in {**SCRIPTS, **changed}.items():
        (folder / name).write_text(text, encoding="utf-8")


def command(line: str, folder: Path) -> str:
    """Runs a line of the page in a folder, all of it ended after three minutes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    environment.pop("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", None)  # the line has to say it
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(
        ["sh", "-c", line],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # torchrun passes it on to its workers
        output, _ = process.communicate()
        raise AssertionError(f"not done in time:\n{output[-4000:]}") from None
    assert process.returncode == 0, output[-4000:]
    return output


def script(rank: int, size: int, folder: Path) -> str:
    """A script of the page in a process that is there already, instead of under torchrun."""
    name = (folder / "script").read_text()
    torch.distributed.destroy_process_group()
    os.chdir(folder)
    port = (folder / "port").read_text()
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(name)
    return printed.getvalue()


def run_script(name: str, size: int, folder: Path) -> str:
    """What rank 0 printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(free.getsockname()[1]))
    (folder / "script").write_text(name)
    return run(script, size, folder)[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after train.py on two ranks in which nobody died."""
    folder = tmp_path_factory.mktemp("undisturbed")
    lay_out(folder)
    run_script("train.py", 2, folder)
    return folder


def test_a_killed_rank_resumes_to_the_same_posterior(undisturbed: Path, tmp_path: Path) -> None:
    line = "        collector.collect(model)"
    assert SCRIPTS["train.py"].count(line) == 1
    lay_out(tmp_path, **{"train.py": SCRIPTS["train.py"].replace(line, KILLER.lstrip("\n") + line)})
    output = command(COMMANDS[0], tmp_path)
    assert (tmp_path / "killed").exists() and "exitcode: -9" in output, output[-2000:]
    expected = (undisturbed / "posterior.safetensors").read_bytes()
    assert (tmp_path / "posterior.safetensors").read_bytes() == expected
    posterior = swag.load(tmp_path / "posterior.safetensors")
    assert (posterior.n_collected, posterior.rank) == (5, 5)


def test_a_checkpoint_of_two_ranks_goes_on_with_one(undisturbed: Path, tmp_path: Path) -> None:
    """From step 32 on, on another number of ranks: earlier rows stay as they were."""
    import shutil

    lay_out(tmp_path)
    for step in ("000024", "000028", "000032"):
        shutil.copytree(undisturbed / "checkpoints" / step, tmp_path / "checkpoints" / step)
    run_script("train.py", 1, tmp_path)
    got = swag.load(tmp_path / "posterior.safetensors")
    expected = swag.load(undisturbed / "posterior.safetensors")
    assert got.n_collected == expected.n_collected == 5
    assert torch.equal(got.rows[:3], expected.rows[:3]) and not torch.equal(got.rows[3:], expected.rows[3:])


def test_predictions_of_the_page(undisturbed: Path) -> None:
    printed = run_script("predict.py", 2, undisturbed)
    found = re.fullmatch(r"accuracy (\S+), nll (\S+), 100 rows\n", printed)
    assert found and float(found[1]) > 0.5
    two = torch.load(undisturbed / "probs.pt", weights_only=True)
    run_script("predict.py", 1, undisturbed)
    torch.testing.assert_close(
        torch.load(undisturbed / "probs.pt", weights_only=True), two, rtol=1e-5, atol=1e-6
    )
    # An ordinary process sees the same, with an ordinary ensemble.
    posterior = swag.load(undisturbed / "posterior.safetensors")
    nn = torch.nn
    model = nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 3))
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(1))
    ensemble = swag.Ensemble(model, posterior, n_samples=10, seed=0)
    torch.testing.assert_close(ensemble(x).probs, two, rtol=1e-5, atol=1e-6)
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.chdir(undisturbed):
        runpy.run_path("one_process.py")
    assert shown.getvalue() == "LowRankGaussian(D=363, rank=5) torch.Size([3, 363])\n"


@pytest.mark.slow
def test_the_second_command_of_the_page(undisturbed: Path) -> None:
    assert "100 rows" in command(COMMANDS[1], undisturbed)


def test_the_table_of_costs_is_what_the_code_says() -> None:
    (block,) = [block for block in BLOCKS if "import cost" in block]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, "outgrowing_one_machine.md", "exec"), {})
    assert printed.getvalue().strip() in PAGE
    assert len(printed.getvalue().splitlines()) == 2 + 9


def test_everything_named_on_the_page_exists() -> None:
    import swag.distributed
    import swag.training

    assert set(SCRIPTS) == {"train.py", "one_process.py", "predict.py"} and len(BLOCKS) == 4
    assert len(COMMANDS) == 2
    for name in set(re.findall(r"swag\.distributed\.(\w+)", PAGE)) - {"launch"}:
        assert hasattr(swag.distributed, name), name
    assert hasattr(swag.training, "swap")
