"""MultiSWAG over processes: equal to the sequential run, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import swag
from swag import InputError, StateError, multi, progress, training
from swag.distributed import launch
from swag.distributed.member_files import MemberFiles
from swag.distributed.member_files import launch as launch_name
from swag.distributed.multi import train_multi, train_runs
from swag.distributed.place import own_device, place
from swag.distributed.watch import Watch
from tests.multi_runs import SETTINGS, make_model, make_run
from tests.training_cases import batches, same, shuffled, task

ROOT = Path(__file__).resolve().parent.parent
RUNS = f"{ROOT / 'tests' / 'multi_runs.py'}:make_run"


def sequential(seeds: list[int]) -> swag.Mixture:
    return training.train_multi(make_model, seeds, shuffled(), F.cross_entropy, **SETTINGS).multiswag()


def equal(mine: swag.Mixture, theirs: swag.Mixture) -> None:
    assert len(mine.posteriors) == len(theirs.posteriors)
    for a, b in zip(mine.posteriors, theirs.posteriors, strict=True):
        assert torch.equal(a.mean, b.mean)
        assert torch.equal(a.cov_diag, b.cov_diag)  # type: ignore[attr-defined]
        assert torch.equal(a.cov_factor, b.cov_factor)  # type: ignore[attr-defined]
    draws = [m.sample(5, generator=torch.Generator().manual_seed(0)) for m in (mine, theirs)]
    assert torch.equal(*draws)


def test_a_killed_worker_is_started_again_and_the_mixture_is_the_sequential_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rank 0 trains the seeds 0 and 2, rank 1 trains 1 and 3 and is killed in its second member.
    (tmp_path / "kill-3-4").touch()
    out = tmp_path / "out"
    monkeypatch.setenv("SWAG_TEST_LOG", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [
        RUNS,
        "--seeds",
        "0-3",
        "--out",
        str(out),
        "--workers",
        "2",
        "--restarts",
        "2",
        "--patience",
        "60",
    ]
    command = [sys.executable, "-m", "swag.multi", *words]
    done = subprocess.run(command, cwd=tmp_path, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "kill-3-4").exists()
    expected = sequential([0, 1, 2, 3])
    equal(swag.load(out / "mixture.safetensors"), expected)
    equal(MemberFiles(out, (0, 1, 2, 3)).mixture(), expected)
    # The killed epoch came twice; what was finished was not trained again. (Where the others stood when it
    # happened is their own affair: each repeats at most the epoch it was in.)
    epochs = {seed: (tmp_path / f"epochs-{seed}").read_text().split() for seed in range(4)}
    assert epochs[3] == ["1", "2", "3", "4", "4", "5", "6"]
    assert epochs[1] == ["1", "2", "3", "4", "5", "6"]
    for seed in (0, 2):
        assert sorted(set(epochs[seed])) == ["1", "2", "3", "4", "5", "6"] and len(epochs[seed]) <= 7
    said = json.loads((out / "seed-3.json").read_text())
    assert (said["epoch"], said["of"], said["finished"]) == (6, 6, True)
    assert "4 members, seeds 0, 1, 2, 3" in done.stdout


def test_alone_it_is_the_sequential_run_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(epoch: training.Epoch) -> None:
        trained.append(epoch.number)
        if len(trained) == limit:
            raise Stop

    def start() -> MemberFiles:
        return train_multi(
            make_model,
            [5, 8],
            shuffled(),
            F.cross_entropy,
            folder=tmp_path / "a" / "b",
            callbacks=[stop],
            **SETTINGS,
        )

    trained: list[int] = []
    limit = 9
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(Stop):
        start()
    assert torch.equal(torch.get_rng_state(), before)
    limit, trained = 99, []
    members = start()
    assert trained == [3, 4, 5, 6]
    assert (len(members), members.seeds) == (2, (5, 8)) and members.unfinished() == []
    equal(members.mixture(), sequential([5, 8]))
    equal(swag.load(members.path), members.mixture())
    trained.clear()
    again = start()
    assert trained == []
    equal(again.mixture(), members.mixture())
    x, _ = task()
    ensemble = swag.Ensemble(make_model(0), again.mixture(), 4, bn_loader=batches(), seed=0)
    assert ensemble(x).probs.shape == (44, 3)


def test_runs_with_settings_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAG_TEST_LOG", str(tmp_path))

    def own(seed: int) -> dict[str, Any]:
        return {**make_run(seed), "train_loader": shuffled(seed), "epochs": 4 + seed % 2}

    members = train_runs(own, [0, 1], tmp_path, read_out=lambda collector: collector.swa())
    assert isinstance(members.posterior(1), swag.PointMass)
    assert [members.progress(seed)["of"] for seed in (0, 1)] == [4, 5]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        alone = training.train(**{**own(1), "callbacks": []})
    assert torch.equal(members.posterior(1).mean, alone.swa().mean)


def test_a_rank_trains_its_share_and_waits_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests of this process may have left a process group of one.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setenv("SWAG_TEST_LOG", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert place() == (1, 2)
    with pytest.raises(StateError, match=r"seeds 0, 2 did not finish, and nothing was heard for 0\.1 s"):
        train_runs(make_run, [0, 1, 2], tmp_path, patience=0.1)
    assert MemberFiles(tmp_path, (0, 1, 2)).unfinished() == [0, 2]
    assert not (tmp_path / "mixture.safetensors").exists() and not (tmp_path / "epochs-0").exists()
    # Nor do those of an earlier call of the same attempt, which may have been read out in another way.
    for seed in (0, 2):
        MemberFiles(tmp_path, (0, 1, 2)).tell(seed, epoch=6, of=6, finished=True)
    assert MemberFiles(tmp_path, (0, 1, 2)).unfinished() == []
    with pytest.raises(StateError, match=r"seeds 0, 2 did not finish"):
        train_runs(make_run, [0, 1, 2], tmp_path, patience=0.1)
    # A rank that still waits for the first call finds the files of one that is in the second already.
    later = MemberFiles(tmp_path, (0, 1, 2), call=1)
    later.tell(2, epoch=1, of=6, finished=False)
    assert MemberFiles(tmp_path, (0, 1, 2)).unfinished() == [] and later.unfinished() == [0, 2]
    # Files of another attempt prove nothing, though they say that all is finished.
    monkeypatch.setattr(sys.modules["swag.distributed.multi"], "_calls", Counter())
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert MemberFiles(tmp_path, (0, 1, 2)).unfinished() == [0, 1, 2]
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(StateError, match="seeds 1 did not finish"):
        train_runs(make_run, [0, 1, 2], tmp_path, patience=0.1)
    # torchrun without --standalone calls every launch alike, but for its folder of errors: on one machine.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    names = {}
    for folder in ("none_a/attempt_1/0", "none_a/attempt_1/1", "none_b/attempt_1/0"):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"/tmp/torchelastic_x/{folder}/error.json")
        names[folder] = launch_name()
    a, also_a, b = names.values()
    assert a == also_a != b
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # two machines, each with a folder of its own
    assert launch_name() not in (a, b) and "torchelastic" not in launch_name()
    # A rank that waits is told of the mixture, too.
    members = MemberFiles(tmp_path, (0, 1, 2))
    members.tell(1, epoch=6, of=6, finished=True)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys.modules["swag.distributed.multi"], "_calls", Counter())
    with pytest.raises(StateError, match="rank 0 has not written their mixture"):
        train_runs(make_run, [0, 1, 2], tmp_path, patience=0.1)
    members.merge()
    monkeypatch.setattr(sys.modules["swag.distributed.multi"], "_calls", Counter())
    equal(train_runs(make_run, [0, 1, 2], tmp_path, patience=0.1).mixture(), sequential([0, 1, 2]))


def test_the_wait_lasts_as_long_as_something_is_heard(tmp_path: Path) -> None:
    members = MemberFiles(tmp_path, (0, 1))
    watch, asked = Watch(members, shown=True), 0

    def done() -> bool:
        nonlocal asked
        asked += 1
        members.tell(1, epoch=asked, of=50, loss=0.0, finished=False)
        return asked == 4

    began = time.monotonic()
    watch.wait(done, patience=0.3, what="are late")  # four looks, each 0.2 s after the other
    assert asked == 4 and time.monotonic() - began > 0.3
    assert watch.look()[1]["epoch"] == 4
    watch.close()


def test_the_bar_counts_the_epochs_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []

    def track(items: range, description: str, *, total: int) -> Any:
        assert (description, total) == ("3 members, epochs", 4 + 6 + 6)
        assert not progress._silent.get()
        for item in items:
            moved.append(item)
            yield item

    monkeypatch.setattr("swag.distributed.watch.track", track)
    members = MemberFiles(tmp_path, (0, 1, 2))
    watch = Watch(members, shown=True)
    watch.look()
    members.tell(0, epoch=2, of=4)
    members.tell(2, epoch=1, of=6)
    with progress.silent():  # as inside a training
        watch.look()
    assert len(moved) == 3
    members.tell(2, epoch=5, of=6)
    watch.look()
    assert len(moved) == 7
    quiet = Watch(members, shown=False)
    quiet.look()
    assert len(moved) == 7
    (tmp_path / "seed-1.json").write_text("{")
    with pytest.raises(swag.FileError, match=r"seed-1\.json"):
        watch.look()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": 3}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [0.5]}, "seed"),
        ({"patience": 0}, "patience"),
        ({"epochs": 0}, "epochs"),
        ({"checkpoint": "x.pt"}, "checkpoint"),
        ({"momentum": 0.9}, "momentum"),
        ({"make_model": lambda seed: 3}, "make_model"),
        ({"train_loader": shuffled(0)}, "train_loader"),
        ({"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)}, "optimizer"),
        ({"callbacks": [shuffled(0), nn.Linear(1, 1)]}, "callbacks"),
    ],
)
def test_refuses(changes: dict[str, Any], names: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "make_model": make_model,
        "seeds": [0, 1],
        "train_loader": batches(),
        "loss": F.cross_entropy,
        "folder": tmp_path,
        **SETTINGS,
        **changes,
    }
    with pytest.raises(InputError, match=names):
        train_multi(**given)
    assert not list(tmp_path.glob("*.safetensors"))


def test_refuses_runs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"make_run: returned a Linear.*by name"):
        train_runs(lambda seed: nn.Linear(1, 1), [0], tmp_path)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="no 'loss'"):
        train_runs(lambda seed: {"model": make_model(seed), "train_loader": []}, [0], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(swag.FileError, match="file"):
        train_runs(make_run, [0], tmp_path / "file")


def test_devices() -> None:
    assert own_device(None) is None and own_device("cpu") == torch.device("cpu")
    assert own_device("cuda:1") == torch.device("cuda", 1)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device"):
            own_device("cuda")


def test_torchrun_is_started_so_that_restarts_are_reliable() -> None:
    assert launch.environment({"A": "1"}) == {"A": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    assert launch.environment()["PATH"] == os.environ["PATH"]
    words = launch.command(["-m", "swag.multi", "x"], workers=3, max_restarts=1)
    assert words[0] == sys.executable and words[-3:] == ["-m", "swag.multi", "x"]
    assert {"--nproc-per-node=3", "--max-restarts=1", "--standalone"} <= set(words)
    for given, names in (({"workers": 0}, "workers"), ({"workers": 1, "max_restarts": -1}, "max_restarts")):
        with pytest.raises(InputError, match=names):
            launch.command(["x.py"], **given)
    for wrong in ("x.py", []):
        with pytest.raises(InputError, match="words"):
            launch.command(wrong, workers=1)


def test_the_command_line_without_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWAG_TEST_LOG", str(tmp_path))
    arguments = ["tests.multi_runs:make_run", "--seeds", "4", "--out", str(tmp_path / "o"), "--posterior"]
    assert multi.main([*arguments, "swa"]) == 0
    assert "1 member, seeds 4" in capsys.readouterr().out
    assert isinstance(swag.load(tmp_path / "o" / "mixture.safetensors").posteriors[0], swag.PointMass)
    # The same run again, read out in another way: nothing is trained.
    assert multi.main([*arguments, "swag", "--scale", "1"]) == 0
    posterior = swag.load(tmp_path / "o" / "seed-4.safetensors")
    result = training.train_multi(make_model, [4], shuffled(), F.cross_entropy, **SETTINGS)[0]
    assert torch.equal(posterior.cov_diag, result.swag(1.0).cov_diag)
    assert (tmp_path / "epochs-4").read_text() == "1 2 3 4 5 6 "
    same(multi.parsed_seeds("3, 5-6,0"), [3, 5, 6, 0])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["nowhere.py:f"], "nowhere.py"),
        (["tests.nowhere:f"], "tests.nowhere"),
        (["tests.multi_runs"], "file.py:function"),
        (["tests.multi_runs:nothing"], "nothing"),
        (["tests.multi_runs:SETTINGS"], "SETTINGS"),
        (["tests.multi_runs:make_run", "--seeds", "3-1"], "3-1"),
        (["tests.multi_runs:make_run", "--seeds", "a"], "seeds"),
        (["tests.multi_runs:make_run", "--posterior", "swa", "--scale", "1"], "scale"),
        (["tests.multi_runs:make_run", "--workers", "0"], "workers"),
    ],
)
def test_the_command_line_refuses(
    words: list[str], names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert multi.main([*words[:1], "--seeds", "0", "--out", str(tmp_path), *words[1:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("swag.multi: error:") and names in error and error.count("\n") == 1
