"""`swag.tune` finds the scale that is right by construction, and says where its grid was too small."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import swag
from swag.parameters import Layout
from tests.cases import batchnorm_1d, features, plain, walk

N_ROWS, VARIANCE = 1000, 4.0


class Constant(nn.Module):
    """One parameter, which is the prediction for every row: y ~ N(bias, σ²)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x))


def constant(scale: float = 1.0) -> swag.LowRankGaussian:
    layout = Layout.of(Constant())
    rows = torch.zeros(0, 1)
    return swag.LowRankGaussian.from_moments(
        torch.zeros(1), torch.full((1,), VARIANCE), rows, scale=scale, layout=layout
    )


def constant_data(variance: float) -> list[tuple[Tensor, Tensor]]:
    """Targets whose marginal is N(0, variance + 1), as a scale of variance/4 says."""
    y = math.sqrt(variance + 1) * torch.randn(N_ROWS, generator=torch.Generator().manual_seed(1))
    return [(torch.zeros(len(part), 1), part) for part in y.split(600)]


def tune_constant(variance: float, **settings: Any) -> Any:
    settings = {"n_samples": 400, "likelihood": swag.HomoscedasticGaussian(1.0), **settings}
    return swag.tune(constant(), Constant(), constant_data(variance), **settings)


@pytest.mark.parametrize("scale", [0.125, 0.5, 2.0])
def test_it_finds_the_scale_the_data_have(scale: float) -> None:
    tuned = tune_constant(VARIANCE * scale, scales=[scale / 4, scale, 4 * scale])
    assert tuned.scale == scale and tuned.at_edge == ()
    assert torch.equal(tuned.posterior.cov_diag, torch.full((1,), VARIANCE * scale))
    # The curve against the exact marginal likelihood, N(0, 4·s + 1).
    y = torch.cat([part for _, part in constant_data(VARIANCE * scale)])
    for point in tuned.curve:
        exact = 0.5 * (
            math.log(2 * math.pi * (VARIANCE * point.scale + 1)) + y.square() / (VARIANCE * point.scale + 1)
        )
        assert point.nll == pytest.approx(float(exact.mean()), rel=0.05)
    best = min(tuned.curve, key=lambda point: point.nll)
    assert (best.scale, best.behind, best.behind_error) == (scale, 0.0, 0.0)
    assert all(point.behind_error > 0 for point in tuned.curve if point is not best)
    assert f"{scale:8.4g}" in str(tuned) and "<- best" in str(tuned)


def test_a_single_scale_is_no_edge() -> None:
    assert tune_constant(100.0, scales=[0.5]).at_edge == ()


@pytest.mark.parametrize(
    ("variance", "words"), [(100.0, "4, is the largest"), (0.0, "0.0625, is the smallest")]
)
def test_it_says_when_the_best_is_at_an_edge(
    variance: float, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "swag"):  # no warning: a grid search fits hundreds of times
        tuned = tune_constant(variance)
    assert len(tuned.at_edge) == 1 and words in tuned.at_edge[0]
    assert words in caplog.text and words in str(tuned)


def collected(model: nn.Module, n: int = 8, rank: int = 6) -> swag.Collector:
    collector = swag.Collector(model, rank)
    for step in walk(model, n):
        collector.collect(step)
    return collector


def val_data(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(features(n, seed=n), torch.randint(3, (n,), generator=generator)) for n in (20, 7)]


@pytest.mark.parametrize("build", [plain, batchnorm_1d])
def test_the_curve_is_that_of_ensembles_built_by_hand(build: Any) -> None:
    model = build()
    collector, data = collected(model), val_data()
    loader = [features(30, seed=5)] if build is batchnorm_1d else None
    scales, ranks = [0.25, 1.0], [0, 3, 6]
    tuned = swag.tune(
        collector.swag(), model, data, scales=scales, ranks=ranks, n_samples=5, bn_loader=loader, seed=3
    )
    assert [(p.rank, p.scale) for p in tuned.curve] == [(rank, scale) for rank in ranks for scale in scales]
    y = torch.cat([labels for _, labels in data])
    for point in tuned.curve:
        posterior = collector.swag().truncated(point.rank).with_scale(point.scale)
        ensemble = swag.Ensemble(model, posterior, 5, bn_loader=loader, seed=3)
        log_probs = ensemble.predict([x for x, _ in data]).log_probs
        assert point.nll == pytest.approx(-float(log_probs[torch.arange(27), y].mean()), rel=1e-4)
    best = min(tuned.curve, key=lambda point: point.nll)
    assert (
        (tuned.scale, tuned.rank) == (best.scale, best.rank) == (tuned.posterior.scale, tuned.posterior.rank)
    )


