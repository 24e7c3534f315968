"""A training run that is stopped, anywhere, and started again ends bit for bit as one that was not."""

from __future__ import annotations

import io
import itertools
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import swag
from swag import FileError, InputError
from swag.schedules import cyclical
from swag.training import (
    EMA,
    CollectInto,
    DivergedError,
    Epoch,
    EveryStep,
    RunningAverage,
    SWAOptimizer,
    fge,
    train,
)
from tests.training_cases import Augmented, Poisoned, batches, network, same, shuffled


class Stop(Exception):
    """Whatever ends a process: here it comes out of a callback or a loader."""


class StopAfter:
    """A callback that ends the run when so many epochs are over, before their checkpoint is written."""

    def __init__(self, epochs: int | None) -> None:
        self.epochs = epochs

    def __call__(self, epoch: Epoch) -> None:
        if epoch.number == self.epochs:
            raise Stop


class MovingAverage:
    """A callback with a state."""

    def __init__(self) -> None:
        self.average = torch.zeros(())

    def __call__(self, epoch: Epoch) -> None:
        first = next(epoch.model.parameters())
        self.average = 0.9 * self.average + 0.1 * first.detach().mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.average = state["average"]


def with_a_generator_of_its_own(path: Path, stop: int | None, seed: int) -> Any:
    return train(
        network(seed, dropout=0.3),
        shuffled(seed),
        F.cross_entropy,
        epochs=6,
        swa_start=0.5,
        rank=2,
        validation=batches(20),
        callbacks=[MovingAverage(), StopAfter(stop)],
        checkpoint=path,
    )


def with_every_generator_there_is(path: Path, stop: int | None, seed: int) -> Any:
    model = network(seed, dropout=0.3)
    loader = DataLoader(Augmented(), batch_size=5, shuffle=True)
    loader.dataset.generator.manual_seed(seed)  # type: ignore[attr-defined]
    return train(
        model,
        loader,
        F.cross_entropy,
        epochs=5,
        swa_start=0.4,
        collect_every=0.5,
        accumulate=2,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True),
        grad_scaler=torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3),
        callbacks=[StopAfter(stop)],
        checkpoint=path,
        checkpoint_every=2,
    )


def with_a_schedule_at_every_step(path: Path, stop: int | None, seed: int) -> Any:
    return train(
        network(seed),
        shuffled(),
        F.cross_entropy,
        epochs=5,
        swa_start=0.2,
        collect_every=None,
        schedule=lambda o: EveryStep(cyclical(o, lr_max=0.1, lr_min=0.01, cycle=1.5, steps_per_epoch=4)),
        callbacks=[StopAfter(stop)],
        checkpoint=path,
    )


def with_the_swa_optimizer_and_an_ema(path: Path, stop: int | None, seed: int) -> Any:
    model = network(seed)
    optimizer = SWAOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), swa_start=6, swa_freq=3, swa_lr=0.02
    )
    ema = RunningAverage(model, rule=EMA(0.7))
    result = train(
        model,
        shuffled(seed),
        F.cross_entropy,
        epochs=5,
        swa_start=0.2,
        optimizer=optimizer,
        schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        callbacks=[CollectInto(ema), StopAfter(stop)],
        checkpoint=path,
    )
    assert [row["rates"][0] < 0.03 for row in result.history] == [False, True, True, True, True]
    return result


def with_snapshots_of_fge(path: Path, stop: int | None, seed: int) -> Any:
    return fge(
        network(seed),
        shuffled(seed),
        F.cross_entropy,
        lr_max=0.1,
        lr_min=0.01,
        cycle=1.5,
        n_snapshots=3,
        callbacks=[StopAfter(stop)],
        checkpoint=path,
    )


RUNS: list[Callable[[Path, int | None, int], Any]] = [
    with_a_generator_of_its_own,
    with_every_generator_there_is,
    with_a_schedule_at_every_step,
    with_the_swa_optimizer_and_an_ema,
    with_snapshots_of_fge,
]


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
@pytest.mark.parametrize("stops", [(1,), (2, 4), (3, 3)])
def test_ends_bit_for_bit_as_if_it_had_not_been_stopped(
    run: Callable[[Path, int | None, int], Any], stops: tuple[int, ...], tmp_path: Path
) -> None:
    seed_all(1)
    whole = run(tmp_path / "whole.pt", None, 1)
    after_whole = (torch.rand(1).item(), random.random(), np.random.rand())
    seed_all(1)
    for seed, stop in enumerate(stops, start=1):
        with pytest.raises(Stop):
            run(tmp_path / "stopped.pt", stop, seed)
        seed_all(99)  # another process: other weights, and generators in another state
    resumed = run(tmp_path / "stopped.pt", None, 77)
    after_resumed = (torch.rand(1).item(), random.random(), np.random.rand())

    same(resumed.model.state_dict(), whole.model.state_dict())
    assert resumed.history == whole.history
    assert after_resumed == after_whole
    files = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("stopped", "whole")]
    same(files[0], files[1])
    if hasattr(whole, "collector"):
        generator = torch.Generator()
        samples = [r.swag().sample(2, generator=generator.manual_seed(0)) for r in (whole, resumed)]
    else:
        samples = [r.posterior.samples for r in (whole, resumed)]
    assert torch.equal(samples[0], samples[1])
    assert len(samples[0]) > 1 and not torch.equal(samples[0][0], samples[0][1])


