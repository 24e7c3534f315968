"""`swag.training.train` against loops written out by hand, and what it refuses."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag import InputError
from swag.schedules import cyclical, rates
from swag.training import DivergedError, Epoch, EveryStep, continue_training, fge, train
from tests.training_cases import N, Poisoned, batches, linear, network, same, shuffled, task


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def by_hand(
    model: nn.Module,
    loader: list[tuple[Tensor, Tensor]],
    epochs: int,
    rate: Callable[[int], float],
    is_due: Callable[[int, int], bool],
    clip: float | None = None,
) -> swag.Collector:
    """A loop as users write it; `is_due(epoch, step in it)` counts both from 1."""
    collector = swag.Collector(model)
    optimizer = sgd(list(model.parameters()))
    model.train()
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate(epoch)
        for index, (x, y) in enumerate(loader, start=1):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if is_due(epoch + 1, index):
                collector.collect(model)
    return collector


def test_equals_the_loop_by_hand_with_the_rates_of_the_paper() -> None:
    mine, theirs = network(), network()
    result = train(
        mine, batches(), F.cross_entropy, epochs=8, swa_start=0.5, swa_lr=0.02, optimizer=sgd, rank=3
    )
    expected = by_hand(
        theirs,
        batches(),
        8,
        lambda epoch: rates.swa_paper(epoch, lr=0.1, swa_start=4, swa_lr=0.02),
        lambda epoch, index: epoch > 4 and index == 4,
    )
    same(mine.state_dict(), theirs.state_dict())
    assert result.collector.n_collected == expected.n_collected == 4
    assert torch.equal(result.collector.mean, expected.mean)
    assert torch.equal(result.collector.sq_dev, expected.sq_dev)
    assert torch.equal(result.collector.deviations, expected.deviations[1:])
    assert [row["rates"][0] for row in result.history] == [
        rates.swa_paper(epoch, lr=0.1, swa_start=4, swa_lr=0.02) for epoch in range(8)
    ]
    assert [row["step"] for row in result.history] == [4 * epoch for epoch in range(1, 9)]


@pytest.mark.parametrize(
    ("collect_every", "due"),
    [
        (0.5, [(3, 2), (3, 4), (4, 2), (4, 4)]),
        (0.25, [(epoch, index) for epoch in (3, 4) for index in (1, 2, 3, 4)]),
        (2, [(4, 4)]),
        (0.75, [(3, 3), (4, 2)]),
        (1 / 3, [(3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (4, 4)]),  # the first step at or after each third
    ],
)
def test_snapshots_are_taken_where_they_are_due(collect_every: float, due: list[tuple[int, int]]) -> None:
    result = train(
        network(),
        batches(),
        F.cross_entropy,
        epochs=4,
        swa_start=0.5,
        optimizer=sgd,
        collect_every=collect_every,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
    )
    expected = by_hand(network(), batches(), 4, lambda epoch: 0.1, lambda *at: at in due)
    assert result.collector.n_collected == len(due)
    assert torch.equal(result.collector.mean, expected.mean)
    assert torch.equal(result.collector.deviations, expected.deviations)


def test_a_cyclical_schedule_says_itself_where_to_collect() -> None:
    seen: list[tuple[int, float]] = []
    train(
        network(),
        batches(),
        F.cross_entropy,
        epochs=10,
        swa_start=0.4,
        collect_every=None,
        schedule=lambda optimizer: cyclical(optimizer, lr_max=0.1, lr_min=0.01, cycle=3),
        callbacks=[lambda epoch: seen.append((epoch.number, epoch.n_collected))],
    )
    # Cycles end after epochs 3, 6 and 9; averaging begins after epoch 4.
    assert [n for _, n in seen] == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_a_schedule_that_moves_at_every_step_says_so_within_epochs_too() -> None:
    # Half an epoch, two steps of four, is a cycle: the rate is lowest in the second and the fourth step.
    result = train(
        network(),
        batches(),
        F.cross_entropy,
        epochs=2,
        swa_start=0,
        optimizer=sgd,
        collect_every=None,
        schedule=lambda o: EveryStep(cyclical(o, lr_max=0.1, lr_min=0.01, cycle=0.5, steps_per_epoch=4)),
    )
    model = network()
    collector = swag.Collector(model)
    optimizer = sgd(list(model.parameters()))
    for index, (x, y) in enumerate([*batches(), *batches()]):
        optimizer.param_groups[0]["lr"] = rates.saw_tooth(
            index / 4, lr_max=0.1, lr_min=0.01, cycle=0.5, step=0.25
        )
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if index % 2 == 1:
            collector.collect(model)
    assert result.collector.n_collected == 4
    assert torch.equal(result.collector.deviations, collector.deviations)


def test_a_schedule_can_move_at_every_step() -> None:
    def one_cycle(optimizer: torch.optim.Optimizer) -> EveryStep:
        return EveryStep(torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12))

    model = network()
    optimizer = sgd(list(model.parameters()))
    result = train(model, batches(), F.cross_entropy, epochs=3, optimizer=optimizer, schedule=one_cycle)
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    reference = torch.optim.lr_scheduler.OneCycleLR(other, max_lr=0.1, total_steps=12)
    expected = []
    for _ in range(12):
        expected.append(reference.get_last_lr()[0])
        other.step()
        if len(expected) < 12:
            reference.step()
    # The history has the rate of the epoch's last step.
    assert [row["rates"][0] for row in result.history] == [expected[3], expected[7], expected[11]]


def test_accumulated_batches_are_one_large_batch() -> None:
    def run(size: int, accumulate: int) -> swag.Collector:
        return train(
            linear(),
            batches(size, torch.float64),
            F.cross_entropy,
            epochs=3,
            swa_start=0,
            optimizer=sgd,
            accumulate=accumulate,
        ).collector

    # 44 rows: batches of 5, the last of 4, three in a step, against batches of 15, the last of 14.
    together, apart = run(15, 1), run(5, 3)
    torch.testing.assert_close(apart.mean, together.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(apart.sq_dev, together.sq_dev, rtol=1e-9, atol=1e-14)


def test_clips_gradients() -> None:
    settings = {"epochs": 2, "swa_start": 0, "optimizer": sgd}
    clipped = train(network(), batches(), F.cross_entropy, clip_norm=0.3, **settings).collector
    free = train(network(), batches(), F.cross_entropy, **settings).collector
    expected = by_hand(network(), batches(), 2, lambda epoch: 0.1, lambda epoch, index: index == 4, clip=0.3)
    assert torch.equal(clipped.mean, expected.mean) and not torch.equal(free.mean, expected.mean)


def test_a_scaler_by_a_power_of_two_changes_nothing_and_its_state_is_used() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    settings = {"epochs": 2, "swa_start": 0, "optimizer": sgd, "clip_norm": 0.3}
    scaled = train(network(), batches(), F.cross_entropy, grad_scaler=scaler, **settings).collector
    plain = train(network(), batches(), F.cross_entropy, **settings).collector
    assert torch.equal(scaled.mean, plain.mean)
    assert scaler.get_scale() == 2.0**12  # doubled after the third and the sixth of eight steps


def test_autocast_runs_the_model_in_low_precision_and_keeps_the_weights() -> None:
    seen: list[torch.dtype] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs.dtype)
        return F.cross_entropy(outputs, targets)

    low = train(network(), batches(), loss, epochs=2, swa_start=0, autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in low.model.parameters())
    full = train(network(), batches(), F.cross_entropy, epochs=2, swa_start=0)
    difference = (low.collector.mean - full.collector.mean).abs().max()
    assert 0 < difference < 0.05


def test_validation_is_the_mean_over_rows_in_eval_mode_and_disturbs_nothing() -> None:
    held_out = batches(20)  # 20, 20 and 4 rows
    seen: list[float] = []

    def check(epoch: Epoch) -> None:
        model = copy.deepcopy(epoch.model).eval()
        x, y = task()
        assert epoch.validation_loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
        assert epoch.model.training
        seen.append(epoch.loss)

    settings = {"epochs": 2, "swa_start": 0}
    result = train(
        network(dropout=0.3), batches(), F.cross_entropy, validation=held_out, callbacks=[check], **settings
    )
    torch.manual_seed(0)
    plain = train(network(dropout=0.3), batches(), F.cross_entropy, **settings)
    torch.manual_seed(0)
    again = train(network(dropout=0.3), batches(), F.cross_entropy, validation=held_out, **settings)
    assert torch.equal(again.collector.mean, plain.collector.mean)
    assert [row["loss"] for row in result.history] == seen
    assert [row["validation_loss"] for row in plain.history] == [None, None]


def test_callbacks_are_told_what_happened() -> None:
    told: list[Epoch] = []
    model = network()
    result = train(
        model, batches(11), F.cross_entropy, epochs=4, swa_start=0.5, optimizer=sgd, callbacks=[told.append]
    )
    assert [(e.number, e.of, e.step, e.n_collected) for e in told] == [
        (1, 4, 4, 0),
        (2, 4, 8, 0),
        (3, 4, 12, 1),
        (4, 4, 16, 2),
    ]
    assert all(e.model is model and e.optimizer.param_groups[0]["lr"] == 0.05 for e in told)
    assert [e.row() for e in told] == result.history
    assert told[-1].loss < told[0].loss


def test_without_averaging_it_is_the_same_training(caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"epochs": 3, "optimizer": sgd, "schedule": plain_schedule}
    averaged = train(network(), batches(), F.cross_entropy, swa_start=0, **settings)
    with caplog.at_level(logging.WARNING, "swag"):
        plain = train(network(), batches(), F.cross_entropy, swa_start=1, **settings)
    assert not caplog.records
    assert plain.collector.n_collected == 0 and averaged.collector.n_collected == 3
    assert [row["loss"] for row in plain.history] == [row["loss"] for row in averaged.history]
    assert all(map(torch.equal, plain.model.parameters(), averaged.model.parameters()))
    with pytest.raises(swag.StateError, match="snapshot"):
        plain.swa()


def test_modes_are_afterwards_as_they_were() -> None:
    model = network(dropout=0.5)
    model[1].eval()  # batch norm frozen by the user
    before = model[1].running_mean.clone()
    train(model, batches(), F.cross_entropy, epochs=1, swa_start=0)
    assert torch.equal(model[1].running_mean, before) and model.training and not model[1].training

    model = network().eval()
    train(model, batches(), F.cross_entropy, epochs=1, swa_start=0)
    assert not torch.equal(model[1].running_mean, before)  # it was trained in train mode
    assert not any(module.training for module in model.modules())
    with pytest.raises(DivergedError):
        train(model, Poisoned(1), F.cross_entropy, epochs=1, swa_start=0)
    assert not any(module.training for module in model.modules())


def test_the_swa_model_is_the_average_with_its_own_statistics() -> None:
    result = train(network(), batches(), F.cross_entropy, epochs=4, swa_start=0.5)
    last = copy.deepcopy(result.model)
    averaged = result.swa_model()
    expected = copy.deepcopy(result.model)
    result.collector.layout.write_(expected, result.swa().mean)
    swag.refresh_batchnorm_(expected, batches())
    x, _ = task()
    torch.testing.assert_close(averaged(x), expected.eval()(x), rtol=1e-5, atol=1e-6)
    same(result.model.state_dict(), last.state_dict())
    assert not torch.allclose(averaged(x), last.eval()(x), atol=1e-3)
    for posterior in (None, result.swag_diag(), result.swag(1.0)):
        probs = result.ensemble(posterior, 4, seed=0)(x).probs
        assert probs.shape == (N, 3) and torch.allclose(probs.sum(1), torch.ones(N))


def test_goes_on_from_a_trained_network_at_a_constant_rate() -> None:
    model, other = network(seed=4), network(seed=4)
    result = continue_training(model, batches(), F.cross_entropy, epochs=3, swa_lr=0.03, optimizer=sgd)
    expected = by_hand(other, batches(), 3, lambda epoch: 0.03, lambda epoch, index: index == 4)
    assert result.collector.n_collected == 3 and torch.equal(result.collector.mean, expected.mean)
    adam = torch.optim.Adam(model.parameters(), lr=0.5)
    more = continue_training(model, batches(), F.cross_entropy, epochs=2, swa_lr=1e-3, optimizer=adam)
    assert more.collector.n_collected == 2 and adam.param_groups[0]["lr"] == 1e-3
    with pytest.raises(InputError, match="swa_start"):
        continue_training(model, batches(), F.cross_entropy, epochs=2, swa_lr=0.1, swa_start=0.5)


def test_groups_keep_their_own_rates_and_by_default_halve_them() -> None:
    def two_rates(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [{"params": parameters[:2], "lr": 0.01}, {"params": parameters[2:]}]
        return torch.optim.AdamW(groups, lr=0.002)

    settings: dict[str, Any] = {"epochs": 4, "swa_start": 0.5, "optimizer": two_rates}
    halved = train(network(), batches(), F.cross_entropy, **settings)
    assert halved.history[-1]["rates"] == [0.005, 0.001]
    given = train(network(), batches(), F.cross_entropy, swa_lr=[0.1, 0.2], **settings)
    assert given.history[-1]["rates"] == [0.1, 0.2]


def test_batches_of_any_form() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear(dtype=torch.float32)

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.net(x)

    dicts = [{"x": x, "labels": y} for x, y in batches()]
    triples = [(y, {"input": x}, "name") for x, y in batches()]
    plain = train(Keyword(), batches(), F.cross_entropy, epochs=2, swa_start=0)
    by_name = train(Keyword(), dicts, F.cross_entropy, epochs=2, swa_start=0)
    own = train(
        Keyword(),
        triples,
        lambda outputs, batch: F.cross_entropy(outputs, batch[0]),
        epochs=2,
        swa_start=0,
        forward=lambda model, batch: model(batch[1]["input"]),
        target=lambda batch: batch,
    )
    assert torch.equal(plain.collector.mean, by_name.collector.mean)
    assert torch.equal(plain.collector.mean, own.collector.mean)
    assert own.ensemble(n_samples=3, seed=0).predict(triples).probs.shape == (N, 3)
    # Rows weigh the same, however they are cut into batches.
    assert train(Keyword(), batches(30), F.cross_entropy, epochs=1, swa_start=0).history[0]["step"] == 2


def test_select_and_an_iterable_without_length() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(batches())

    result = train(
        network(), Stream(), F.cross_entropy, epochs=2, swa_start=0, select=["4"], collect_every=1, rank=0
    )
    assert result.collector.layout.names == ("4.weight", "4.bias") and result.collector.n_collected == 2
    with pytest.raises(InputError, match="collect_every"):
        train(network(), Stream(), F.cross_entropy, epochs=2, collect_every=0.5)


def test_a_loss_that_is_no_number_stops_before_its_step(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    with pytest.raises(DivergedError, match=r"nan at step 7 \(epoch 2\)") as caught:
        train(model, Poisoned(bad=7), F.cross_entropy, epochs=5, swa_start=0, optimizer=sgd)
    assert (caught.value.epoch, caught.value.step) == (2, 7)
    assert isinstance(caught.value, swag.StateError)
    # The weights are those after six steps.
    other = network()
    optimizer = sgd(list(other.parameters()))
    for x, y in [*batches(), *batches()][:6]:
        optimizer.zero_grad()
        F.cross_entropy(other(x), y).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)

    caplog.set_level(logging.ERROR)
    with pytest.raises(DivergedError, match="step 3 "):  # the second of its two batches
        train(network(), Poisoned(bad=6), F.cross_entropy, epochs=2, swa_start=0, accumulate=2)


def test_the_global_generator_is_used_and_never_seeded() -> None:
    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return train(network(dropout=0.4), shuffled(), F.cross_entropy, epochs=1, swa_start=0).swa().mean

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


def other_optimizer() -> torch.optim.Optimizer:
    return sgd(list(network().parameters()))


def plain_schedule(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 2.5}, "epochs"),
        ({"swa_start": 1.01}, "swa_start"),
        ({"swa_start": 3}, r"swa_start.*3/4"),
        ({"swa_start": -0.1}, "swa_start"),
        ({"swa_start": "half"}, "swa_start"),
        ({"swa_lr": 0.0}, "swa_lr"),
        ({"swa_lr": float("nan")}, "swa_lr"),
        ({"swa_lr": [0.1, 0.2]}, "swa_lr"),
        ({"swa_lr": 0.1, "schedule": lambda o: cyclical(o, lr_max=1, lr_min=0.1, cycle=2)}, "swa_lr"),
        ({"collect_every": 0}, "collect_every"),
        ({"collect_every": 3}, "collect_every"),
        ({"collect_every": 0.1}, "collect_every"),
        ({"collect_every": None, "schedule": plain_schedule}, "collect_every"),
        ({"accumulate": 0}, "accumulate"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"rank": -1}, "rank"),
        ({"select": ["nothing"]}, "select"),
        ({"optimizer": 3}, "optimizer"),
        ({"optimizer": lambda parameters: None}, "optimizer"),
        ({"optimizer": other_optimizer()}, "optimizer"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer"),
        ({"schedule": 3}, "schedule"),
        ({"schedule": lambda o: 3}, "schedule"),
        ({"schedule": torch.optim.lr_scheduler.ReduceLROnPlateau}, "schedule"),
        ({"schedule": torch.optim.lr_scheduler.StepLR(other_optimizer(), 1)}, "schedule"),
        ({"train_loader": []}, "train_loader"),
        ({"train_loader": iter(batches())}, "train_loader"),
        ({"train_loader": 3}, "train_loader"),
        ({"validation": 3}, "validation"),
        ({"train_loader": [task()[0]]}, "target="),
        ({"loss": lambda outputs, targets: outputs}, "loss"),
        ({"loss": 3}, "loss"),
        ({"loss": nn.CrossEntropyLoss}, r"loss: got the class CrossEntropyLoss; .* CrossEntropyLoss\(\)"),
        ({"forward": "model"}, "forward"),
        ({"autocast": "bfloat16"}, "autocast"),
        ({"callbacks": print}, "callbacks"),
        ({"callbacks": [3]}, "callbacks"),
        ({"callbacks": [Epoch]}, "callbacks"),
        ({"loss": lambda outputs, targets: 3.0}, "loss"),
    ],
)
def test_refuses(arguments: dict[str, Any], names: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    given: dict[str, Any] = {
        "train_loader": batches(),
        "loss": F.cross_entropy,
        "epochs": 4,
        "swa_start": 0.5,
        **arguments,
    }
    with pytest.raises(InputError, match=names):
        train(model, given.pop("train_loader"), given.pop("loss"), **given)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_refuses_a_network_without_trainable_parameters() -> None:
    with pytest.raises(InputError, match="gradient"):
        train(network().requires_grad_(False), batches(), F.cross_entropy, epochs=2)


class Masked(nn.Module):
    """A network with an attention mask among its buffers, as transformers register it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear(dtype=torch.float32)
        self.register_buffer("mask", torch.zeros(3, 3).fill_diagonal_(-torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_mask_of_minus_infinity_is_no_divergence() -> None:
    model = Masked()
    assert train(model, batches(), F.cross_entropy, epochs=4, swa_start=0.5).collector.n_collected == 2
    assert (model.mask.diagonal() == -torch.inf).all()
    fge(Masked(), batches(), F.cross_entropy, lr_max=0.1, lr_min=0.01, cycle=2, n_snapshots=1)

    def ruin(epoch: Epoch) -> None:
        epoch.model.net.bias.data.fill_(math.nan)

    with pytest.raises(DivergedError):
        train(Masked(), batches(), F.cross_entropy, epochs=2, callbacks=[ruin])

    def ruin_a_buffer(epoch: Epoch) -> None:
        epoch.model[1].running_mean.fill_(math.inf)
        epoch.model[1].eval().momentum = 0.0

    with pytest.raises(DivergedError):
        train(
            network(),
            batches(),
            lambda o, t: F.cross_entropy(o.nan_to_num(), t),
            epochs=3,
            callbacks=[ruin_a_buffer],
        )


def test_equals_the_loop_by_hand_with_torchs_global_generator() -> None:
    """The checks before the training draw no random number."""
    model, other = network(dropout=0.3), network(dropout=0.3)
    torch.manual_seed(3)
    train(model, shuffled(), F.cross_entropy, epochs=2, swa_start=0, optimizer=sgd, validation=batches(20))
    torch.manual_seed(3)
    optimizer, loader = sgd(list(other.parameters())), shuffled()
    for _ in range(2):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(other(x), y).backward()
            optimizer.step()
    same(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_after_a_bad_batch_model_and_gradients_are_as_before_its_step(accumulate: int) -> None:
    model, other = network(), network()
    optimizer = sgd(list(model.parameters()))
    with pytest.raises(DivergedError):
        train(
            model,
            Poisoned(6),
            F.cross_entropy,
            epochs=2,
            swa_start=0,
            optimizer=optimizer,
            accumulate=accumulate,
            swa_lr=0.1,
        )
    good = batches() if accumulate == 2 else [*batches(), batches()[0]]
    train(
        other, good, F.cross_entropy, epochs=1, swa_start=0, optimizer=sgd, accumulate=accumulate, swa_lr=0.1
    )
    same(model.state_dict(), other.state_dict())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_optimizer_used_again_starts_from_its_own_rate_throughout() -> None:
    model = network()
    optimizer = sgd(list(model.parameters()))
    runs = [
        train(model, batches(), F.cross_entropy, epochs=8, swa_start=0.5, optimizer=optimizer) for _ in "ab"
    ]
    assert runs[1].history[0]["rates"] == [0.1] and runs[1].history[-1]["rates"] == [0.05]
    assert [row["rates"] for row in runs[0].history] == [row["rates"] for row in runs[1].history]


def test_one_snapshot_alone_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    train(network(), batches(), F.cross_entropy, epochs=3)
    assert "one snapshot alone" in caplog.text
    caplog.clear()
    train(network(), batches(), F.cross_entropy, epochs=4, swa_start=0.5)
    assert caplog.text == ""


def test_a_schedule_over_the_optimizer_inside_the_swa_optimizer() -> None:
    model = network()
    base = sgd(list(model.parameters()))
    schedule = torch.optim.lr_scheduler.StepLR(base, 1, 0.5)
    wrapped = swag.SWAOptimizer(base)
    result = train(model, batches(), F.cross_entropy, epochs=2, optimizer=wrapped, schedule=schedule)
    assert [row["rates"] for row in result.history] == [[0.1], [0.05]]


@pytest.mark.parametrize("cycle", [1, 2])
def test_a_cyclical_schedule_at_every_step_is_told_how_many_there_are(cycle: int) -> None:
    seen: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    result = train(
        network(),
        batches(),
        F.cross_entropy,
        epochs=4,
        swa_start=0,
        collect_every=None,
        optimizer=lambda parameters: Watched(parameters, lr=0.1),
        schedule=lambda o: EveryStep(cyclical(o, lr_max=0.1, lr_min=0.02, cycle=cycle)),
    )
    n = 4 * cycle
    assert seen == pytest.approx([0.1 - 0.08 * (i % n + 1) / n for i in range(16)], rel=1e-12)
    assert result.collector.n_collected == 4 // cycle


def test_a_schedule_at_every_step_collects_where_it_does_by_the_epoch() -> None:
    def run(schedule: Any) -> list[int]:
        settings: dict[str, Any] = {
            "epochs": 8,
            "swa_start": 0.5,
            "collect_every": None,
            "schedule": schedule,
        }
        return [r["n_collected"] for r in train(network(), batches(), F.cross_entropy, **settings).history]

    for made in (
        lambda o: swag.schedules.swa_paper(o, swa_start=4, swa_lr=0.05),
        lambda o: swag.schedules.constant(o, lr=0.05),
    ):
        by_step = run(lambda o, made=made: EveryStep(made(o)))
        assert by_step == run(made) == [0, 0, 0, 0, 1, 2, 3, 4]