@pytest.mark.parametrize(("n", "rank", "smaller"), [(8, 6, 3), (8, 6, 2), (5, 20, 4), (20, 6, 5)])
def test_truncation_is_what_a_smaller_rank_collects(n: int, rank: int, smaller: int) -> None:
    model = plain()
    whole = collected(copy.deepcopy(model), n, rank).swag()
    less = collected(copy.deepcopy(model), n, smaller).swag()
    cut = whole.truncated(smaller)
    assert torch.equal(cut.rows, less.rows) and torch.equal(cut.cov_diag, less.cov_diag)
    assert cut.row_scale == pytest.approx(less.row_scale)
    assert cut.n_collected == n and whole.truncated(0).rank == 0
    assert torch.equal(whole.truncated(whole.rank).rows, whole.rows)
    for bad in (1, -1, whole.rank + 1, True, 2.0):
        with pytest.raises(swag.InputError, match="rank: got"):
            whole.truncated(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.0, 0.25, 0.3, 2.0])
def test_with_scale_is_what_is_read_out_at_that_scale(scale: float) -> None:
    collector = collected(plain())
    got, expected = collector.swag(0.5).with_scale(scale), collector.swag(scale)
    torch.testing.assert_close(got.cov_diag, expected.cov_diag)
    assert got.row_scale == pytest.approx(expected.row_scale) and got.scale == scale
    if scale == 0:
        with pytest.raises(swag.InputError, match="leaves no covariance"):
            got.with_scale(1.0)


def test_a_mixture_is_tuned_as_one() -> None:
    parts = [collected(plain(), seed_n).swag() for seed_n in (6, 8)]
    mixture = swag.Mixture(parts, [0.25, 0.75])
    tuned = swag.tune(mixture, plain(), val_data(), scales=[0.5, 1.0], ranks=[0, 3], n_samples=8)
    assert [p.rank for p in tuned.posterior.posteriors] == [tuned.rank] * 2
    assert torch.equal(tuned.posterior.weights, mixture.weights)
    ensemble = swag.Ensemble(plain(), tuned.posterior, 8, seed=0)
    log_probs = ensemble.predict([x for x, _ in val_data()]).log_probs
    y = torch.cat([labels for _, labels in val_data()])
    best = min(tuned.curve, key=lambda point: point.nll)
    assert best.nll == pytest.approx(-float(log_probs[torch.arange(27), y].mean()), rel=1e-4)


def test_draws_are_made_once_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    sample = swag.LowRankGaussian.sample

    def counted(self: Any, n: int = 1, *, generator: Any = None) -> Tensor:
        drawn.append(self.rank)
        return sample(self, n, generator=generator)

    monkeypatch.setattr(swag.LowRankGaussian, "sample", counted)
    reads = []

    class Loader:
        def __iter__(self) -> Any:
            reads.append(1)
            return iter(val_data())

    swag.tune(collected(plain()).swag(), plain(), Loader(), ranks=[0, 3], n_samples=4)
    assert drawn == [0, 3] and len(reads) == 1


def test_the_model_and_the_posterior_stay_as_they_are() -> None:
    model = plain()
    posterior = collected(model).swag()
    before = [t.clone() for t in (*model.parameters(), posterior.mean, posterior.rows, posterior.cov_diag)]
    swag.tune(posterior, model, val_data(), n_samples=4)
    after = (*model.parameters(), posterior.mean, posterior.rows, posterior.cov_diag)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_complaints() -> None:
    model = plain()
    posterior, data = collected(model).swag(), val_data()
    x, y = data[0]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"posterior": swag.PointMass(posterior.mean)}, "has no scale"),
        ({"posterior": swag.Mixture([swag.PointMass(posterior.mean)])}, "has no scale"),
        ({"posterior": posterior.with_scale(0.0)}, "scale 0"),
        ({"scales": []}, "nothing to try"),
        ({"scales": [0.0, 1.0]}, "0 is SWA"),
        ({"scales": [-1.0]}, "scale: got -1.0"),
        ({"ranks": [1]}, "rank: got 1"),
        ({"n_samples": 0}, "n_samples"),
        ({"val_loader": []}, "val_loader"),
        ({"val_loader": iter([])}, "val_loader: gave no batch"),
        ({"val_loader": [(x, y.float())]}, "class indices"),
        ({"val_loader": [(x, y + 3)]}, "labels: from"),
        ({"val_loader": [(x, y[:3])]}, "class indices"),
        ({"val_loader": [(x, "labels")]}, "labels: got a str"),
    ]
    for change, match in cases:
        settings: dict[str, Any] = {
            "posterior": posterior,
            "model": model,
            "val_loader": data,
            "n_samples": 2,
        }
        with pytest.raises(swag.InputError, match=match):
            swag.tune(**{**settings, **change})
