"""Losses a row: the average of densities against numpy, its error against repeats, and in an ensemble."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag.predictive import Pointwise, PointwiseAccumulator, PointwisePredictive, Predictive
from tests.cases import walk
from tests.losses import average_of_losses


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 2_000.0], ids=["usual", "far below what exp can give"])
def test_the_mean_of_densities(dtype: torch.dtype, offset: float) -> None:
    losses = (seeded(7, 50).abs() * 3 + offset).to(dtype)
    found = average_of_losses(losses)
    exact = losses.double().numpy()
    expected = logsumexp(-exact, axis=0) - math.log(7)
    # What the dtype kept of numbers as large as these, a few times over.
    eps = float(torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps)
    tolerance = 8 * eps * (offset + 10)
    np.testing.assert_allclose(found.log_density.double().numpy(), expected, rtol=0, atol=tolerance)
    ratios = np.exp(-exact - expected)
    np.testing.assert_allclose(
        found.relative_variance.double().numpy(),
        ratios.var(0),
        rtol=1e-3 if offset else 1e-4,
        atol=7 * tolerance,
    )
    assert (found.n_rows, found.n_samples) == (50, 7)
    assert found.nll == pytest.approx(-expected.mean(), abs=tolerance)
    if not offset:
        assert found.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-5)
    assert isinstance(found, Predictive)


@pytest.mark.parametrize("nats", [5.0, 3_000.0])
def test_members_that_agree_have_no_error(nats: float) -> None:
    losses = (nats * (0.5 + seeded(200).abs())).float().expand(30, -1)
    found = average_of_losses(losses)
    assert found.monte_carlo_error == 0 and torch.equal(found.log_density, -losses[0])
    assert found.perplexity == (math.inf if nats > 709 else pytest.approx(math.exp(found.nll)))


def test_its_monte_carlo_error_is_that_of_repeated_ensembles() -> None:
    """S members a thousand times: the spread of log p̄ is the error that one of them tells."""
    s, repeats = 50, 1_000
    losses = 0.3 * seeded(repeats, s, 4)
    means = torch.stack([average_of_losses(one).log_density for one in losses])
    told = torch.tensor([average_of_losses(one).monte_carlo_error for one in losses], dtype=torch.float64)
    seen = float(means.std(0).mean())
    # A deviation of 4 columns of a thousand is known to 1/√(2·4·1000) of itself, 1.1 %; five times that, and
    # what the logarithm bends: 1/(2S).
    assert float(told.mean()) == pytest.approx(seen, rel=5 * 0.011 + 1 / (2 * s))
    assert math.isnan(average_of_losses(losses[0, :1]).monte_carlo_error)


def test_impossible_targets() -> None:
    losses = torch.tensor([[math.inf, math.inf, 1.0], [math.inf, 0.0, 1.0]])
    found = average_of_losses(losses)
    assert found.log_density.tolist() == pytest.approx([-math.inf, math.log(0.5), -1.0])
    assert found.relative_variance.tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    assert found.nll == math.inf


def test_parts_and_devices() -> None:
    losses = seeded(3, 10).abs()
    whole = average_of_losses(losses)
    joined = PointwisePredictive.concatenate(
        [average_of_losses(losses[:, :4]), average_of_losses(losses[:, 4:])]
    )
    assert torch.equal(joined.log_density, whole.log_density)
    assert torch.equal(joined.relative_variance, whole.relative_variance)
    assert whole.to("meta").log_density.device.type == "meta"
    assert repr(whole) == "PointwisePredictive(N=10, n_samples=3)"
    assert torch.equal(whole.log_prob(torch.zeros(2, 5)), whole.log_density)


def test_members_of_two() -> None:
    losses = seeded(7, 10).abs()
    losses[:, 3] = math.inf
    whole, merged = (
        average_of_losses(losses),
        average_of_losses(losses[:3]).merge(average_of_losses(losses[3:])),
    )
    torch.testing.assert_close(merged.log_density, whole.log_density, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.relative_variance, whole.relative_variance, rtol=1e-9, atol=1e-12)
    assert merged.n_samples == 7
    with pytest.raises(swag.InputError, match="other: has 2 rows, this 10; both need the same targets"):
        whole.merge(average_of_losses(losses[:, :2]))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.zeros(3, 2), r"takes losses \(N,\), the model gave torch.float32 \(3, 2\); pass a forward="),
        (torch.zeros(3, dtype=torch.int64), r"the model gave torch.int64 \(3,\)"),
        (torch.zeros(4), r"4 losses, other members gave 3; members must see the same targets"),
        (torch.tensor([0.0, math.nan, 0.0]), r"a member's loss is NaN or −∞"),
        (torch.tensor([0.0, -math.inf, 0.0]), r"a member's loss is NaN or −∞"),
    ],
)
def test_bad_outputs_change_nothing(outputs: Tensor, message: str) -> None:
    accumulator = Pointwise().accumulator()
    accumulator.update(torch.ones(3))
    with pytest.raises(swag.InputError, match=message):
        accumulator.update(outputs)
    found = accumulator.compute()
    assert found.n_samples == 1 and found.log_density.tolist() == [-1.0] * 3


def test_other_bad_input() -> None:
    with pytest.raises(swag.StateError, match="no member was added yet"):
        PointwiseAccumulator().compute()
    refused = PointwiseAccumulator()
    with pytest.raises(swag.InputError, match="NaN"):
        refused.update(torch.tensor([math.nan]))
    with pytest.raises(swag.StateError, match="no member was added yet"):
        refused.compute()
    with pytest.raises(swag.InputError, match="keep_members: Pointwise keeps no members"):
        Pointwise().accumulator(keep_members=True)
    one, two = average_of_losses(torch.ones(1, 3)), average_of_losses(torch.ones(2, 3))
    for parts, said in (([one, two], r"of \[1, 2\] members"), ([], r"of \[\] members")):
        with pytest.raises(swag.InputError, match=said):
            PointwisePredictive.concatenate(parts)
    with pytest.raises(swag.InputError, match=r"y: got \(4,\), there were 3 targets"):
        one.log_prob(torch.zeros(4))


# --- in an ensemble: the same as from whole distributions


X, Y = seeded(40, 6).float(), torch.arange(40) % 3
ROWS = [(X[:25], Y[:25]), (X[25:], Y[25:])]


def losses_of(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def posterior() -> tuple[nn.Module, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    collector = swag.Collector(model, rank=4)
    for step in walk(model, 6):
        collector.collect(step)
    return model, collector.swag()


def test_an_ensemble_gives_what_the_categorical_one_gives(tmp_path: Path) -> None:
    model, gaussian = posterior()
    given: dict[str, Any] = {"n_samples": 5, "bn_loader": ROWS, "seed": 0}
    whole = swag.Ensemble(model, gaussian, **given).predict(ROWS)
    ensemble = swag.Ensemble(model, gaussian, **given, likelihood=Pointwise(), forward=losses_of)
    found = ensemble.predict(ROWS)
    expected = whole.log_probs.gather(1, Y[:, None])[:, 0]
    torch.testing.assert_close(found.log_density, expected, rtol=1e-5, atol=1e-6)
    assert found.nll == pytest.approx(swag.metrics.nll(whole.probs, Y), rel=1e-5)
    path = tmp_path / "ensemble.safetensors"
    swag.save(path, ensemble)
    loaded = swag.load(path, model=model, forward=losses_of)
    assert torch.equal(loaded.predict(ROWS).log_density, found.log_density)


def test_as_many_members_as_it_takes() -> None:
    model, gaussian = posterior()

    def members(tolerance: float) -> PointwisePredictive:
        settings: dict[str, Any] = {"likelihood": Pointwise(), "forward": losses_of, "tolerance": tolerance}
        return swag.Ensemble(model, gaussian, "auto", bn_loader=ROWS, seed=0, **settings).predict(ROWS)

    few, many = members(0.1), members(0.02)
    assert 1 < few.n_samples < many.n_samples
    # How many are needed is judged by the first few, whose spread is known to some 25 %.
    assert many.monte_carlo_error <= 1.25 * 0.02


def test_tuning_by_windows_of_targets() -> None:
    """A batch's labels may have any shape; the error counts losses, not windows."""
    model, gaussian = posterior()
    windows = [(X[:24].view(6, 4, 6), Y[:24].view(6, 4)), (X[24:].view(2, 8, 6), Y[24:].view(2, 8))]

    def losses(net: nn.Module, batch: Any) -> Tensor:
        return losses_of(net, (batch[0].flatten(0, 1), batch[1].flatten()))

    given: dict[str, Any] = {"n_samples": 5, "batchnorm": swag.KeepBatchNorm(), "scales": [0.25, 1.0]}
    rows = swag.tune(gaussian, model, ROWS, **given, likelihood=Pointwise(), forward=losses_of)
    found = swag.tune(gaussian, model, windows, **given, likelihood=Pointwise(), forward=losses)
    assert [p.nll for p in found.curve] == pytest.approx([p.nll for p in rows.curve], rel=1e-5)
    errors = [p.behind_error for p in rows.curve]
    assert [p.behind_error for p in found.curve] == pytest.approx(errors, rel=1e-4) and max(errors) > 0
    # By hand: the paired differences of 40 losses.
    by_hand = [
        swag.Ensemble(
            model, gaussian.with_scale(scale), 5, batchnorm=swag.KeepBatchNorm(), seed=0,
            likelihood=Pointwise(), forward=losses_of,
        ).predict(ROWS).log_density.double()
        for scale in (0.25, 1.0)
    ]  # fmt: skip
    assert max(errors) == pytest.approx(float((by_hand[0] - by_hand[1]).std()) / math.sqrt(40), rel=1e-3)


def test_tuning_sees_the_same_losses() -> None:
    model, gaussian = posterior()
    given: dict[str, Any] = {"n_samples": 5, "bn_loader": ROWS, "scales": [0.25, 0.5, 1.0]}
    whole = swag.tune(gaussian, model, ROWS, **given)
    found = swag.tune(gaussian, model, ROWS, **given, likelihood=Pointwise(), forward=losses_of)
    assert [point.nll for point in found.curve] == pytest.approx(
        [point.nll for point in whole.curve], rel=1e-5
    )
    assert found.scale == whole.scale
