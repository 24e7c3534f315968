"""Mixed batches, the schedule and both averages of one trajectory, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import swag
from swag.errors import InputError, StateError
from swag.schedules import rates
from swag.training import Epoch, RunningAverage, Step
from swag.training.semi_supervised import (
    CollectAt,
    Consistency,
    MeanTeacher,
    PiModel,
    SemiSupervised,
    Supervised,
    TwoHeads,
    TwoStreams,
    TwoStreamSampler,
    noisy,
    train_semi_supervised,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_mixed_batch_has_so_many_of_each() -> None:
    labels = torch.tensor([3, -1, -1, 0, 1, -1, -1, -1, 2, -1, -1])  # four labelled rows, seven without
    sampler = TwoStreamSampler.from_labels(labels, 3, 2, generator=seeded(0))
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3  # the seventh row is left out
    assert all((labels[batch[:3]] != -1).all() and (labels[batch[3:]] == -1).all() for batch in batches)
    others = [row for batch in batches for row in batch[3:]]
    assert len(set(others)) == 6
    known = [row for batch in batches for row in batch[:3]]
    assert sorted(known[:4]) == sorted(known[4:8]) == [0, 3, 4, 8]  # whole passes, one after the other


def test_orders_are_drawn_anew_and_from_the_generator_alone() -> None:
    sampler = TwoStreamSampler(range(40), range(40, 80), 10, 10, generator=seeded(0))
    world = torch.get_rng_state()
    first, second = list(sampler), list(sampler)
    assert first != second and torch.equal(torch.get_rng_state(), world)
    assert list(TwoStreamSampler(range(40), range(40, 80), 10, 10, generator=seeded(0))) == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [], 1, 1), "unlabelled: is empty"),
        (([], [0, 1], 1, 1), "labelled: is empty"),
        (([0, 1], [2, 3], 3, 1), "n_labelled: got 3 in a batch, and there are 2"),
        (([0, 1], [2, 3], 1, 3), "n_unlabelled: got 3 in a batch, and there are 2"),
        (([0, 1], [1, 2], 1, 1), "row 1 is among the labelled ones"),
        (([0, 1], [2, 3], 0, 1), "n_labelled: got 0"),
        (([0.5, 1], [2, 3], 1, 1), "labelled: got torch.float32"),
    ],
)
def test_the_sampler_refuses_what_it_cannot_draw(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TwoStreamSampler(*arguments)


def test_no_unlabelled_rows_at_all() -> None:
    with pytest.raises(InputError, match="unlabelled: is empty"):
        TwoStreamSampler.from_labels([0, 1, 1], 1, 1)


def test_two_loaders_are_joined_and_the_labelled_one_begins_again() -> None:
    source = [(torch.full((2, 3), 1.0 + i), torch.tensor([i, i])) for i in range(2)]
    target = [(torch.full((3, 3), -1.0 - i), "not looked at") for i in range(5)]
    streams = TwoStreams(source, target)
    found = list(streams)
    assert len(found) == len(streams) == 5
    assert [x[0, 0].item() for x, _ in found] == [1, 2, 1, 2, 1]
    assert [x[-1, 0].item() for x, _ in found] == [-1, -2, -3, -4, -5]
    assert [labels.tolist() for _, labels in found[:2]] == [[0, 0, -1, -1, -1], [1, 1, -1, -1, -1]]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([], [torch.ones(1)], "labelled: is empty"),
        ([(torch.ones(1, 2), torch.ones(1))], [], "unlabelled: is empty"),
        (iter([1]), [torch.ones(1)], "labelled: is an iterator"),
        ([torch.ones(1, 2)], [torch.ones(1, 2)], "labelled: gave a Tensor"),
        ([(torch.ones(1, 2), torch.zeros(1))], [torch.ones(1, 3)], "unlabelled: has rows of shape"),
        ([(torch.ones(1, 2), torch.zeros(1))], [{"x": 1}], "unlabelled: a batch begins with a dict"),
    ],
)
def test_streams_that_cannot_be_joined_are_refused(source: Any, target: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(TwoStreams(source, target))


class Empty:
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(())


def test_a_labelled_loader_that_gives_nothing_is_no_endless_loop() -> None:
    with pytest.raises(InputError, match="labelled: gave no batch"):
        list(TwoStreams(Empty(), [torch.ones(1, 2)]))


def test_snapshots_are_taken_at_their_points() -> None:
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    average = RunningAverage(model)
    at = CollectAt(average, first=1, every=0.5)
    taken = []
    for number in range(1, 13):  # four steps an epoch; the weight is the step's number
        nn.init.constant_(model.weight, float(number))
        at.after_step(Step(number, number / 4, model, optimizer))
        if number % 4 == 0:
            at(Epoch(number // 4, 3, number, 0.0, None, (1.0,), 0, model, optimizer))
        taken.append(average.n_collected)
    assert taken == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert average.mean.item() == pytest.approx((4 + 6 + 8 + 10 + 12) / 5)
    again = CollectAt(RunningAverage(model), first=1, every=0.5)
    again.load_state_dict(at.state_dict())
    again.after_step(Step(13, 3.25, model, optimizer))
    assert again.average.n_collected == 5
    for bad in ({"first": 0, "every": 1}, {"first": 1, "every": 0}):
        with pytest.raises(InputError, match="epochs above 0"):
            CollectAt(average, **bad)
    with pytest.raises(InputError, match="average"):
        CollectAt(3, first=1, every=1)  # type: ignore[arg-type]


X = torch.randn(60, 4, generator=seeded(7))
LABELS = (X[:, 0] > 0).long()


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def moved(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return noisy(x, 0.1, generator=generator)


def loader() -> DataLoader[Any]:
    labels = torch.where(torch.arange(60) < 20, LABELS, -1)
    sampler = TwoStreamSampler.from_labels(labels, 5, 10, generator=seeded(1))
    return DataLoader(TensorDataset(X, labels), batch_sampler=sampler)


def streams() -> TwoStreams:
    source = DataLoader(TensorDataset(X[:20], LABELS[:20]), 5, shuffle=True, generator=seeded(3))
    return TwoStreams(source, DataLoader(TensorDataset(X[20:]), 10, shuffle=True, generator=seeded(4)))


class Seen:
    """Every step's weights and rate."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.rates: list[float] = []

    def __call__(self, epoch: Epoch) -> None: ...

    def after_step(self, step: Step) -> None:
        self.weights.append(swag.Layout.of(step.model).flatten(step.model))
        self.rates.append(step.optimizer.param_groups[0]["lr"])


