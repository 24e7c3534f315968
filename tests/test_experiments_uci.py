"""The UCI experiment: its stack of networks against single ones, its units, its splits, its command line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from experiments.uci import published, recipes, run, scores, sets, tables
from experiments.uci.fits import Fits
from experiments.uci.fitting import Members, Problems, fit_bends
from experiments.uci.methods import METHODS
from experiments.uci.network import FLOOR, Net, Stack
from experiments.uci.recipes import plan
from experiments.uci.study import Study
from experiments.uci.training import MOMENTUM, Rows, Trajectories, train
from swag import Collector, InputError
from swag.errors import FileError
from swag.noise import key_for

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "experiments" / "uci" / "run.py"
FIELDS = {"method", "split", "log_likelihood", "log_likelihood_gaussian", "rmse", "coverage95", "crps"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(stack: Stack, theta: Tensor) -> Net:
    """One network of the stack as a plain module."""
    net = Net(stack.features, stack.hidden)
    stack.layout.write_(net, theta)
    return net


def loss_of(net: Net, x: Tensor, y: Tensor) -> Tensor:
    mean, variance = net(x)
    return (0.5 * variance.log() + (y - mean).square() / (2 * variance)).mean()


def made_up_rows(n: int = 60, splits: int = 3, seed: int = 0) -> dict[str, Any]:
    """A table y = sin(2a) + noise in the published layout, with a constant column and large units."""
    random = np.random.default_rng(seed)
    a, b = random.uniform(-2, 2, n), random.normal(size=n)
    y = 1000 + 50 * (np.sin(2 * a) + 0.1 * random.normal(size=n))
    orders = [random.permutation(n) for _ in range(splits)]
    cut = int(0.8 * n)
    return {
        "data": np.column_stack([a, y, b, np.full(n, 7.0)]),
        "index_features": np.array([0, 2, 3]),
        "index_target": np.array(1),
        "index_train": np.array([order[:cut] for order in orders]),
        "index_test": np.array([order[cut:] for order in orders]),
    }


def saved(folder: Path, name: str = "tiny.npz", **changes: Any) -> Path:
    """The made-up table as a file, with arrays changed; None leaves one out."""
    arrays = {**made_up_rows(), **changes}
    path = folder / name
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


# --- the stack against single networks


def test_the_gradient_is_one_networks_autograd() -> None:
    stack, n_nets, n_rows = Stack(3, 7), 4, 11
    theta = stack.initial([(0, b) for b in range(n_nets)]) + 0.1
    x = torch.randn(n_nets, n_rows, 3, generator=seeded())
    y = torch.randn(n_nets, n_rows, generator=seeded(1))
    grad = torch.full_like(theta, float("nan"))
    stack.gradient_(grad, theta, x, y)
    for b in range(n_nets):
        net = network(stack, theta[b])
        loss_of(net, x[b], y[b]).backward()
        expected = torch.cat([p.grad.flatten() for p in stack.layout.tensors(net) if p.grad is not None])
        torch.testing.assert_close(grad[b], expected, rtol=1e-5, atol=1e-7)


def test_predictions_and_likelihoods_are_one_networks() -> None:
    stack = Stack(2, 5)
    theta = stack.initial([(1, b) for b in range(3)])
    x, y = torch.randn(9, 2, generator=seeded()), torch.randn(9, generator=seeded(1))
    means, variances = stack.predict(theta, x)
    total = stack.log_likelihood(theta, x.expand(3, -1, -1), y.expand(3, -1))
    for b in range(3):
        mean, variance = network(stack, theta[b])(x)
        torch.testing.assert_close(means[b], mean)
        torch.testing.assert_close(variances[b], variance)
        density = torch.distributions.Normal(mean, variance.sqrt()).log_prob(y).sum()
        torch.testing.assert_close(total[b], density)
    assert float(variances.min()) > FLOOR


def test_rows_taken_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(2, 5)
    theta = stack.initial([(1, b) for b in range(3)])
    x, y = torch.randn(3, 100, 2, generator=seeded()), torch.randn(3, 100, generator=seeded(1))
    whole = stack.log_likelihood(theta, x, y), *stack.predict(theta, x)
    monkeypatch.setattr("experiments.uci.network._AT_ONCE", 1)
    pieces = stack.log_likelihood(theta, x, y), *stack.predict(theta, x)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b)


def test_initial_weights_are_those_of_linear_layers() -> None:
    stack = Stack(4, 3000)
    parts = stack.parts(stack.initial([(0,)]))
    for tensor, fan_in in ((parts.w1, 4), (parts.b1, 4), (parts.w2, 3000)):
        bound = 1 / math.sqrt(fan_in)
        assert float(tensor.abs().max()) <= bound
        # uniform on ±bound: variance bound²/3, of n numbers known to √(4/(5n)) of itself
        n = tensor.numel()
        assert float(tensor.var()) == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / n))
    assert float(parts.raw_noise) == 0
    assert torch.equal(stack.initial([(0, 1), (0, 2)])[1:], stack.initial([(0, 2)]))


def plain_training(
    stack: Stack, theta: Tensor, x: Tensor, y: Tensor, *, rate: float, decay: float, setting: Any, seed: int
) -> tuple[Net, Collector]:
    """One network with torch's own SGD, clipping and schedule, and a collector beside it."""
    net = network(stack, theta)
    collector = Collector(net, setting.rank)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM)
    generator = seeded(key_for(seed, 0) >> 1)
    for epoch in range(setting.epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * setting.rate(epoch)
        order = torch.randperm(len(y), generator=generator)
        for batch in order.tensor_split(-(-len(y) // setting.batch)):
            optimizer.zero_grad()
            loss_of(net, x[batch], y[batch]).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), setting.clip)
            with torch.no_grad():
                for parameter in net.parameters():
                    assert parameter.grad is not None
                    parameter.grad.add_(parameter, alpha=decay)
            optimizer.step()
        if setting.collects(epoch):
            collector.collect(net)
    return net, collector


def test_a_stack_trains_as_its_networks_would_alone() -> None:
    stack = Stack(2, 6)
    setting = replace(plan(8, 7, late_rate=0.5), clip=0.7, rank=3)
    x, y = torch.randn(2, 23, 2, generator=seeded()), torch.randn(2, 23, generator=seeded(1))
    settings = [(0.02, 0.0), (0.05, 0.01)]
    theta = stack.initial([(0, b) for b in range(4)])
    found = train(
        stack,
        theta,
        Rows(x, y),
        rate=torch.tensor([rate for rate, _ in settings] * 2),
        weight_decay=torch.tensor([decay for _, decay in settings] * 2),
        order_of=[0, 0],
        plan=setting,
        seed=5,
        name="test",
    )
    close: dict[str, Any] = {"rtol": 2e-4, "atol": 1e-6}
    for b in range(4):
        rate, decay = settings[b % 2]
        net, collector = plain_training(
            stack, theta[b], x[b // 2], y[b // 2], rate=rate, decay=decay, setting=setting, seed=5
        )
        torch.testing.assert_close(found.last[b], stack.layout.flatten(net), **close)
        torch.testing.assert_close(found.mean[b], collector.mean, **close)
        torch.testing.assert_close(found.deviations[:, b], collector.deviations, **close)
        torch.testing.assert_close(
            found.variance[b], collector.sq_dev / collector.n_collected, rtol=1e-3, atol=1e-9
        )
        assert found.n_collected == collector.n_collected == 5
    gaussian = found.swag(3, 0.5, stack.layout)
    deviations = found.deviations[:, 3]
    torch.testing.assert_close(
        gaussian.variance, 0.5 * (found.variance[3] + deviations.square().sum(0) / (len(deviations) - 1))
    )


def test_the_late_rate_falls_to_its_share_and_stays() -> None:
    setting = plan(100, 10, late_rate=0.1)
    assert setting.collect_from == 50
    assert [setting.rate(epoch) for epoch in (0, 30)] == [1, 1]
    assert setting.rate(40) == pytest.approx(0.55)
    assert setting.rate(50) == setting.rate(99) == pytest.approx(0.1)


def test_a_bend_lowers_the_loss_along_the_curve() -> None:
    stack = Stack(1, 8)
    x = torch.linspace(-2, 2, 40).reshape(1, 40, 1)
    y = torch.sin(2 * x[..., 0])
    problems = Problems(((0, -1),), Rows(x, y), x, y)
    ends = [stack.initial([(0, member)]) for member in (0, 1)]
    decay = torch.tensor([1e-3])
    bend = fit_bends(
        stack,
        problems,
        (ends[0], ends[1]),
        rate=torch.tensor([0.05]),
        weight_decay=decay,
        plan=replace(plan(60, 20), curve_epochs=60),
        seed=0,
    )

    def along(middle: Tensor) -> float:
        values = []
        for t in torch.linspace(0.2, 0.8, 7).tolist():
            point = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * middle + t**2 * ends[1]
            values.append(-float(stack.log_likelihood(point, x, y)) / 40 + 5e-4 * float(point.square().sum()))
        return sum(values) / len(values)

    assert along(bend) < along((ends[0] + ends[1]) / 2) - 0.05


# --- units and scores


def test_scores_are_those_of_the_original_units() -> None:
    split = sets.Split(
        torch.zeros(1, 1), torch.zeros(1), torch.zeros(2, 1), torch.tensor([12.0, 7.0]).double(), 10.0, 4.0
    )
    means, variances = torch.tensor([[0.0, -0.5], [0.5, -1.0]]), torch.tensor([[0.25, 1.0], [0.04, 0.25]])
    row = scores.score(means, variances, split)
    m, sd = 10 + 4 * means.double().numpy(), 4 * variances.double().sqrt().numpy()
    y = split.test_y.numpy()
    density = stats.norm.pdf(y, m, sd).mean(0)
    assert row["log_likelihood"] == pytest.approx(np.log(density).mean(), rel=1e-6)
    mean, variance = m.mean(0), (sd**2 + m**2).mean(0) - m.mean(0) ** 2
    assert row["log_likelihood_gaussian"] == pytest.approx(
        stats.norm.logpdf(y, mean, np.sqrt(variance)).mean(), rel=1e-6
    )
    assert row["rmse"] == pytest.approx(math.sqrt(((y - mean) ** 2).mean()), rel=1e-6)
    assert row["coverage95"] == (np.abs(y - mean) <= 1.959964 * np.sqrt(variance)).mean()
    crps = []
    for i in range(2):

        def squared(t: float, i: int = i) -> float:
            return float((stats.norm.cdf(t, m[:, i], sd[:, i]).mean() - (y[i] <= t)) ** 2)

        crps.append(integrate.quad(squared, -60, 80, points=[y[i]], limit=400)[0])
    assert row["crps"] == pytest.approx(np.mean(crps), rel=1e-5)


def test_the_matched_gaussian_has_the_mixtures_moments() -> None:
    means, variances = torch.tensor([[0.0], [3.0], [-1.0]]), torch.tensor([[1.0], [0.5], [2.0]])
    mean, variance = scores.matched_gaussian(means, variances)
    n = 200_000
    members = torch.randint(3, (n,), generator=seeded())
    drawn = means[members, 0] + variances[members, 0].sqrt() * torch.randn(n, generator=seeded(1))
    assert float(drawn.mean()) == pytest.approx(float(mean), abs=5 * float(variance.sqrt()) / math.sqrt(n))
    assert float(drawn.var()) == pytest.approx(float(variance), rel=5 * math.sqrt(2 / n) * 1.5)


def test_log_densities_are_the_mixtures() -> None:
    means, variances, y = torch.randn(2, 3, 4), torch.rand(2, 3, 4) + 0.1, torch.randn(4)
    expected = np.log(stats.norm.pdf(y.numpy(), means.numpy(), variances.sqrt().numpy()).mean(1))
    np.testing.assert_allclose(
        scores.log_densities(means, variances, y).numpy(), expected, rtol=1e-4, atol=1e-5
    )


def test_paired_differences() -> None:
    mean, error, higher, equal = scores.paired([1.0, -1.0, 3.0])
    assert (mean, higher, equal) == (1.0, 2, 0) and error == pytest.approx(2 / math.sqrt(3))
    # Rounding is no win.
    assert scores.paired([4e-16, -1e-15, 0.0, 1e-6])[2:] == (1, 3)


# --- tables and splits


def test_a_split_is_standardised_with_its_training_rows_alone(tmp_path: Path) -> None:
    arrays = made_up_rows()
    table = sets.read(saved(tmp_path))
    split = sets.split(table, 1)
    train, test = arrays["index_train"][1], arrays["index_test"][1]
    assert float(split.x[:, :2].mean(0).abs().max()) < 1e-6
    torch.testing.assert_close(split.x[:, :2].std(0, correction=0), torch.ones(2))
    target = arrays["data"][:, 1]
    np.testing.assert_allclose(split.centre + split.unit * split.y.numpy(), target[train], rtol=1e-6)
    assert np.array_equal(split.test_y.numpy(), target[test])
    assert split.centre == pytest.approx(target[train].mean())
    feature = arrays["data"][:, 2]
    expected = (feature[test] - feature[train].mean()) / feature[train].std()
    np.testing.assert_allclose(split.test_x[:, 1].numpy(), expected, rtol=1e-5, atol=1e-6)
    # changing test rows changes nothing that training sees
    moved = {**arrays, "data": arrays["data"].copy()}
    moved["data"][test] += 100
    other = sets.split(sets.read(saved(tmp_path, "moved.npz", data=moved["data"])), 1)
    assert torch.equal(other.x, split.x) and torch.equal(other.y, split.y)


def test_constant_features_become_zero_and_constant_targets_are_refused(tmp_path: Path) -> None:
    split = sets.split(sets.read(saved(tmp_path)), 0)
    assert torch.equal(split.x[:, 2], torch.zeros(len(split.x)))
    assert bool(split.test_x.isfinite().all())
    data = made_up_rows()["data"]
    data[:, 1] = 3.0
    with pytest.raises(InputError, match=r"target is constant \(3\) in the training rows of split 0"):
        sets.split(sets.read(saved(tmp_path, "flat.npz", data=data)), 0)


def test_folds_as_in_the_larger_sets(tmp_path: Path) -> None:
    folds = np.arange(60) % 7
    path = tmp_path / "folds.npz"
    np.savez(path, data=made_up_rows()["data"], test_fold=folds.astype(np.uint8))
    table = sets.read(path)
    assert len(table.train) == 7 and table.features.shape == (60, 3)
    assert np.array_equal(table.test[2], np.flatnonzero(folds == 2))
    # 60 rows in 7 folds: some hold 9, some 8, and a stack takes equal ones only
    assert sets.alike(range(7), table) == [[0, 1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data": None}, "needs an array 'data'"),
        ({"index_test": None}, "lacks index_test"),
        ({"data": np.full((60, 4), np.nan)}, r"data\[0, 0\] is nan"),
        ({"index_features": np.array([0, 1])}, "index_target 1 is also among index_features"),
        ({"index_features": np.array([0, 9])}, "index_features must hold indices from 0 to 3"),
        ({"index_train": np.array([[0, 1.5]])}, "index_train must hold whole numbers"),
        ({"index_train": np.array([[0, 60]])}, "index_train must hold indices from 0 to 59"),
        ({"index_test": np.arange(4).reshape(1, 4)}, r"index_train \(has 3\)"),
        ({"index_test": made_up_rows()["index_train"]}, "both in its training and its test part"),
        ({"test_fold": np.zeros(3)}, "test_fold has 3 entries"),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FileError, match=complaint):
        sets.read(saved(tmp_path, **changes))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(FileError, match="cannot be read"):
        sets.read(path)


def test_a_set_is_found_beside_or_below(tmp_path: Path) -> None:
    below = tmp_path / "root" / "uci_gal"
    below.mkdir(parents=True)
    saved(below, "boston.npz")
    assert sets.find("boston", tmp_path / "root") == sets.find("boston", below) == below / "boston.npz"


def test_a_set_of_ones_own_is_found_by_its_name_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = saved(tmp_path, "mine.npz")
    assert sets.find("mine", tmp_path) == sets.find("mine.npz", tmp_path) == mine
    assert sets.find(str(mine), None) == mine
    with pytest.raises(InputError, match="'others'; pass one of boston"):
        sets.find("others", tmp_path)
    with pytest.raises(InputError, match=r"'\.\./mine'"):
        sets.find("../mine", tmp_path)
    # a file given by its path needs no data folder, and a missing one is no reason to fail after the work
    monkeypatch.setenv("SWAG_DATA", str(tmp_path / "nowhere"))
    out = tmp_path / "out.json"
    arguments = ["--set", str(mine), "--quick", "--splits", "1", "--methods", "SGD", "--out", str(out)]
    assert run.main(arguments) == 0
    assert [row["split"] for row in json.loads(out.read_text())["rows"]] == [1]
    with pytest.raises(SystemExit, match="no data folder"):
        run.main([*arguments, "--data-dir", str(tmp_path / "nowhere")])


def test_validation_rows_come_from_training_rows_and_folds_do_not_overlap(tmp_path: Path) -> None:
    table = sets.read(saved(tmp_path))
    splits = [sets.split(table, number) for number in (0, 2)]
    problems = Problems.validation([0, 2], splits, n_held=9, folds=3, seed=0)
    assert problems.keys == ((0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2))
    assert problems.rows.x.shape == (6, 39, 3) and problems.held_y.shape == (6, 9)
    for place, split in ((0, splits[0]), (3, splits[1])):
        for fold in range(3):
            both = torch.cat([problems.rows.y[place + fold], problems.held_y[place + fold]])
            assert torch.equal(both.sort().values, split.y.sort().values)
        assert len(problems.held_y[place : place + 3].unique()) == 27


def test_a_run_that_diverges_in_tuning_is_not_chosen(tmp_path: Path) -> None:
    recipe = replace(
        recipes.quick(recipes.OWN),
        rates=(1e12, 0.01),
        weight_decays=(0.0,),
        plan=plan(6, 10, clip=float("inf")),
    )
    tuned: dict[int, dict[str, Any]] = {}
    study = Study(sets.read(saved(tmp_path)), [0], ["SGD", "SWA", "SWAG"], recipe, tuned, lambda line: None)
    study.tune()
    assert {tuple(tuned[0][family]) for family in ("SGD", "SWA", "SWAG")} == {(0.01, 0.0)}


def test_scaled_draws_are_the_posteriors_own() -> None:
    stack = Stack(1, 3)
    deviations = torch.randn(4, 2, stack.size, generator=seeded())
    found = Trajectories(
        torch.zeros(2, stack.size), torch.randn(2, stack.size), torch.rand(2, stack.size), deviations, 10
    )
    recipe = replace(recipes.OWN, n_samples=1000, members=2)
    rows = torch.zeros(1, 1, 1)
    problems = Problems(((0, -1),), Rows(rows, rows[..., 0]), rows, rows[..., 0])
    fits = Fits(stack, problems, recipe, {"SWAG": Members(found, 2)})
    drawn = METHODS["SWAG"].draw(fits, torch.tensor([[0.0, 2.0]]))[0]
    assert drawn.shape == (2, 1000, stack.size)
    assert torch.equal(drawn[0], found.mean[0].expand(1000, -1))
    expected = found.swag(0, 2.0, stack.layout)
    error = 5 * math.sqrt(2 / 1000)
    assert float((drawn[1].var(0) / expected.variance - 1).abs().max()) < error
    both = METHODS["MultiSWAG"].draw(fits, torch.tensor([[0.5]]))[0, 0]
    # equal numbers from both components
    expected_error = (
        found.swag(0, 0.5, stack.layout).variance + found.swag(1, 0.5, stack.layout).variance
    ) / 2
    assert bool(((both.mean(0) - found.mean.mean(0)).abs() < 5 * (expected_error / 1000).sqrt()).all())


# --- the command line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The table, the results file and the printed tables of one small run of all methods."""
    folder = tmp_path_factory.mktemp("uci")
    table, out = saved(folder), folder / "out.json"
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--set",
            table,
            "--splits",
            "0,2",
            "--methods",
            "all",
            "--quick",
            "--out",
            out,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SWAG_DATA": ""},
    )
    assert done.returncode == 0, done.stderr
    return table, out, done.stdout


def test_the_command_writes_every_method_and_split(finished: tuple[Path, Path, str]) -> None:
    _, out, printed = finished
    content = json.loads(out.read_text())
    assert content["set"] == "tiny"
    assert {(row["method"], row["split"]) for row in content["rows"]} == {
        (method, split) for method in METHODS for split in (0, 2)
    }
    for row in content["rows"]:
        assert set(row) == FIELDS
        assert all(math.isfinite(row[key]) for key in FIELDS - {"method"})
        assert 0 <= row["coverage95"] <= 1 and row["crps"] > 0
        # the target's standard deviation is about 35, in its own units
        assert 1 < row["rmse"] < 80
    alone = [row for row in content["rows"] if row["method"] in ("SGD", "SWA")]
    assert all(row["log_likelihood"] == pytest.approx(row["log_likelihood_gaussian"]) for row in alone)
    assert "| MultiSWAG |" in printed and "### tiny" in printed


def test_a_second_run_keeps_the_rows_and_adds_what_is_missing(
    finished: tuple[Path, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out, _ = finished
    before = json.loads(out.read_text())
    kept = [row for row in before["rows"] if (row["method"], row["split"]) != ("SGD", 2)]
    kept[0]["rmse"] = 123.0
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps({**before, "rows": kept}))
    arguments = [
        "--set",
        str(table),
        "--methods",
        "SGD,SWAG",
        "--splits",
        "0-2",
        "--quick",
        "--out",
        str(copy),
    ]
    assert run.main([*arguments[:5], "0,2", *arguments[6:]]) == 0
    after = json.loads(copy.read_text())
    assert len(after["rows"]) == len(before["rows"])
    assert after["rows"][0]["rmse"] == 123.0
    found = {(row["method"], row["split"]): row for row in after["rows"]}
    again = found["SGD", 2]
    first = next(row for row in before["rows"] if (row["method"], row["split"]) == ("SGD", 2))
    assert again["log_likelihood"] == pytest.approx(first["log_likelihood"], rel=1e-3)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="other settings"):
        run.main([*arguments, "--seed", "1"])


def test_the_table_is_made_from_the_file_alone(
    finished: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, printed = finished
    assert run.main(["--table", "--out", str(out)]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--set", "bosten"], "--set: got 'bosten'; pass one of boston"),
        (["--set", "nowhere.npz"], "nowhere.npz is missing"),
        (["--set", "boston", "--data-dir", "."], "boston.npz is neither in ."),
        (["--set", "TABLE", "--methods", "SGD,KFAC"], "--methods: got 'SGD,KFAC'; pass all, or some of SGD"),
        (["--set", "TABLE", "--methods", ","], "--methods: got ','"),
        (["--set", "TABLE", "--splits", "0,3"], "--splits: got '0,3'; pass all, or numbers from 0 to 2"),
        (["--set", "TABLE", "--splits", "one"], "--splits: got 'one'"),
        (["--set", "TABLE", "--validation", "0.99"], "--validation: got 0.99, which holds out 47 of 48"),
        (["--set", "TABLE", "--validation", "0"], "--validation: got 0"),
        (["--table", "--out", "nothing.json"], "nothing.json is not there"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    table = str(saved(tmp_path))
    assert run.main([table if word == "TABLE" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error and error.count("\n") == 1


def test_mc_dropout_is_compared_split_by_split(tmp_path: Path) -> None:
    (tmp_path / "published_mc_dropout.json").write_text(
        json.dumps({"boston": {"loglik_mc_dropout": [-2.0, -3.0], "rmse_mc_dropout": [1.0, 2.0]}})
    )
    found = published.mc_dropout(tmp_path, "boston")
    assert found is not None and found.log_likelihood == [-2.0, -3.0]
    assert (
        published.mc_dropout(tmp_path, "elevators") is None and published.mc_dropout(None, "boston") is None
    )
    (tmp_path / "published_mc_dropout.json").write_text("[")
    with pytest.raises(FileError, match="cannot be read"):
        published.mc_dropout(tmp_path, "boston")


def test_the_readme_shows_its_results() -> None:
    folder = ROOT / "experiments" / "uci"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    found = sorted((folder / "results").glob("*.json"))
    assert found
    for path in found:
        content = json.loads(path.read_text(encoding="utf-8"))
        for method, splits in tables.by_method(content["rows"]).items():
            cell = tables.spread([row["log_likelihood"] for row in splits.values()])
            assert f"| {method} | {cell} |" in readme, f"{path.name}: {method}"
