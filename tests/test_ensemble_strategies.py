"""Every way of running members gives what the plain loop gives, and falls back where it cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag.forwarding import Forwarding
from tests import cases

# Reordered float32 sums over a few layers: outputs of order 1 agree to some 1e-6, probabilities better.
ROUNDING = 2e-6
PLAIN = swag.Loop(fast=False)


class Residual(nn.Module):
    """Convolutions with batch norm after them, a skip connection, dropout, a flattening `reshape`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(6 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.first(x)))
        h = F.relu(h + self.norm2(self.second(h)))
        return self.head(self.dropout(F.avg_pool2d(h, 2).reshape(len(x), -1)))


class Viewing(Residual):
    """`view` instead of `reshape`, which a channels_last tensor refuses."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm2(self.second(F.relu(self.norm1(self.first(x))))))
        return self.head(F.avg_pool2d(h, 2).view(len(x), -1))


class UsedTwice(Residual):
    """The convolution's output is used before batch norm too: folding would change the model."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = self.norm2(self.second(h + self.norm1(h)))
        return self.head(F.avg_pool2d(h, 2).reshape(len(x), -1))


class Branching(Residual):
    """Control flow that depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out * 2 if out.sum() > 0 else out


def images(n: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def lived_in(build: Callable[[], nn.Module] = Residual) -> tuple[nn.Module, swag.LowRankGaussian]:
    torch.manual_seed(0)
    model = build().eval()
    collector = swag.Collector(model, rank=5)
    for _ in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        collector.collect(model)
    return model, collector.swag()


def ensemble(build: Callable[[], nn.Module] = Residual, n: int = 5, **options: object) -> swag.Ensemble:
    model, posterior = lived_in(build)
    return swag.Ensemble(model, posterior, n, bn_loader=[images(20, 1), images(9, 2)], seed=3, **options)  # type: ignore


@pytest.mark.parametrize(
    "strategy", [swag.Loop(), swag.Vmapped(1), swag.Vmapped(2), swag.Vmapped(50), None], ids=repr
)
@pytest.mark.parametrize("build", [Residual, Viewing, UsedTwice, Branching])
def test_every_strategy_gives_what_the_plain_loop_gives(
    build: Callable[[], nn.Module], strategy: swag.Loop | swag.Vmapped | None
) -> None:
    plain, other = ensemble(build, strategy=PLAIN), ensemble(build, strategy=strategy)
    for x in (images(), images(3, 7)):
        torch.testing.assert_close(other(x).probs, plain(x).probs, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(
        other.predict([images(4), images(8)]).probs,
        plain.predict([images(4), images(8)]).probs,
        rtol=0,
        atol=ROUNDING,
    )


def test_the_fast_ways_are_taken_where_they_can_be_and_dropped_where_not() -> None:
    def taken(build: Callable[[], nn.Module]) -> tuple[bool, int]:
        made = ensemble(build)
        made(images())
        forwarding: Forwarding = made._forwarding
        return forwarding._relaid, len(forwarding._folding or ())

    assert taken(Residual) == (True, 2)
    assert taken(Viewing) == (False, 2)
    assert taken(UsedTwice) == (True, 1)  # the second pair, whose output is used once


def test_frozen_convolutions_are_folded_anew_for_each_member() -> None:
    """Weights that members do not exchange must not pile up the scales of earlier members."""
    model, _ = lived_in()
    collector = swag.Collector(model, 3, select=["head", "norm1"])
    for _ in range(4):
        for parameter in (*model.head.parameters(), *model.norm1.parameters()):  # type: ignore[union-attr]
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        collector.collect(model)
    made = [
        swag.Ensemble(model, collector.swag(), 4, bn_loader=[images(20, 1)], seed=0, strategy=strategy)
        for strategy in (PLAIN, swag.Loop())
    ]
    for _ in range(3):
        torch.testing.assert_close(made[1](images()).probs, made[0](images()).probs, rtol=0, atol=ROUNDING)
    # A member that is taken out holds its own weights, not folded ones.
    expected, member = made[0].member(2), made[1].member(2)
    for (name, a), b in zip(expected.state_dict().items(), member.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6, msg=name)
    assert expected.first.bias is None and member.first.bias is None


def test_what_vmap_cannot_run_falls_back_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ensemble(Branching, strategy=swag.Vmapped(2))(images())
    assert "vmap cannot run this model" in caplog.text


def test_out_of_memory_halves_the_chunk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import swag.vectorised as vectorised

    run, sizes = vectorised._run, []

    def limited(members: object, caller: object, batch: object, start: int, stop: int) -> Tensor:
        sizes.append(stop - start)
        if stop - start > 2:
            raise torch.OutOfMemoryError("too much at once")
        return run(members, caller, batch, start, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(vectorised, "_run", limited)
    with caplog.at_level(logging.WARNING):
        got = ensemble(strategy=swag.Vmapped(8))(images())
    assert sizes == [5, 4, 2, 2, 1] or sizes == [5, 4, 2, 2, 1, 1]
    assert "2 fit" in caplog.text
    torch.testing.assert_close(got.probs, ensemble(strategy=PLAIN)(images()).probs, rtol=0, atol=ROUNDING)


def test_not_even_one_member_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    import swag.vectorised as vectorised

    def never(*args: object) -> Tensor:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(vectorised, "_run", never)
    with pytest.raises(swag.InputError, match=r"one member at a time.*smaller\s+batches"):
        ensemble(strategy=swag.Vmapped(8))(images())


def test_custom_forward_and_dicts_go_through_vmap() -> None:
    model, posterior = lived_in()
    batch = {"pixels": images(), "note": 3}
    made = [
        swag.Ensemble(
            model,
            posterior,
            4,
            bn_loader=[batch],
            seed=0,
            forward=lambda model, batch: model(batch["pixels"]),
            strategy=strategy,
        )(batch).probs
        for strategy in (PLAIN, swag.Vmapped(3))
    ]
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=ROUNDING)


def test_tune_measures_and_changes_no_prediction() -> None:
    made = ensemble()
    before = made(images()).probs
    seconds = made.tune(images(), repeats=1)
    assert list(seconds.values()) == sorted(seconds.values()) and min(seconds.values()) > 0
    assert {"Loop(fast=True)", "Loop(fast=False)", "Vmapped(chunk=4)"} <= set(seconds)
    torch.testing.assert_close(made(images()).probs, before, rtol=0, atol=ROUNDING)


def test_autocast_is_near_and_its_error_is_reported() -> None:
    exact, cast = ensemble(strategy=PLAIN), ensemble(autocast=torch.bfloat16)
    x = images(64, 5)
    error = cast.autocast_error(x, n_samples=3)
    # bfloat16 carries 8 bits: 0.4 % a rounding, over three layers a few percent of a logit at most.
    assert 0 < error.mean < 0.02 and error.maximum < 0.1 and error.n_samples == 3
    assert float((cast(x).probs - exact(x).probs).abs().mean()) < 0.02
    assert cast(x).probs.dtype == torch.float32
    assert exact.autocast_error(x).mean < ROUNDING


def test_batchnorm_error_estimate() -> None:
    loader, x = [images(60, seed) for seed in (1, 2, 3)], images(50, 9)
    model, posterior = lived_in()
    exact = swag.Ensemble(model, posterior, 6, bn_loader=loader, seed=0)
    assert exact.bn_error_estimate(x, loader).mean < ROUNDING
    kept = swag.Ensemble(model, posterior, 6, bn_loader=loader, seed=0, batchnorm=swag.KeepBatchNorm())
    near = swag.Ensemble(
        model,
        posterior,
        6,
        bn_loader=loader,
        seed=0,
        batchnorm=swag.ControlVariateBatchNorm(rows=90, fresh=False),
    )
    estimate = near.bn_error_estimate(x, loader, n_samples=6)
    assert float((near(x).probs - exact(x).probs).abs().mean()) == pytest.approx(estimate.mean, abs=ROUNDING)
    assert 0 < estimate.mean < float((kept(x).probs - exact(x).probs).abs().mean())
    assert estimate.ratio == estimate.mean / estimate.monte_carlo


class TestAuto:
    def test_draws_as_many_as_the_tolerance_takes(self) -> None:
        pilot = ensemble(n=8)(images()).monte_carlo_error
        made = ensemble(n="auto", tolerance=pilot / 2)  # type: ignore[arg-type]
        predictive = made(images())
        assert made.n_samples == predictive.n_samples == 32  # half the error, four times the members
        # The standard error with 8 members is known to 1/√14 = 27 %: three of those above the aim.
        assert predictive.monte_carlo_error < pilot / 2 * 1.8
        # They are the members of a fixed number: one sequence for one seed.
        torch.testing.assert_close(predictive.probs, ensemble(n=32)(images()).probs, rtol=0, atol=ROUNDING)
        assert made(images(3)).n_samples == 32

    def test_enough_at_once(self) -> None:
        assert ensemble(n="auto", tolerance=0.9)(images()).n_samples == 8  # type: ignore[arg-type]

    def test_says_when_the_most_is_not_enough(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            made = ensemble(n="auto", tolerance=1e-5, max_samples=12)  # type: ignore[arg-type]
            assert made(images()).n_samples == 12
        assert "max_samples=12" in caplog.text

    def test_points_stay_points(self) -> None:
        model, posterior = lived_in()
        point = swag.PointMass(posterior.mean, layout=posterior.layout)
        made = swag.Ensemble(model, point, "auto", bn_loader=[images(20, 1)])
        assert made(images()).n_samples == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tolerance": 0.0}, "tolerance: got 0.0"),
            ({"tolerance": 2.0}, "tolerance: got 2.0"),
            ({"max_samples": 3}, "max_samples: got 3"),
        ],
    )
    def test_bad_settings(self, options: dict[str, float], message: str) -> None:
        with pytest.raises(swag.InputError, match=message):
            ensemble(n="auto", **options)  # type: ignore[arg-type]

    def test_a_loader_that_can_be_read_once(self) -> None:
        model, posterior = lived_in()
        with pytest.raises(swag.InputError, match=r"bn_loader: is an iterator.*DataLoader"):
            swag.Ensemble(model, posterior, "auto", bn_loader=iter([images()]))


def test_monte_carlo_error_is_that_of_repeated_averages() -> None:
    model, posterior = lived_in()
    loader, x = [images(30, 1)], images(40, 4)
    averages, errors = [], []
    for seed in range(40):
        predictive = swag.Ensemble(
            model, posterior, 6, bn_loader=loader, seed=seed, batchnorm=swag.KeepBatchNorm()
        )(x)
        averages.append(predictive.probs)
        errors.append(predictive.monte_carlo_error)
    spread = float(torch.stack(averages).std(0).amax(1).mean())
    # The spread of 40 averages is known to 1/√78 = 11 %, less over rows; the largest over classes of six
    # members' own errors is biased by a few percent the other way.
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.25)


def test_a_module_with_two_names_is_whole_after_vmap() -> None:
    model = cases.SharedBatchNorm()
    x, layout = cases.features(8), swag.Layout.of(model)
    mean = layout.flatten(model)
    posterior = swag.LowRankGaussian(
        mean, torch.full_like(mean, 0.01), mean.new_zeros(len(mean), 0), layout=layout
    )
    ensemble = swag.Ensemble(
        model, posterior, 4, bn_loader=[x], seed=0, batchnorm=swag.ExactBatchNorm(), strategy=swag.Vmapped(2)
    )
    plain = swag.Ensemble(
        model, posterior, 4, bn_loader=[x], seed=0, batchnorm=swag.ExactBatchNorm(), strategy=swag.Loop()
    )
    torch.testing.assert_close(ensemble(x).probs, plain(x).probs, rtol=0, atol=1e-6)
    member = ensemble.member(0)
    torch.testing.assert_close(member(x).softmax(-1), plain.member(0)(x).softmax(-1), rtol=0, atol=1e-6)