def run(model: nn.Module, method: Any, batches: Any, **arguments: Any) -> SemiSupervised:
    arguments = {"epochs": 8, "first_end": 4, "cycle": 2, "fast_every": 0.5, **arguments}
    return train_semi_supervised(model, batches, method, rank=0, **arguments)


@pytest.fixture(scope="module")
def seen_run() -> tuple[SemiSupervised, Seen]:
    model, seen = small(), Seen()
    method = PiModel(Consistency(weight=2, ramp=2), augment=moved, generator=seeded(2))
    return run(model, method, loader(), callbacks=[seen]), seen


def test_rates_are_the_repeated_cosine_step_by_step(seen_run: tuple[SemiSupervised, Seen]) -> None:
    _, seen = seen_run
    assert len(seen.rates) == 32  # four batches an epoch
    expected = [
        rates.repeated_cosine(step / 4, lr=0.05, horizon=4 * 7 / 6, first_end=4, cycle=2)
        for step in range(32)
    ]
    assert seen.rates == pytest.approx(expected)


def test_swa_averages_cycle_ends_and_fast_swa_several_times_a_cycle(
    seen_run: tuple[SemiSupervised, Seen],
) -> None:
    result, seen = seen_run
    after = torch.stack(seen.weights).double()
    ends = after[[15, 23, 31]]  # after 4, 6 and 8 epochs
    assert result.swa.n_collected == 3
    assert torch.allclose(result.swa.mean.double(), ends.mean(0), atol=1e-6)
    fast = after[9::2]  # after 2.5, 3, …, 8 epochs
    assert result.fast_swa.n_collected == len(fast) == 12
    assert torch.allclose(result.fast_swa.mean.double(), fast.mean(0), atol=1e-6)
    assert not torch.allclose(result.swa.mean, result.fast_swa.mean, atol=1e-4)


def test_every_average_has_batch_norm_statistics_of_its_own(seen_run: tuple[SemiSupervised, Seen]) -> None:
    result, _ = seen_run
    rows = [X[:30], X[30:]]
    for average in (result.swa, result.fast_swa):
        network = result.averaged(average, bn_loader=rows)
        layer = network[1]
        hidden = torch.cat([network[0](x) for x in rows])
        assert torch.allclose(layer.running_mean, hidden.mean(0), atol=1e-5)
        assert torch.allclose(layer.running_var, hidden.var(0), atol=1e-5)
        assert not network.training
    # Without a loader, those of the mixed batches as they came, not augmented.
    state = result.trained.train_loader.batch_sampler.generator.get_state()  # type: ignore[union-attr]
    network = result.averaged(result.swa)
    result.trained.train_loader.batch_sampler.generator.set_state(state)  # type: ignore[union-attr]
    mixed = torch.cat([x for x, _ in result.trained.train_loader])
    assert torch.allclose(network[1].running_mean, network[0](mixed).mean(0), atol=1e-5)
    probs = result.trained.ensemble(result.swa.swa(), 1, bn_loader=rows, seed=0)(X).probs
    same = result.averaged(result.swa, bn_loader=rows)(X).softmax(1)
    assert torch.allclose(probs, same, atol=1e-5)


