"""`swag.training.swap`: its phases against loops by hand, simulated workers against real ones."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import swag
from swag import InputError
from swag.distributed.launch import torchrun
from swag.distributed.workers import joined
from swag.training import DivergedError, Epoch, EveryStep
from swag.training.checkpoint_files import CheckpointFile
from swag.training.swap_phases import LargeBatch, SmallBatch, top_1
from swag.training.swap_recipe import swap
from swag.training.swap_result import SwapResult, mean_of
from swag.training.swap_rows import ALONE, Pieces, seed_for, small_batches
from tests.swap_on_ranks import RUN_LARGE, Noisy, run
from tests.training_cases import N_CLASSES, N_FEATURES, linear, network, same, task

ROOT = Path(__file__).resolve().parent.parent


def plain(n: int = 45, dtype: torch.dtype = torch.float32) -> TensorDataset:
    return TensorDataset(*task(n, dtype))


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.2, momentum=0.9)


def start(model: nn.Module, dataset: Any = None, **changes: Any) -> SwapResult:
    given: dict[str, Any] = {
        "large": LargeBatch(20, max_epochs=2, target_accuracy=2.0, optimizer=sgd),
        "small": SmallBatch(5, epochs=2, optimizer=sgd),
        "workers": 2,
        "seed": 3,
        "loss": F.cross_entropy,
        **changes,
    }
    return swap(model, plain() if dataset is None else dataset, given.pop("loss"), **given)


def steps(model: nn.Module, order: list[list[int]], data: TensorDataset, rates: list[float]) -> None:
    """A loop as users write it: one rate a step."""
    x, y = data.tensors
    optimizer = sgd(list(model.parameters()))
    for rows, rate in zip(order, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()


def test_is_large_batches_then_small_ones_apart_then_the_mean() -> None:
    data = plain(dtype=torch.float64)
    model = linear()
    by_hand = copy.deepcopy(model)
    result = start(model, data)
    # 45 rows: two batches of 20 and one of 5, for all workers at once.
    large = [
        [row for piece in pair for row in piece]
        for epoch in (0, 1)
        for pair in zip(*(own(45, 20, worker, 2, 3, epoch) for worker in (0, 1)), strict=True)
    ]
    assert [len(rows) for rows in large] == [20, 20, 5] * 2
    steps(by_hand, large, data, [0.2] * 6)
    ends = []
    for worker in (0, 1):
        alone = copy.deepcopy(by_hand)
        batches = small_batches(45, 5, seed_for(3, ALONE, worker))
        order = [list(rows) for _ in range(2) for rows in batches]
        assert sorted(row for rows in order[:9] for row in rows) == list(range(45))
        steps(alone, order, data, [0.2] * 9 + [0.1] * 9)  # half a cosine over two epochs
        ends.append(torch.cat([p.detach().flatten() for p in alone.parameters()]))
    torch.testing.assert_close(result.workers.samples, torch.stack(ends), rtol=1e-10, atol=1e-12)
    average = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(average, torch.stack(ends).mean(0), rtol=1e-10, atol=1e-12)
    assert torch.equal(result.swa().mean, average) and result.model is model
    assert not torch.allclose(ends[0], ends[1])
    assert [(row["phase"], row["worker"], row["epoch"]) for row in result.history] == [
        ("large", None, 1),
        ("large", None, 2),
        *[("small", worker, epoch) for worker in (0, 1) for epoch in (1, 2)],
    ]
    assert result.elapsed == pytest.approx(
        result.seconds["large"] + max(result.seconds["small"]) + result.seconds["average"]
    )


def own(n_rows: int, size: int, worker: int, n_workers: int, seed: int, epoch: int) -> list[list[int]]:
    pieces = Pieces(n_rows, size, worker, n_workers, seed)
    pieces.set_epoch(epoch)
    return list(pieces)


@pytest.mark.parametrize(("n_rows", "size", "n_workers"), [(45, 20, 2), (100, 32, 3), (7, 7, 3), (44, 20, 3)])
def test_pieces_are_a_division_of_every_large_batch(n_rows: int, size: int, n_workers: int) -> None:
    epochs = []
    for epoch in (0, 1):
        parts = [own(n_rows, size, worker, n_workers, 0, epoch) for worker in range(n_workers)]
        batches = list(zip(*parts, strict=True))
        assert len(batches) == len(Pieces(n_rows, size, 0, n_workers, 0))
        read = [row for batch in batches for piece in batch for row in piece]
        assert len(set(read)) == len(read) and set(read) <= set(range(n_rows))
        left_out = n_rows - len(read)
        assert left_out == (n_rows % size if n_rows % size < 2 * n_workers else 0)
        for batch in batches:
            sizes = [len(piece) for piece in batch]
            assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 2
        epochs.append(read)
    assert epochs[0] != epochs[1]


def test_one_worker_reads_small_batches_without_single_rows() -> None:
    batches = list(small_batches(21, 5, seed=0))
    assert [len(rows) for rows in batches] == [5, 5, 5, 5]
    assert len(list(small_batches(1, 1, seed=0))) == 1
    assert list(small_batches(22, 5, seed=0)) != list(small_batches(22, 5, seed=1))


def test_stops_at_the_target_and_counts_while_training(caplog: pytest.LogCaptureFixture) -> None:
    def still(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.0)

    model = linear(dtype=torch.float32)
    x, y = task(45)
    truth = int(top_1(model(x), y)) / 45
    kept = start(
        model, large=LargeBatch(20, 3, truth, optimizer=still), small=SmallBatch(5, 1, optimizer=still)
    )
    assert [row["accuracy"] for row in kept.history[:2]] == [truth, None]
    assert kept.history[0]["loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)

    result = start(network(), large=LargeBatch(20, 50, 0.8, optimizer=sgd))
    reached = [row["accuracy"] >= 0.8 for row in result.history if row["phase"] == "large"]
    assert reached[-1] and not any(reached[:-1]) and 1 < len(reached) < 50
    with caplog.at_level(logging.WARNING):
        start(network(), large=LargeBatch(20, 1, 1.0, optimizer=sgd))
    assert "below target_accuracy=1" in caplog.text


def test_batch_norm_belongs_to_the_average() -> None:
    model = network()
    result = start(model)
    expected = copy.deepcopy(model)
    swag.refresh_batchnorm_(expected, [task(45)[0].split(5)[i] for i in range(9)])
    same(dict(model.state_dict()), dict(expected.state_dict()))
    assert torch.equal(result.workers.layout.flatten(model), result.swa().mean)
    x, _ = task(45)
    probs = result.ensemble()(x).probs
    assert probs.shape == (45, N_CLASSES)
    apart = []
    for theta in result.workers.samples:
        point = swag.PointMass(theta, layout=result.workers.layout)
        apart.append(swag.Ensemble(model, point, 1, bn_loader=result.train_loader)(x).probs)
    torch.testing.assert_close(probs, torch.stack(apart).mean(0), rtol=1e-5, atol=1e-6)


def test_depends_on_its_seed_alone_and_leaves_the_generators() -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]

    first = run(2)
    torch.manual_seed(9)
    random.seed(9)
    np.random.seed(9)
    before = state()
    again, other = run(2), run(2, seed=8)
    assert state() == before
    assert torch.equal(first.workers.samples, again.workers.samples)
    assert not torch.equal(first.workers.samples, other.workers.samples)
    same(first.model.state_dict(), again.model.state_dict())


def test_workers_have_random_numbers_of_their_own_in_phase_1() -> None:
    drawn: list[float] = []

    def forward(model: nn.Module, batch: Any) -> Tensor:
        drawn.append(torch.rand(()).item())
        return model(batch[0])

    start(network(), forward=forward, large=LargeBatch(20, 1, 2.0), small=SmallBatch(45, 1))
    assert len(set(drawn)) == len(drawn) >= 2 * 3 + 2


class Crash(Exception):
    """What a machine does not say."""


def crash_after(n: int) -> Any:
    """A callback under which the n-th epoch of all is the last."""
    told: list[Epoch] = []

    def callback(epoch: Epoch) -> None:
        told.append(epoch)
        if len(told) == n:
            raise Crash

    return callback


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def falling(optimizer: torch.optim.Optimizer) -> EveryStep:
    return EveryStep(swag.schedules.cosine(optimizer, epochs=4))


def fewer_each_epoch(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)


class OwnNoise(Noisy):
    """Noise from a generator of its own, whose state a checkpoint has to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.1 * torch.randn(N_FEATURES, generator=self.generator), self.y[index]


