"""Every average against its definition, term by term in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn

import swag
from swag.training.averages import Average, RunningAverage, Swap
from swag.training.custom_average import CustomAverage
from swag.training.rules import EMA, DebiasedEMA, Equal, Rule
from swag.training.triggers import NonMonotonicTrigger
from swag.training.window_average import WindowAverage
from tests.cases import CASES, Case, features, walk

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.002),
}


def weights(rule: str, n: int) -> list[float]:
    """The weight of each of n snapshots in the average, from the definitions."""
    if rule == "equal":
        return [1 / n] * n
    d = 0.9
    if rule == "ema":
        return [d ** (n - 1)] + [(1 - d) * d ** (n - i) for i in range(2, n + 1)]
    if rule == "debiased":
        raw = [d ** (n - i) for i in range(1, n + 1)]
        return [w / sum(raw) for w in raw]
    if rule == "warm":
        decays = [min(d, (1 + k) / (10 + k)) for k in range(n)]  # k snapshots before
        found = [1.0] + [0.0] * (n - 1)
        for k in range(1, n):
            found = [w * decays[k] for w in found]
            found[k] += 1 - decays[k]
        return found
    assert rule == "window"
    return [0.0] * (n - min(n, 4)) + [1 / min(n, 4)] * min(n, 4)


MADE: dict[str, Callable[[nn.Module], Average]] = {
    "equal": lambda m: RunningAverage(m),
    "ema": lambda m: RunningAverage(m, EMA(0.9)),
    "debiased": lambda m: RunningAverage(m, DebiasedEMA(0.9)),
    "warm": lambda m: RunningAverage(m, EMA(0.9, warmup=9)),
    "window": lambda m: WindowAverage(m, 4),
}
CUSTOM: dict[str, Callable[[nn.Module], Average]] = {
    "custom_equal": lambda m: CustomAverage(m, get_swa_avg_fn()),
    "custom_ema": lambda m: CustomAverage(m, get_ema_avg_fn(0.9)),
}
ALL = {**MADE, **CUSTOM}


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def trained(model: nn.Module, make: Callable[[Any], torch.optim.Optimizer], n: int) -> Iterator[Tensor]:
    optimizer = make(model.parameters())
    for i in range(n):
        optimizer.zero_grad()
        F.cross_entropy(model(features(16, seed=i)), torch.arange(16) % 3).backward()
        optimizer.step()
        yield torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_average_is_its_weighted_sum(name: str, optimizer: str) -> None:
    model = net()
    average = MADE[name](model)
    seen: list[Tensor] = []
    for theta in trained(model, OPTIMIZERS[optimizer], 30):
        average.collect(model)
        seen.append(theta)
        assert average.n_collected == len(seen)
        w = torch.tensor(weights(name, len(seen)), dtype=torch.float64)
        assert float(w.sum()) == pytest.approx(1)
        torch.testing.assert_close(
            average.mean.double(), (w[:, None] * torch.stack(seen)).sum(0), rtol=4e-7, atol=1.2e-7
        )
    assert not torch.allclose(average.mean.double(), seen[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Equal(), {}), (EMA(0.9), {"avg_fn": get_ema_avg_fn(0.9)})], ids=["equal", "ema"]
)
def test_torchs_averaged_model_agrees(ours: Rule, theirs: dict[str, Any]) -> None:
    model = net()
    average, peer = RunningAverage(model, ours), AveragedModel(model, **theirs)
    for _ in trained(model, OPTIMIZERS["sgd"], 20):
        average.collect(model)
        peer.update_parameters(model)
    torch.testing.assert_close(average.mean, average.layout.flatten(peer), rtol=1e-5, atol=1e-6)


def test_the_collectors_mean_agrees_and_it_is_an_average_too() -> None:
    model = net()
    average, collector = RunningAverage(model), swag.Collector(model, rank=0)
    for _ in walk(model, 12):
        average.collect(model)
        collector.collect(model)
    torch.testing.assert_close(average.mean, collector.mean, rtol=1e-6, atol=1e-7)
    Swap(model, collector)()
    assert torch.equal(average.layout.flatten(model), collector.mean)


@pytest.mark.parametrize("name", ["equal", "window"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_odd_models(case: Case, name: str) -> None:
    model = case.build()
    average, seen = ALL[name](model), []
    for _ in walk(model, 4):
        average.collect(model)
        seen.append(average.layout.flatten(model).double())
    truth = torch.stack(seen).mean(0)
    torch.testing.assert_close(average.mean.double(), truth, rtol=1e-6, atol=1e-6)
    assert average.swa().layout is average.layout


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    model = net().to(dtype)
    average = ALL[name](model)
    for _ in walk(model, 3):
        average.collect(model)
    assert average.mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    with average.applied(model):
        assert torch.equal(average.layout.flatten(model), average.mean.to(dtype).to(average.mean.dtype))


def test_a_thousand_bfloat16_snapshots() -> None:
    """torch's AveragedModel averages in bfloat16 and ends far away."""
    model, seen = nn.Linear(4, 4, bias=False).bfloat16(), []
    average, peer = RunningAverage(model), AveragedModel(model)
    generator = torch.Generator().manual_seed(0)
    for i in range(1000):
        with torch.no_grad():
            model.weight.copy_(1 + i / 1000 + torch.randn(4, 4, generator=generator) * 0.01)
        average.collect(model)
        peer.update_parameters(model)
        seen.append(model.weight.detach().double().reshape(-1))
    truth = torch.stack(seen).mean(0)
    torch.testing.assert_close(average.mean.double(), truth, rtol=1e-6, atol=1e-6)
    assert (peer.module.weight.double().reshape(-1) - truth).abs().min() > 0.05


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("at", [0, 1, 3, 9])
def test_a_state_goes_on_bit_for_bit(name: str, at: int, tmp_path: Any) -> None:
    model = net()
    average = ALL[name](model)
    steps = [average.layout.flatten(m) for m in walk(model, 14)]
    other = ALL[name](model)
    for i, theta in enumerate(steps):
        if i == at:
            torch.save(average.state_dict(), tmp_path / "state.pt")
            other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            assert other.n_collected == at
        average.layout.write_(model, theta)
        average.collect(model)
        if i >= at:
            other.collect(model)
            assert torch.equal(other.mean, average.mean)


