"""Diagnoses against slow truths: the snapshots themselves, dense matrices, processes of known correlation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import swag
from swag.diagnostics import autocorrelation, effective_number, effective_rank, snapshot_gram
from swag.parameters import Layout
from tests.cases import plain, walk


def collected_from(thetas: Tensor, rank: int) -> swag.Collector:
    """The collector that saw these weight vectors (n, D)."""
    half = thetas.shape[1] // 2
    shapes = [("a", (half,), thetas.dtype), ("b", (thetas.shape[1] - half,), thetas.dtype)]
    collector = swag.Collector.for_layout(Layout(shapes), rank, deviation_dtype=thetas.dtype)
    for theta in thetas:
        collector.collect_pieces([(0, len(theta), theta)])
    return collector


def process(rho: float, n: int, size: int, seed: int = 0) -> Tensor:
    """A stationary AR(1) process (n, size) with autocorrelation ρ^l."""
    chance = np.random.default_rng(seed)
    x = [chance.standard_normal(size)]
    for _ in range(n - 1):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * chance.standard_normal(size))
    return torch.tensor(np.array(x))


@pytest.mark.parametrize(("n", "rank"), [(6, 6), (6, 10), (10, 4), (30, 7)])
def test_rows_give_the_snapshots_back(n: int, rank: int) -> None:
    thetas = process(0.8, n, 50)
    rows = collected_from(thetas, rank).deviations
    got = snapshot_gram(rows @ rows.T, n)
    centred = (thetas - thetas.mean(0))[-len(rows) :]
    torch.testing.assert_close(got, centred @ centred.T)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_autocorrelation_of_a_known_process(rho: float) -> None:
    thetas = process(rho, 400, 3000)
    centred = thetas - thetas.mean(0)
    found = autocorrelation(centred @ centred.T)
    for lag in (1, 2, 5):
        slow = float((centred[lag:] * centred[:-lag]).sum() / centred.square().sum())
        assert found[lag - 1] == pytest.approx(slow, abs=1e-9)
        assert found[lag - 1] == pytest.approx(rho**lag, abs=0.02 + 3 * (1 + rho) / (1 - rho) / 400)
    truth = 400 * (1 - rho) / (1 + rho)
    # Centring on the sample's own mean makes correlations look a little smaller than they are.
    assert effective_number(found, 400) == pytest.approx(truth, rel=0.25)


def test_the_posterior_reports_what_its_snapshots_say() -> None:
    thetas = process(0.9, 40, 2000)
    posterior = collected_from(thetas, 20).swag()
    found = posterior.diagnose()
    window = thetas[-20:] - thetas[-20:].mean(0)
    slow = [float((window[lag:] * window[:-lag]).sum() / window.square().sum()) for lag in (1, 2, 3)]
    assert found.autocorrelation[:3] == pytest.approx(slow, abs=1e-9)
    assert (found.n_snapshots, found.n_rows) == (40, 20)
    assert 1 <= found.n_effective < 5
    assert any("steps too correlated" in text for text in found.warnings)
    independent = collected_from(process(0.0, 40, 2000), 20).swag().diagnose()
    assert independent.n_effective > 15 and independent.warnings == ()


@pytest.mark.parametrize("k", [1, 3, 8])
def test_effective_rank_of_equal_eigenvalues(k: int) -> None:
    basis = torch.linalg.qr(torch.randn(50, k, dtype=torch.float64))[0]
    assert effective_rank(basis.T @ basis * 7) == pytest.approx(k)
    shares = torch.tensor([0.9, 0.1], dtype=torch.float64)
    assert effective_rank(torch.diag(shares)) == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in (0.9, 0.1)))
    )
    assert effective_rank(torch.zeros(3, 3, dtype=torch.float64)) == 0
    assert effective_rank(torch.zeros(0, 0, dtype=torch.float64)) == 0


def test_shares_and_spreads_are_those_of_the_dense_covariance() -> None:
    posterior = collected_from(process(0.3, 12, 30), 8).swag()
    found, covariance = posterior.diagnose(), posterior.covariance_matrix()
    low_rank = posterior.cov_factor @ posterior.cov_factor.T
    assert found.low_rank_share == pytest.approx(float(low_rank.trace() / covariance.trace()))
    assert found.effective_rank == pytest.approx(effective_rank(posterior.rows @ posterior.rows.T))
    variances = covariance.diagonal()
    for spread, at in zip(found.layers, (slice(0, 15), slice(15, 30)), strict=True):
        truth = float((variances[at].sum() / posterior.mean[at].square().sum()).sqrt())
        assert spread.relative_std == pytest.approx(truth)
    assert found.relative_std == pytest.approx(
        float((variances.sum() / posterior.mean.square().sum()).sqrt())
    )


def test_warnings() -> None:
    still = torch.randn(12, 40, dtype=torch.float64)
    still[:, 20:] = 1.0
    texts = collected_from(still, 12).swag().diagnose().warnings
    assert texts == ("1 of 2 parameters never moved ('b', …); leave them out with select=",)
    frozen = torch.ones(12, 40, dtype=torch.float64) + 1e-9 * torch.randn(12, 40, dtype=torch.float64)
    assert "posterior collapsed" in collected_from(frozen, 12).swag().diagnose().warnings[0]
    assert "posterior collapsed" in collected_from(frozen[:1].repeat(12, 1), 12).swag().diagnose().warnings[0]
    few = collected_from(torch.randn(4, 40, dtype=torch.float64), 4).swag().diagnose().warnings
    assert few == ("fewer than 10 snapshots (4): a rough covariance; 20 and more are usual",)


def test_mixtures_say_what_lies_between_their_components() -> None:
    parts = [
        collected_from(shift + process(0.0, 12, 30, seed=i), 12).swag() for i, shift in enumerate((0, 5, 9))
    ]
    mixture = swag.Mixture(parts, [0.5, 0.3, 0.2])
    found = mixture.diagnose()
    within = sum(w * float(p.variance.sum()) for w, p in zip((0.5, 0.3, 0.2), parts, strict=True))
    assert found.between_share == pytest.approx(1 - within / float(mixture.variance.sum()))
    assert len(found.components) == 3 and found.n_snapshots == 36
    assert "between components" in str(found)


def test_every_posterior_can_be_diagnosed() -> None:
    samples = process(0.0, 15, 30)
    assert swag.PointMass(samples[0]).diagnose().relative_std == 0
    empirical = swag.Empirical(samples).diagnose()
    assert empirical.relative_std == pytest.approx(
        float((samples.var(0, correction=0).sum() / samples.mean(0).square().sum()).sqrt())
    )
    collector = swag.Collector(plain(), 0)
    for step in walk(plain(), 12):
        collector.collect(step)
    diagonal = collector.swag_diag().diagnose()
    assert (diagonal.low_rank_share, diagonal.n_rows, diagonal.warnings) == (0.0, 0, ())
    assert math.isnan(diagonal.n_effective)
    for posterior in (swag.PointMass(samples[0]), swag.Empirical(samples), collector.swag_diag()):
        assert "low-rank share" in str(posterior.diagnose())