def test_an_interrupt_within_an_epoch_loses_that_epoch_alone(tmp_path: Path) -> None:
    class Interrupted:
        def __init__(self, after: int | None) -> None:
            self.after, self.given = after, 0

        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in batches():
                if self.given == self.after:
                    raise KeyboardInterrupt
                self.given += 1
                yield batch

    def run(after: int | None, name: str) -> Any:
        path = tmp_path / name
        return train(network(), Interrupted(after), F.cross_entropy, epochs=4, swa_start=0.5, checkpoint=path)

    whole = run(None, "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run(10, "cut.pt")
    assert torch.load(tmp_path / "cut.pt", weights_only=True)["epoch"] == 2
    assert torch.equal(run(None, "cut.pt").collector.mean, whole.collector.mean)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_finished_run_is_read_and_not_trained(tmp_path: Path) -> None:
    def run(loader: Any) -> Any:
        path = tmp_path / "run.pt"
        return train(network(), loader, F.cross_entropy, epochs=3, swa_start=0, checkpoint=path)

    first, again = run(batches()), run(Poisoned(bad=1))
    same(again.model.state_dict(), first.model.state_dict())
    assert torch.equal(again.swa().mean, first.swa().mean) and again.history == first.history


def test_a_nan_keeps_the_last_good_checkpoint_and_the_run_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"

    def run(loader: Any, path: Path) -> Any:
        return train(network(), loader, F.cross_entropy, epochs=4, swa_start=0.5, checkpoint=path)

    with pytest.raises(DivergedError, match="step 11 ") as caught:
        run(Poisoned(bad=11), path)
    assert any(str(path) in note for note in caught.value.__notes__)
    saved = torch.load(path, weights_only=True)
    assert saved["epoch"] == 2 and saved["step"] == 8
    assert all(value.isfinite().all() for value in saved["model"].values())
    mended, whole = run(batches(), path), run(batches(), tmp_path / "whole.pt")
    same(mended.model.state_dict(), whole.model.state_dict())


def test_the_file_is_there_before_the_first_epoch_and_after_a_nan_in_it(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    model = network()
    with pytest.raises(DivergedError):
        train(model, Poisoned(bad=1), F.cross_entropy, epochs=4, checkpoint=path)
    saved = torch.load(path, weights_only=True)
    assert saved["epoch"] == 0
    assert torch.equal(saved["model"]["0.weight"], network()[0].weight)


@pytest.mark.parametrize("swa_start", [0.5, 0.0])
def test_a_step_that_ruins_the_weights_is_not_written(swa_start: float, tmp_path: Path) -> None:
    """The loss of an epoch's last step is finite, its gradient is not: the next loss would tell too late."""
    calls = itertools.count(1)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = F.cross_entropy(outputs, targets)
        root_of_zero = (outputs - outputs.detach()).sum().abs().sqrt()
        return value + root_of_zero if next(calls) == 8 else value

    path = tmp_path / "run.pt"
    with pytest.raises(DivergedError, match=r"after step 8 \(epoch 2\)"):
        train(network(), batches(), loss, epochs=4, swa_start=swa_start, checkpoint=path)
    saved = torch.load(path, weights_only=True)
    assert saved["epoch"] == 1 and all(value.isfinite().all() for value in saved["model"].values())


def short(path: Path, model: nn.Module | None = None, **changes: Any) -> Any:
    given: dict[str, Any] = {"epochs": 2, "swa_start": 0, "checkpoint": path, **changes}
    return train(model or network(), given.pop("loader", batches()), F.cross_entropy, **given)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"epochs": 3}, "epochs=2"),
        ({"swa_start": 0.5}, "swa_start"),
        ({"swa_lr": 0.3}, "swa_lr"),
        ({"collect_every": 2}, "collect_every"),
        ({"accumulate": 2}, "accumulate"),
        ({"loader": batches(20)}, "batches"),
        ({"optimizer": torch.optim.AdamW}, "optimizer='SGD'"),
        ({"rank": 3}, "rank"),
        ({"callbacks": [lambda epoch: None]}, "callbacks"),
        ({"model": nn.Sequential(nn.Linear(6, 3))}, "another model"),
        ({"model": nn.Sequential(*network()[:4], nn.Linear(8, 4))}, r"another model.*\(4, 8\)"),
    ],
)
def test_refuses_a_checkpoint_of_another_run(changes: dict[str, Any], names: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    short(path)
    before = path.read_bytes()
    model = changes.setdefault("model", network(seed=5))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=names):
        short(path, **changes)
    same(dict(model.state_dict()), weights)
    assert path.read_bytes() == before


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def archive(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", "not a whole file"),
        (b"nothing of the kind", "damaged|not a whole file"),
        (pickle.dumps(Bomb()), "executed|damaged|not a whole file"),
        (archive(Bomb()), "was not executed"),
        (archive({"weight": torch.zeros(3)}), "something else"),
        (archive({"kind": "swag.training", "version": 99}), "version 99"),
        (archive({"kind": "swag.training", "version": 1, "settings": {}}), "'epoch' is missing"),
    ],
)
def test_refuses_files_that_are_no_checkpoint(
    content: bytes, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=names):
        short(path)
    assert path.read_bytes() == content and not (tmp_path / "exploded").exists()


