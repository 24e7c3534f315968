"""`swag demo` from end to end, much reduced, and its parts.

The whole demo takes most of a minute; what runs here has 4 epochs and 4 samples in place of 40 and 30, so its
figures mean nothing. That they are the same twice, that every file is whole, and what bad options do, holds
for the whole demo alike.
"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import swag
from swag.cli import main
from swag.demo import fashion, words
from swag.demo.data import digits
from swag.demo.network import convnet
from swag.demo.settings import Settings
from swag.demo.training import averaging, shifted, train

ROOT = Path(__file__).resolve().parent.parent
REDUCED = ["--epochs", "4", "--samples", "4", "--members", "2"]
METHODS = ["SGD", "SWA", "SWAG-diag", "SWAG", "Deep ensemble", "MultiSWA", "MultiSWAG"]
FILES = {"report.html", "report.json", "swag_0.safetensors", "swag_1.safetensors", "multiswag.safetensors"}
DATA = Path(os.environ.get("SWAG_DATA") or ROOT / "data")


def python(*words: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "110"}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A reduced run in a process of its own: its folder, standard output and standard error."""
    folder = tmp_path_factory.mktemp("demo")
    with python("-m", "swag", "demo", *REDUCED, "--output", "out", cwd=folder) as child:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
    return folder / "out", out, err


# --- a whole run -----------------------------------------------------------------------------------------


def test_the_files_are_there_and_nothing_else(outcome: tuple[Path, str, str]) -> None:
    assert {path.name for path in outcome[0].iterdir()} == FILES


def test_the_table_has_every_method_and_column(outcome: tuple[Path, str, str]) -> None:
    _, out, _ = outcome
    for method in METHODS:
        assert sum(line.startswith(f"{method} ") for line in out.splitlines()) >= 2, method
    for column in ("Accuracy", "NLL ", "NLL after temp.", "Brier", "ECE", "AUROC photographs"):
        assert column in out
    assert out.count(" ± ") >= 4 * 6


def test_it_says_what_did_not_improve_that_it_is_a_demo_and_what_next(outcome: tuple[Path, str, str]) -> None:
    _, out, _ = outcome
    unwrapped = " ".join(out.split())
    assert "did not improve on" in unwrapped
    assert words.IT_IS_A_DEMO in unwrapped
    last = out.splitlines()[-3:]
    assert last[0].startswith("Written to out: report.html, report.json, swag_0.safetensors")
    assert last[1].startswith("Next: ") and last[2].startswith("In Python: ")


def test_progress_goes_to_standard_error_in_a_few_plain_lines(outcome: tuple[Path, str, str]) -> None:
    _, _, err = outcome
    lines = err.splitlines()
    assert 4 <= len(lines) <= 8
    assert all(line.startswith("swag demo: ") for line in lines), err
    assert "\r" not in err


def test_the_json_holds_the_figures(outcome: tuple[Path, str, str]) -> None:
    folder, out, _ = outcome
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert document["methods"] == METHODS
    assert document["baseline"] == "SGD"
    assert document["n_rows"] == 697
    for method in METHODS:
        row = document["scores"][method]
        for metric in ("accuracy", "nll", "nll_temperature", "brier", "ece", "auroc_photographs"):
            estimate = row[metric]
            assert estimate["low"] <= estimate["value"] <= estimate["high"], (method, metric)
        assert document["classification"]["temperatures"][method] > 0
    assert words.IT_IS_A_DEMO in document["notes"]
    assert document["provenance"]["epochs"] == "4"
    report = swag.Report.load(folder / "report.json")
    assert report.table() in out