@pytest.mark.parametrize("name", ALL)
def test_a_state_is_a_copy(name: str) -> None:
    model = net()
    average = ALL[name](model)
    for _ in walk(model, 2):
        average.collect(model)
    state, mean = average.state_dict(), average.mean
    for _ in walk(model, 6, seed=1):
        average.collect(model)
    average.load_state_dict(state)
    assert torch.equal(average.mean, mean)
    average.mean.zero_()
    assert torch.equal(average.mean, mean)


@pytest.mark.parametrize("name", ALL)
def test_weights_that_are_not_finite_change_nothing(name: str) -> None:
    model = net()
    average = ALL[name](model)
    for _ in walk(model, 3):
        average.collect(model)
    mean = average.mean
    for value in (math.nan, math.inf):
        good = model[2].weight.detach().clone()
        with torch.no_grad():
            model[2].weight[1, 1] = value
        with pytest.raises(swag.InputError, match=r"'2\.weight' holds NaN or infinite"):
            average.collect(model)
        with torch.no_grad():
            model[2].weight.copy_(good)
    assert average.n_collected == 3 and torch.equal(average.mean, mean)
    average.collect(model)
    assert average.n_collected == 4


@pytest.mark.parametrize("name", ALL)
def test_before_any_snapshot_and_other_models(name: str) -> None:
    model = net()
    average = ALL[name](model)
    for call in (lambda: average.mean, average.swa, lambda: average.applied(model)):
        with pytest.raises(swag.StateError, match="no snapshot yet"):
            call()
    with pytest.raises(swag.InputError, match="same architecture"):
        average.collect(nn.Linear(8, 3))
    assert average.n_collected == 0


@pytest.mark.parametrize("name", ALL)
def test_states_that_do_not_fit(name: str) -> None:
    model = net()
    average = ALL[name](model)
    for _ in walk(model, 5):
        average.collect(model)
    mean, good = average.mean, average.state_dict()
    other = ALL[name](nn.Linear(8, 3))
    bad = [{}, None, {**good, "version": 0}, other.state_dict()]
    if "average" in good:
        bad += [
            {**good, "rule": {"name": "other"}},
            {**good, "average": {**good["average"], "origin": torch.zeros(2)}},
            {**good, "average": {**good["average"], "offset_mean": mean * math.nan}},
            {**good, "average": {}},
        ]
    else:
        bad += [{**good, "n_collected": -1}, {**good, "n_collected": None}]
        bad += [{key: value for key, value in good.items() if key not in ("ring", "mean")}]
    for state in bad:
        with pytest.raises(swag.InputError, match="state: "):
            average.load_state_dict(state)  # type: ignore[arg-type]
        assert torch.equal(average.mean, mean) and average.n_collected == 5