RUNS: dict[str, dict[str, Any]] = {
    "until the target": {},
    "Adam, a rate that falls by the step": {
        "large": LargeBatch(32, 3, 2.0, optimizer=adam, schedule=falling),
        "small": SmallBatch(8, 2, optimizer=adam),
    },
    "a rate that falls by the epoch, no small batches": {
        "large": LargeBatch(32, 3, 2.0, optimizer=sgd, schedule=fewer_each_epoch),
        "small": SmallBatch(8, 0),
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_stopped_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Stopped in every epoch there is: of phase 1, and of each worker's phase 2."""
    changes = RUNS[name]
    whole = run(2, **changes)
    n_large = sum(row["phase"] == "large" for row in whole.history)
    n_all = len(whole.history)
    assert n_large >= 3
    for n in range(1, n_all + 1):
        folder = tmp_path / str(n)
        with pytest.raises(Crash):
            run(2, callbacks=[crash_after(n)], checkpoint_folder=folder, **changes)
        told: list[Epoch] = []
        # Weights come from the files, as soon as there are any.
        model = network(seed=5 if n > 1 else 0, dropout=0.3)
        resumed = run(2, model, callbacks=[told.append], checkpoint_folder=folder, **changes)
        assert torch.equal(resumed.workers.samples, whole.workers.samples)
        same(resumed.model.state_dict(), whole.model.state_dict())
        assert resumed.history == whole.history
        assert len(told) == n_all - (n - 1)
    again = run(
        2, network(seed=6, dropout=0.3), callbacks=[crash_after(1)], checkpoint_folder=folder, **changes
    )
    assert torch.equal(again.workers.samples, whole.workers.samples)  # read, not trained
    names = sorted(path.name.rpartition("-")[0] for path in folder.iterdir())
    small = ["worker-0-small", "worker-1-small"] if n_all > n_large else []
    assert names == sorted(["worker-0-large", "worker-1-large", *small])


def test_a_generator_of_the_data_set_goes_on(tmp_path: Path) -> None:
    def noisy(n: int = 99, folder: Path | None = None) -> Tensor:
        return swap(
            network(),
            OwnNoise(),
            F.cross_entropy,
            large=LargeBatch(32, 3, 2.0, optimizer=sgd),
            small=SmallBatch(8, 2, optimizer=sgd),
            workers=1,
            seed=0,
            callbacks=[crash_after(n)],
            checkpoint_folder=folder,
        ).workers.samples

    whole = noisy()
    for n in (2, 5):
        with pytest.raises(Crash):
            noisy(n, tmp_path / str(n))
        assert torch.equal(noisy(folder=tmp_path / str(n)), whole)


def test_goes_on_from_the_last_epoch_that_all_workers_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, write = run(2), CheckpointFile.write
    for epoch in (1, 3):

        def full(self: CheckpointFile, state: Any, epoch: int = epoch) -> None:
            if self.path.name == f"worker-1-large-{epoch}.pt":
                raise swag.FileError(f"{self.path}: no space left")
            write(self, state)

        folder = tmp_path / str(epoch)
        monkeypatch.setattr(CheckpointFile, "write", full)
        with pytest.raises(swag.FileError, match="no space left"):
            run(2, checkpoint_folder=folder)
        monkeypatch.undo()
        found = {path.name for path in folder.iterdir()}
        there = {1: [(0, 1)], 3: [(0, 2), (0, 3), (1, 2)]}[epoch]
        assert found == {f"worker-{worker}-large-{e}.pt" for worker, e in there}
        resumed = run(2, checkpoint_folder=folder)
        assert torch.equal(resumed.workers.samples, whole.workers.samples)


def test_files_of_another_run_are_refused(tmp_path: Path) -> None:
    run(2, checkpoint_folder=tmp_path)
    model = network(seed=5, dropout=0.3)
    before = copy.deepcopy(model.state_dict())
    slower = LargeBatch(32, 6, 0.7, optimizer=lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=1e-3))
    scheduled = LargeBatch(32, 6, 0.7, optimizer=RUN_LARGE.optimizer, schedule=fewer_each_epoch)
    for changes, said in (
        ({"seed": 8}, r"belongs to a run with seed=7, this one has seed=8"),
        ({"workers": 3}, r"with workers=2, this one has workers=3"),
        ({"workers": 3, "seed": 8}, r"with seed=7, this one has seed=8"),
        ({"workers": 1}, r"with workers=2, this one has workers=1"),
        ({"clip_norm": 1.0}, r"clip_norm=2.0, this one has clip_norm=1.0"),
        ({"large": LargeBatch(30, 6, 0.7)}, r"large size=32, this one has large size=30"),
        ({"large": slower}, r"large optimizer='SGD .* lr: 0.1 .* lr: 0.05 "),
        ({"large": scheduled}, r"large schedule='NoneType', this one has large schedule='fewer_each_epoch'"),
    ):
        with pytest.raises(InputError, match=said):
            run(**{"workers": 2, "model": model, "checkpoint_folder": tmp_path, **changes})
        same(model.state_dict(), before)
    file = next(tmp_path.glob("worker-0-large-*.pt"))
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(swag.FileError, match="no epoch in common, so some files are lost"):
        run(2, checkpoint_folder=tmp_path)
    file.write_bytes(content[:100])
    with pytest.raises(swag.FileError, match="worker-0-large"):
        run(2, checkpoint_folder=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(swag.FileError, match="cannot be made or read"):
        run(2, checkpoint_folder=tmp_path / "file")


def test_another_phase_2_begins_from_the_end_of_phase_1(tmp_path: Path) -> None:
    run(2, checkpoint_folder=tmp_path)
    for small in (
        SmallBatch(8, 4, optimizer=RUN_LARGE.optimizer),
        SmallBatch(7, 3, optimizer=RUN_LARGE.optimizer),
    ):
        told: list[Epoch] = []
        found = run(2, small=small, checkpoint_folder=tmp_path, callbacks=[told.append])
        assert torch.equal(found.workers.samples, run(2, small=small).workers.samples)
        assert len(told) == 2 * small.epochs


def test_simulated_workers_are_real_ones(tmp_path: Path) -> None:
    """Three, so that the order of a sum can be seen; two ranks share a sum's bits in any order."""
    # The ranks go on where simulated workers were stopped.
    with pytest.raises(Crash):
        run(3, callbacks=[crash_after(2)], checkpoint_folder=tmp_path / "checkpoints")
    words = ["-m", "tests.swap_on_ranks", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert torchrun(words, workers=3, max_restarts=0, timeout=240, env=env) == 0
    simulated = run(3)
    assert any(row["phase"] == "large" and row["epoch"] > 2 for row in simulated.history)
    for rank in range(3):
        tensors = load_file(tmp_path / f"{rank}.safetensors")
        rest = json.loads((tmp_path / f"{rank}.json").read_text())
        assert torch.equal(tensors.pop("workers"), simulated.workers.samples)
        same(dict(sorted(tensors.items())), dict(sorted(simulated.model.state_dict().items())))
        assert rest["history"] == json.loads(json.dumps(simulated.history))
        *errors, untouched = rest["said"]
        assert len(errors) == 6 and untouched == "True"
        assert "seed 8" in errors[0] and "bias" in errors[1] and "clip_norm" in errors[2]
        assert "clip_norm 2.0" in errors[3] and "lr: 1.1" in errors[4]
        assert "checkpoint_folder" in errors[5]
        assert len(rest["seconds"]["small"]) == 3


def test_a_group_of_one_is_one_simulated_worker() -> None:
    with joined() as ranks:
        assert (ranks.n, list(ranks.mine)) == (1, [0])
        real = run(ranks)
    simulated = run(1)
    assert torch.equal(real.workers.samples, simulated.workers.samples)
    same(real.model.state_dict(), simulated.model.state_dict())


def test_loaders_of_ones_own_schedules_by_the_step_and_callbacks() -> None:
    class Gathered:
        """Rows of tensors, a batch at once."""

        def __init__(self, data: TensorDataset, batches: Any) -> None:
            self.data, self.batches = data, batches

        def __iter__(self) -> Any:
            for rows in self.batches:
                yield self.data[rows]

    told: list[Epoch] = []
    seen: list[float] = []

    def one_cycle(optimizer: torch.optim.Optimizer) -> EveryStep:
        return EveryStep(torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=7))

    def count(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(len(targets))
        return top_1(outputs, targets)

    large = LargeBatch(20, 2, 2.0, optimizer=sgd, schedule=one_cycle)
    # This loader has no length, and the schedule moves at every one of the 18 steps all the same.
    falling = [0.1 * (18 - step) / 18 for step in range(19)]
    small = SmallBatch(
        5, 2, sgd, lambda o: EveryStep(torch.optim.lr_scheduler.LambdaLR(o, lambda step: falling[step]))
    )
    mine = start(
        network(), large=large, small=small, make_loader=Gathered, callbacks=[told.append], n_right=count
    )
    theirs = start(network(), large=large, small=small)
    rates = [row["rates"][0] for row in mine.history if row["phase"] == "small"]
    assert rates == pytest.approx([0.2 * falling[8], 0.2 * falling[17]] * 2)
    assert torch.equal(mine.workers.samples, theirs.workers.samples)
    assert seen == [10, 10, 10, 10, 3, 2] * 2
    assert [(e.number, e.of, e.step) for e in told[:2]] == [(1, 2, 3), (2, 2, 6)] and len(told) == 2 + 4
    assert len({row["rates"][0] for row in mine.history[:2]}) == 2
    with pytest.raises(InputError, match="make_loader"):
        start(network(), make_loader=lambda data, batches: [])


def test_a_loss_that_is_no_number_stops() -> None:
    def bad(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) * float("nan")

    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DivergedError, match="step 1 "):
        start(model, loss=bad)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_parameters_that_are_not_used_stay_as_they_are() -> None:
    class Half(nn.Module):
        """The second layer is used for one of the large batch's two pieces alone, the third never."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([linear(seed, torch.float32) for seed in range(3)])

        def forward(self, x: Tensor) -> Tensor:  # 45 rows are pieces of 23 and 22
            return self.layers[0](x) + (self.layers[1](x) if len(x) == 23 else 0)

    def decayed(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, weight_decay=0.5)

    model = Half()
    before = copy.deepcopy(model.layers)
    large = LargeBatch(45, 1, 2.0, optimizer=decayed)
    start(model, large=large, small=SmallBatch(45, 0))
    changed = [not torch.equal(old.weight, new.weight) for old, new in zip(before, model.layers, strict=True)]
    assert changed == [True, True, False]
    x, y = task(45)
    piece = own(45, 45, 0, 2, 3, 0)[0]
    weight = before[1].weight.detach().requires_grad_()
    outputs = before[0](x[piece]) + F.linear(x[piece], weight, before[1].bias)
    (gradient,) = torch.autograd.grad(F.cross_entropy(outputs, y[piece]) * (len(piece) / 45), weight)
    torch.testing.assert_close(model.layers[1].weight, 0.95 * weight - 0.1 * gradient, rtol=1e-5, atol=1e-6)


def test_the_mean_is_that_of_the_points() -> None:
    points = 10 + 1e-4 * torch.randn(4, 1000)
    torch.testing.assert_close(mean_of(points), points.double().mean(0).float(), rtol=1e-7, atol=0)
    assert torch.equal(mean_of(points[:1]), points[0])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"workers": 0}, "workers"),
        ({"workers": True}, "workers"),
        ({"workers": "two"}, "workers"),
        ({"workers": 11}, "two rows a worker"),
        ({"seed": 0.5}, "seed"),
        ({"large": SmallBatch(5, 1)}, "large"),
        ({"small": None}, "small"),
        ({"large": LargeBatch(46, 1, 0.9)}, "large"),
        ({"small": SmallBatch(46, 1)}, "small"),
        ({"dataset": iter([])}, "dataset"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"bn_loader": []}, "bn_loader"),
        ({"large": LargeBatch(20, 1, 0.9, optimizer=lambda parameters: None)}, "optimizer"),
    ],
)
def test_refuses(changes: dict[str, Any], names: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=names):
        start(model, **changes)
    same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: LargeBatch(0, 1, 0.9), "size"),
        (lambda: LargeBatch(8, 0, 0.9), "max_epochs"),
        (lambda: LargeBatch(8, 1, 0), "target_accuracy"),
        (lambda: LargeBatch(8, 1, float("nan")), "target_accuracy"),
        (lambda: SmallBatch(8, 1.5), "epochs"),  # type: ignore[arg-type]
        (lambda: SmallBatch(8, 1, optimizer=sgd(list(network().parameters()))), "optimizer"),  # type: ignore[arg-type]
        (lambda: SmallBatch(8, 1, schedule=3), "schedule"),  # type: ignore[arg-type]
    ],
)
def test_phases_refuse(make: Any, names: str) -> None:
    with pytest.raises(InputError, match=names):
        make()


def test_refuses_to_count_what_it_does_not_know() -> None:
    model = nn.Sequential(nn.Linear(N_FEATURES, 1), nn.Flatten(0))
    with pytest.raises(InputError, match="n_right"):
        start(model, TensorDataset(task(45)[0], torch.randn(45)), loss=F.mse_loss)
    assert len(Noisy()) == 90