def test_the_page_is_whole(outcome: tuple[Path, str, str]) -> None:
    page = (outcome[0] / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert all(method in page for method in METHODS)


def test_the_posteriors_load_and_predict(outcome: tuple[Path, str, str]) -> None:
    folder, _, _ = outcome
    mixture = swag.load(folder / "multiswag.safetensors")
    members = [swag.load(folder / f"swag_{i}.safetensors") for i in range(2)]
    assert isinstance(mixture, swag.Mixture)
    assert all(isinstance(member, swag.LowRankGaussian) for member in members)
    samples = mixture.sample(6, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (6, members[0].mean.numel()) and samples.isfinite().all()
    assert torch.allclose(mixture.mean, (members[0].mean + members[1].mean) / 2, atol=1e-6)
    task = digits(0)
    model = convnet(task.widths, 10, strides=task.strides, seed=5)
    ensemble = swag.Ensemble(model, mixture, n_samples=4, bn_loader=task.bn_loader, seed=0)
    accuracy = (ensemble(task.test.images).probs.argmax(1) == task.test.labels).float().mean()
    assert accuracy > 0.4  # chance is 0.1


def test_the_same_seed_gives_the_same_table_and_the_same_files(
    outcome: tuple[Path, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And it leaves torch's threads and the global generators as they were; `--quiet` changes no figure."""
    folder, out, _ = outcome
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    before = torch.get_rng_state(), np.random.get_state()[1], torch.get_num_threads()
    assert main(["demo", *REDUCED, "--output", "out", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == out
    assert captured.err == ""
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.get_num_threads() == before[2]
    for name in FILES - {"report.html"}:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes(), name


# --- its parts -------------------------------------------------------------------------------------------


def test_digits_are_split_without_overlap_and_with_noise() -> None:
    task, again, other = digits(3), digits(3), digits(4)
    assert (len(task.train), len(task.validation), len(task.test)) == (900, 200, 697)
    assert task.ood.shape == (697, 1, 8, 8)
    assert torch.equal(task.test.images, again.test.images) and torch.equal(task.ood, again.ood)
    assert not torch.equal(task.test.labels, other.test.labels)
    everything = torch.cat([task.train.labels, task.validation.labels, task.test.labels])
    assert everything.bincount().tolist() == digits_per_class()
    # Corner pixels are black in every digit, so what is in them is noise alone.
    corners = torch.cat([task.train.images, task.test.images])[:, 0, 0, 0]
    assert abs(corners.std() - 0.3) < 0.3 * 5 / np.sqrt(2 * len(corners))


def digits_per_class() -> list[int]:
    from sklearn.datasets import load_digits

    return np.bincount(load_digits().target).tolist()


def test_shifts_move_whole_images_by_at_most_one_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    moved = shifted(image.repeat(900, 1, 1, 1), generator)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    possible = torch.stack([padded[0, :, i : i + 4, j : j + 4] for i in range(3) for j in range(3)])
    matches = (moved[:, None] == possible[None]).flatten(2).all(2)
    assert (matches.sum(1) == 1).all()
    counts = matches.sum(0).float()
    assert ((counts - 100).abs() < 5 * 100**0.5).all()


def test_the_network_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (convnet((4, 8), 10, strides=(1, 2), seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_training_sets_every_rate_and_ends_in_eval_mode() -> None:
    task = digits(0)
    model = convnet((4,), 10, strides=(2,), seed=1)
    start = [p.clone() for p in model.parameters()]
    epochs = list(train(model, task.train, [0.0, 0.0], weight_decay=0.0, seed=0, name="still"))
    assert epochs == [0, 1]
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
    assert not model.training


def test_averaging_collects_the_second_half() -> None:
    task = digits(0)
    for epochs, snapshots in ((3, 2), (4, 2), (5, 3)):
        collector = averaging(task, seed=1, epochs=epochs, weight_decay=0.0, name="average")
        assert collector.n_collected == snapshots


def test_not_improved_names_each_step_that_did_not() -> None:
    report = swag.Report({"SGD": np.full((4, 2), 0.5)}, [0, 1, 0, 1], n_bootstrap=2)
    metrics = [metric for metric in report.results.metrics if metric.key in ("accuracy", "nll")]
    figures = {method: {"accuracy": [0.5, 0.7], "nll": [1.0, 1.0]} for method in METHODS}
    figures["SWA"] = {"accuracy": [0.9, 0.9], "nll": [0.5, 0.5]}
    lines = words.not_improved(metrics, figures)
    assert not any(line.startswith("SWA did not") for line in lines)
    assert "SWAG did not improve on SWA in Accuracy 0.600 against 0.900 and NLL 1.000 against 0.500." in lines


def test_a_method_that_is_fooled_is_named() -> None:
    probs = np.array([[0.5, 0.5], [0.6, 0.4]])
    sure = np.array([[0.9, 0.1], [0.8, 0.2]])
    report = swag.Report({"SGD": probs}, [0, 1], ood={"noise": {"SGD": sure}}, n_bootstrap=2)
    metrics = report.results.metrics
    figures = {"SGD": {metric.key: [0.4] for metric in metrics}, "SWA": {m.key: [0.6] for m in metrics}}
    lines = words.fooled(metrics, figures)
    assert len(lines) == 1
    assert lines[0].startswith("AUROC noise is below 0.5 for SGD: ")


# --- what it refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--members", "0"], "--members: got 0"),
        (["--samples", "0"], "--samples: got 0"),
        (["--epochs", "2"], "--epochs: got 2"),
        (["--seed", "-1"], "--seed: got -1"),
        (["--seed", "many"], "--seed"),
        (["--data", "cifar"], "--data"),
        (["--subset", "500"], "--subset: only for"),
        (["--data", "fashion-mnist", "--subset", "60000"], "--subset: got 60,000"),
        (["--data", "fashion-mnist", "--subset", "0"], "--subset: got 0"),
    ],
)
def test_bad_options_end_at_once(
    options: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("swag.demo.run.conduct", lambda *_: pytest.fail("it started to work"))
    assert main(["demo", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("swag demo: error: ") and captured.err.count("\n") == 1
    assert complaint in captured.err
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swag.demo.run.conduct", lambda *_: pytest.fail("it started to work"))
    file = tmp_path / "file"
    file.write_text("mine")
    for output in (file, file / "below"):
        assert main(["demo", "--output", str(output)]) == 2
        assert "--output: cannot write" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.parametrize("by", ["option", "environment", "default"])
def test_missing_data_says_which_files_and_where_to_look(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWAG_DATA", raising=False)
    if by == "environment":
        monkeypatch.setenv("SWAG_DATA", "made_up")
    given = ["--data-dir", "made_up"] if by == "option" else []
    assert main(["demo", "--data", "fashion-mnist", *given]) == 2
    error = capsys.readouterr().err
    assert f"no fashion_mnist/labels.npz in {'data' if by == 'default' else 'made_up'};" in error
    assert "--data-dir DIR" in error and "SWAG_DATA" in error
    assert "train_images_00000-09999.npy.xz" in error and "mnist/test_images.npy.xz" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# --- Ctrl-C ----------------------------------------------------------------------------------------------


def test_ctrl_c_in_training_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from swag.cli import main; sys.exit(main(['demo', '--epochs', '1000', '--output', 'out']))"
    )
    with python("-c", code, cwd=tmp_path) as child:
        assert child.stderr is not None
        assert "digits" in child.stderr.readline()
        child.send_signal(2)
        rest = child.stderr.read()
        assert child.wait(timeout=60) == 130
    assert rest.strip() == "swag demo: interrupted; files that were written are whole"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_between_files_leaves_only_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    posterior = swag.LowRankGaussian(torch.zeros(3), torch.ones(3), torch.zeros(3, 0))
    study = SimpleNamespace(posteriors=[posterior, posterior])
    monkeypatch.setattr("swag.demo.run.conduct", lambda *_: study)
    calls, fsync = iter(range(10)), os.fsync

    def interrupted(file: int) -> None:
        if next(calls) == 1:  # the second file is written, but not yet in its place
            raise KeyboardInterrupt
        fsync(file)

    monkeypatch.setattr(os, "fsync", interrupted)
    assert main(["demo", "--output", str(tmp_path / "out")]) == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["swag_0.safetensors"]
    swag.load(tmp_path / "out" / "swag_0.safetensors")
    assert capsys.readouterr().out == ""


# --- Fashion-MNIST ---------------------------------------------------------------------------------------


@pytest.fixture
def made_up_data(tmp_path: Path) -> Path:
    """Files of the right form whose image i is filled with its label."""
    (tmp_path / "fashion_mnist").mkdir()
    (tmp_path / "mnist").mkdir()
    train_labels, test_labels = np.arange(60_000) % 10, np.arange(10_000) % 10

    def write(name: str, labels: np.ndarray) -> None:
        images = np.broadcast_to(labels[:, None, None], (len(labels), 28, 28)).astype(np.uint8)
        with lzma.open(tmp_path / name, "wb", preset=0) as file:
            np.save(file, images)

    write("fashion_mnist/train_images_00000-09999.npy.xz", train_labels[:10_000])
    write("fashion_mnist/test_images.npy.xz", test_labels)
    write("mnist/test_images.npy.xz", test_labels)
    np.savez(
        tmp_path / "fashion_mnist" / "labels.npz",
        train=train_labels.astype(np.uint8),
        test=test_labels.astype(np.uint8),
    )
    return tmp_path


def test_fashion_mnist_keeps_images_with_their_labels(made_up_data: Path) -> None:
    task = fashion.fashion_mnist(0, made_up_data, 300)
    assert (len(task.train), len(task.validation), len(task.test), len(task.ood)) == (300, 1000, 2000, 2000)
    for rows in (task.train, task.validation, task.test):
        assert rows.images.shape[1:] == (1, 28, 28)
        assert torch.equal((rows.images[:, 0, 5, 5] * 255).round().long(), rows.labels)
    assert not torch.equal(task.train.labels, fashion.fashion_mnist(1, made_up_data, 300).train.labels)


def test_a_larger_subset_needs_more_files(made_up_data: Path) -> None:
    fashion.check(made_up_data, 9_000)
    with pytest.raises(swag.InputError, match="train_images_10000-19999"):
        fashion.check(made_up_data, 9_001)


@pytest.mark.parametrize(
    "name", ["train_images_00000-09999.npy.xz", "labels.npz", "test_images.npy.xz"], ids=lambda name: name[:6]
)
def test_a_damaged_file_is_named(
    name: str, made_up_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made_up_data / "fashion_mnist" / name
    path.write_bytes(path.read_bytes()[:100])
    monkeypatch.chdir(made_up_data)
    assert main(["demo", "--data", "fashion-mnist", "--data-dir", str(made_up_data), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1
    assert not (made_up_data / "swag-demo").exists()


@pytest.mark.skipif(
    not (DATA / "fashion_mnist").is_dir(),
    reason="no Fashion-MNIST: set SWAG_DATA to the folder that holds it",
)
def test_fashion_mnist_runs_on_the_real_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--subset", "500", "--epochs", "4", "--members", "1", "--samples", "2", "--quiet"]
    options = ["--data", "fashion-mnist", "--data-dir", str(DATA), "--output", str(tmp_path)]
    assert main(["demo", *options, *words]) == 0
    assert "AUROC MNIST" in capsys.readouterr().out
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert document["n_rows"] == 2000
    assert document["scores"]["SGD"]["accuracy"]["value"] > 0.2  # chance is 0.1


def test_settings_know_where_the_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWAG_DATA", raising=False)
    assert Settings().folder == Path("data")
    monkeypatch.setenv("SWAG_DATA", "/elsewhere")
    assert Settings().folder == Path("/elsewhere")
    assert Settings(data_dir=Path("here")).folder == Path("here")