def test_a_state_of_another_window() -> None:
    model = net()
    state = WindowAverage(model, 3).state_dict()
    with pytest.raises(swag.InputError, match="state: its window is 3"):
        WindowAverage(model, 4).load_state_dict(state)


def test_select_and_device() -> None:
    model = net()
    average = RunningAverage(model, EMA(), select=["2"], device="cpu")
    average.collect(model)
    assert average.layout.names == ("2.weight", "2.bias")
    frozen = net()
    frozen[0].requires_grad_(False)
    assert WindowAverage(frozen, 2).layout.names == ("2.weight", "2.bias")


@pytest.mark.parametrize("name", ALL)
def test_in_inference_mode_and_out_of_it(name: str) -> None:
    model = net()
    average = ALL[name](model)
    seen = []
    for i, _ in enumerate(walk(model, 6)):
        with torch.inference_mode(i % 2 == 0):
            average.collect(model)
        seen.append(average.layout.flatten(model))
    reference = ALL[name](model)
    for theta in seen:
        reference.layout.write_(model, theta)
        reference.collect(model)
    assert torch.equal(average.mean, reference.mean)


def test_the_average_predicts() -> None:
    model = net()
    average = RunningAverage(model, DebiasedEMA(0.8))
    for _ in walk(model, 5):
        average.collect(model)
    ensemble = swag.Ensemble(model, average.swa(), n_samples=1, seed=0)
    with average.applied(model), torch.no_grad():
        expected = model(features()).softmax(1)
    torch.testing.assert_close(ensemble(features()).probs.float(), expected, rtol=1e-5, atol=1e-6)


# A user's own rules.


def test_a_rule_of_the_users_own() -> None:
    class Halves:
        def share(self, n: int) -> float:
            return 1.0 if n == 1 else 0.5

    model = nn.Linear(1, 1, bias=False)
    average = RunningAverage(model, Halves())  # type: ignore[arg-type]
    for value in (8.0, 4.0, 2.0):
        nn.init.constant_(model.weight, value)
        average.collect(model)
    assert average.mean.tolist() == [4.0]
    average.load_state_dict(average.state_dict())
    with pytest.raises(swag.InputError, match="averaged by"):
        RunningAverage(model).load_state_dict(average.state_dict())


def test_avg_fn_gets_one_parameter_at_a_time_as_in_torch() -> None:
    calls: list[tuple[Any, ...]] = []

    def avg_fn(average: Tensor, current: Tensor, n: Tensor) -> Tensor:
        calls.append((tuple(average.shape), tuple(current.shape), int(n), average.requires_grad))
        return average * 0.5 + current * 0.5

    model = net()
    average, peer = CustomAverage(model, avg_fn), AveragedModel(model, avg_fn=avg_fn)
    for _ in walk(model, 2):
        average.collect(model)
    ours, calls = calls, []
    for _ in walk(model, 2):
        peer.update_parameters(model)
    assert ours == calls and [shape for shape, *_ in ours] == [(5, 8), (5,), (3, 5), (3,)]