def test_refuses_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    short(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileError, match=str(path.name)):
        short(path)


def test_what_cannot_be_written_shows_before_the_first_epoch(tmp_path: Path) -> None:
    class Strange(MovingAverage):
        def state_dict(self) -> dict[str, Any]:
            return {"object": object()}

    for changes, names in (
        ({"checkpoint": tmp_path / "no folder" / "run.pt"}, "no folder"),
        ({"callbacks": [Strange()]}, r"callbacks\[0\].object is of type object"),
    ):
        model = network()
        with pytest.raises((FileError, InputError), match=names):
            short(tmp_path / "run.pt", model=model, **changes)
        same(model.state_dict(), network().state_dict())
        assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_are_written_as_plain_ones(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    rate = np.float64(0.1)

    def half_rate(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=np.float64(0.5))

    def run(stop: int | None) -> Any:
        return short(
            path,
            epochs=4,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate),
            schedule=half_rate,
            callbacks=[StopAfter(stop)],
        )

    with pytest.raises(Stop):
        run(3)
    assert [row["rates"][0] for row in run(None).history] == [0.1, 0.05, 0.05, 0.05]


def test_a_compiled_wrapper_does_not_show_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    model = network()
    whole = short(tmp_path / "whole.pt")
    with pytest.raises(Stop):
        short(path, model=torch.compile(model, backend="eager"), callbacks=[StopAfter(2)])
    names = torch.load(path, weights_only=True)["model"].keys()
    assert set(names) == set(network().state_dict())
    resumed = short(path, callbacks=[StopAfter(None)])
    assert torch.equal(resumed.swa().mean, whole.swa().mean)
    assert isinstance(resumed.collector, swag.Collector)


def test_a_refused_checkpoint_leaves_optimizer_and_callbacks_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    ema = RunningAverage(network(), EMA(0.5))
    short(path, callbacks=[CollectInto(ema)])

    def go(**changes: Any) -> None:
        model = network(seed=5)
        parameters = list(model.parameters())
        groups = (
            [{"params": parameters[:2]}, {"params": parameters[2:]}] if "groups" in changes else parameters
        )
        changes.pop("groups", None)
        optimizer = torch.optim.SGD(groups, lr=0.3)
        untouched = RunningAverage(model, EMA(0.5))
        given = {"optimizer": optimizer, "callbacks": [CollectInto(untouched)], **changes}
        before = [{**group, "params": None} for group in optimizer.param_groups]
        with pytest.raises(InputError):
            short(path, model=model, **given)
        assert [{**group, "params": None} for group in optimizer.param_groups] == before
        assert untouched.n_collected == 0 and optimizer.state_dict()["state"] == {}

    go(epochs=3)
    go(swa_lr=0.01)
    go(groups=2)
    go(schedule=lambda o: cyclical(o, lr_max=0.1, lr_min=0.01, cycle=2))
    go(callbacks=[CollectInto(RunningAverage(network(), EMA(0.6)))])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"clip_norm": 0.5}, "clip_norm=None"),
        ({"autocast": torch.bfloat16}, "autocast=None"),
        ({"grad_scaler": torch.amp.GradScaler("cpu")}, "grad_scaler=False"),
        ({"select": lambda name, _: name.startswith("0.")}, "another model|layout|select"),
    ],
)
def test_settings_that_shape_the_steps_must_be_the_same(
    changes: dict[str, Any], names: str, tmp_path: Path
) -> None:
    short(tmp_path / "run.pt")
    with pytest.raises(InputError, match=names):
        short(tmp_path / "run.pt", **changes)
    settings: dict[str, Any] = {"lr_max": 0.1, "lr_min": 0.01, "cycle": 2, "n_snapshots": 1}
    path = tmp_path / "fge.pt"
    fge(network(), batches(), F.cross_entropy, checkpoint=path, **settings)
    with pytest.raises(InputError, match=names):
        fge(network(), batches(), F.cross_entropy, checkpoint=path, **settings, **changes)


def test_other_rates_than_the_checkpoints_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.pt"

    def run(rate: float, decay: float, low: float) -> Any:
        return short(
            path,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate, weight_decay=decay),
            schedule=lambda o: cyclical(o, lr_max=0.1, lr_min=low, cycle=2),
        )

    run(0.1, 0.0, 0.01)
    caplog.clear()
    run(0.1, 0.0, 0.01)
    assert caplog.text == ""
    run(0.2, 1e-3, 0.02)
    for told in (
        "starting rate 0.2 here and 0.1 there",
        "weight_decay 0.001 here and 0.0 there",
        "schedule has",
    ):
        assert told in caplog.text