def test_averaging_does_not_change_the_trajectory() -> None:
    ended = []
    for every in (0.5, 2.0):
        model = small()
        method = PiModel(Consistency(weight=2, ramp=2), augment=moved, generator=seeded(2))
        run(model, method, loader(), fast_every=every)
        ended.append(swag.Layout.of(model).flatten(model))
    assert torch.equal(*ended)


def make_pi(model: nn.Module) -> PiModel:
    return PiModel(Consistency(weight=2, ramp=2), augment=moved, generator=seeded(2))


def make_teacher(model: nn.Module) -> MeanTeacher:
    return MeanTeacher(model, Consistency(weight=2, ramp=2), decay=0.9, augment=moved, generator=seeded(2))


@pytest.mark.parametrize(("make", "batches"), [(make_pi, streams), (make_teacher, loader)])
def test_a_run_that_was_stopped_ends_with_the_same_bits(make: Any, batches: Any, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(epoch: Epoch) -> None:
        if epoch.number == 6 and dying:
            raise Killed

    ended = []
    for file, deaths in (("whole.pt", [False]), ("killed.pt", [True, False])):
        for dying in deaths:  # noqa: B007 (kill reads it)
            model = small()
            method = make(model)
            try:
                result = run(model, method, batches(), callbacks=[kill], checkpoint=tmp_path / file)
            except Killed:
                continue
        ended.append((model, result, method))
    (one, first, pi), (two, second, other) = ended
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.swa.mean, second.swa.mean)
    assert torch.equal(first.fast_swa.mean, second.fast_swa.mean)
    if isinstance(pi, MeanTeacher):
        for a, b in zip(pi.teacher.parameters(), other.teacher.parameters(), strict=True):
            assert torch.equal(a, b)


def test_adaptation_with_two_loaders_two_heads_and_a_teacher() -> None:
    body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TwoHeads(body, nn.Linear(6, 2), nn.Linear(6, 2))
        source = DataLoader(TensorDataset(X[:20], LABELS[:20]), 10, shuffle=True, generator=seeded(0))
        target = DataLoader(TensorDataset(X[20:] + 1), 10, shuffle=True, generator=seeded(1))
        method = MeanTeacher(model, Consistency(weight=1, ramp=1, coupling=0.01), augment=moved)
        validation = [(X[20:] + 1, LABELS[20:])]
        result = run(model, method, TwoStreams(source, target), validation=validation)
    assert result.history[-1]["validation_loss"] < result.history[0]["validation_loss"]
    assert result.averaged(result.fast_swa, bn_loader=[X[20:] + 1])(X).shape == (60, 2)
    assert isinstance(result.method, MeanTeacher) and result.method.teacher.eval()(X).shape == (60, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 3}, "epochs: got 3, and the first cycle ends at first_end=4"),
        ({"cycle": 5}, "cycle: got 5"),
        ({"horizon": 3}, "horizon: got 3"),
        ({"fast_every": 0.1}, "fast_every: got 0.1"),
        ({"fast_every": 7}, "fast_every: got 7"),
        ({"swa_lr": 0.1}, "swa_lr: is not taken here"),
        ({"forward": 1}, "forward: is not taken here"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_and_nothing_changes(
    arguments: dict[str, Any], message: str
) -> None:
    model = small()
    before = swag.Layout.of(model).flatten(model)
    with pytest.raises(InputError, match=message):
        run(model, Supervised(), loader(), **arguments)
    assert torch.equal(before, swag.Layout.of(model).flatten(model)) and model.training


def test_a_method_must_be_one_and_belong_to_the_model() -> None:
    with pytest.raises(InputError, match="method: got"):
        run(small(), "pi", loader())
    with pytest.raises(InputError, match=r"method: got <class .*PiModel'>; pass PiModel\(…\)"):
        run(small(), PiModel, loader())
    with pytest.raises(InputError, match="method: its teacher was copied from another model"):
        run(small(), MeanTeacher(nn.Linear(4, 2)), loader())
    with pytest.raises(InputError, match="batches: do not know their length"):
        run(small(), Supervised(), (batch for batch in [(X, LABELS)]))


def test_a_label_outside_the_range_stops_the_run_before_a_step() -> None:
    model = small()
    before = swag.Layout.of(model).flatten(model)
    with pytest.raises(InputError, match="labels: got 2 for 2 classes"):
        run(model, PiModel(), TwoStreams([(X[:5], torch.full((5,), 2))], list(X.split(15))))
    assert torch.equal(before, swag.Layout.of(model).flatten(model))


def test_an_average_without_snapshots_says_so(seen_run: tuple[SemiSupervised, Seen]) -> None:
    with pytest.raises(StateError, match="no snapshot"):
        seen_run[0].averaged(RunningAverage(small()))


def test_the_guides_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "semi_supervised.md"
    script, shown = page.read_text(encoding="utf-8").split("```python\n")[1].split("```\n\n```text\n")
    with torch.random.fork_rng():
        exec(compile(script, page.name, "exec"), {})
    assert capsys.readouterr().out == shown.split("```")[0]