@pytest.mark.parametrize(
    ("avg_fn", "complaint"),
    [
        (lambda a, c, n: a.sum(), r"avg_fn: returned \(\)"),
        (lambda a, c, n: 3.0, "avg_fn: returned float"),
        (lambda a, c, n: a * math.nan, "avg_fn: returned NaN"),
    ],
)
def test_what_avg_fn_may_not_return(avg_fn: Any, complaint: str) -> None:
    model = net()
    average = CustomAverage(model, avg_fn)
    average.collect(model)
    mean = average.mean
    with pytest.raises(swag.InputError, match=complaint):
        average.collect(model)
    assert average.n_collected == 1 and torch.equal(average.mean, mean)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: EMA(1.5), "decay: got 1.5"),
        (lambda: EMA(-0.1), "decay: got -0.1"),
        (lambda: EMA(math.nan), "decay: got nan"),
        (lambda: EMA(0.9, warmup=-1), "warmup: got -1"),
        (lambda: DebiasedEMA(1.0), "decay: got 1"),
        (lambda: RunningAverage(net(), EMA), "rule: got"),  # type: ignore[arg-type]
        (lambda: RunningAverage(net(), 0.99), "rule: got 0.99"),  # type: ignore[arg-type]
        (lambda: RunningAverage(net(), select=["9"]), "select"),
        (lambda: WindowAverage(net(), 0), "k: got 0"),
        (lambda: WindowAverage(net(), 2.0), "k: got 2.0"),  # type: ignore[arg-type]
        (lambda: CustomAverage(net(), None), "avg_fn: got None"),  # type: ignore[arg-type]
        (lambda: NonMonotonicTrigger(0), "patience: got 0"),
        (lambda: NonMonotonicTrigger().observe(math.nan), "loss: got nan"),
        (lambda: NonMonotonicTrigger().observe(torch.tensor(1.0)), "loss: got tensor"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(swag.InputError, match=complaint):
        make()


# NT-ASGD's trigger.


def by_the_paper(losses: list[float], n: int) -> int:
    """Algorithm 1 of Merity et al.: where v > min of logs[0 … t − n − 1], with t losses logged before."""
    logs: list[float] = []
    for t, value in enumerate(losses):
        if t > n and value > min(logs[: t - n]):
            return t
        logs.append(value)
    return len(losses)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("patience", [1, 3, 5])
def test_the_trigger_fires_when_the_best_is_old(seed: int, patience: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(60, generator=generator) * 0.05
    losses = [1 / (1 + 0.2 * i) + float(noise[i]) for i in range(60)]
    trigger = NonMonotonicTrigger(patience)
    fired = [trigger.observe(loss) for loss in losses]
    first = by_the_paper(losses, patience)
    assert fired == [t >= first for t in range(60)]
    assert trigger.triggered == (first < 60)


def test_the_trigger_never_fires_while_it_improves() -> None:
    trigger = NonMonotonicTrigger(2)
    assert not any(trigger.observe(1 / (1 + i)) for i in range(50))
    assert not trigger.triggered


def test_the_triggers_state_goes_on() -> None:
    losses = [3.0, 2.0, 1.5, 1.8, 1.9, 2.2, 1.0]
    whole = NonMonotonicTrigger(3)
    expected = [whole.observe(loss) for loss in losses]
    assert expected == [False] * 5 + [True] * 2
    for at in range(len(losses)):
        first, second = NonMonotonicTrigger(3), NonMonotonicTrigger(3)
        seen = [first.observe(loss) for loss in losses[:at]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert seen + [second.observe(loss) for loss in losses[at:]] == expected
    for state in ({}, {**whole.state_dict(), "patience": 4}):
        with pytest.raises(swag.InputError, match="state: "):
            whole.load_state_dict(state)


@pytest.mark.parametrize("share", [math.nan, -0.1, 1.5, None, "0.5", True, math.inf])
def test_a_share_that_is_none_is_refused_and_changes_nothing(share: object) -> None:
    class Bad:
        given: object = 0.5

        def share(self, n: int) -> object:
            return self.given

    model, rule = nn.Linear(2, 1), Bad()
    average = RunningAverage(model, rule)  # type: ignore[arg-type]
    for _ in range(2):
        average.collect(model)
    before, rule.given = average.mean, share
    with pytest.raises(swag.InputError, match=r"rule: .* the share"):
        average.collect(model)
    assert torch.equal(average.mean, before) and average.n_collected == 2
    rule.given = 1
    average.collect(model)
    assert average.n_collected == 3


@pytest.mark.parametrize("make", [lambda m: WindowAverage(m, 2), lambda m: RunningAverage(m, EMA(0.5))])
def test_a_large_first_snapshot_is_forgotten_to_the_last_bit(make: Any) -> None:
    model = nn.Linear(1, 1, bias=False)
    average = make(model)
    for value in (1e4, *[2e-4] * 80):
        nn.init.constant_(model.weight, value)
        average.collect(model)
    assert average.mean.item() == pytest.approx(2e-4, rel=1e-6)
    again = make(model)
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.mean, average.mean)


def test_a_window_of_close_snapshots_far_from_zero_keeps_their_differences() -> None:
    """Summed as they are, 64 numbers near 1e4 would lose what they differ by."""
    model = nn.Linear(1, 1, bias=False)
    average = WindowAverage(model, 64)
    values = [1e4 + i / 1024 for i in range(100)]
    for value in values:
        nn.init.constant_(model.weight, value)
        average.collect(model)
    expected = sum(float(torch.tensor(v)) for v in values[-64:]) / 64
    assert average.mean.item() == float(torch.tensor(expected))
