"""Variational inference, Laplace's approximation and the projected Gaussian: known ELBOs and closed forms."""

import math
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor

from swag.errors import InputError
from swag.posterior import Empirical, LowRankGaussian
from swag.subspace import (
    Batched,
    DensityError,
    FlowVI,
    FullCovarianceVI,
    Laplace,
    MeanFieldVI,
    ProjectedGaussian,
    Subspace,
    full_covariance_batch,
    mean_field_batch,
)
from swag.subspace.climb import reached
from tests.checks import array, assert_close, assert_covariance_close, assert_means
from tests.linear_gaussian import linear_gaussian
from tests.runs import seeded, trained

ZEROS = torch.zeros(3, dtype=torch.float64)
METHODS = [MeanFieldVI(40), FullCovarianceVI(40), FlowVI(20, n_steps=40), Laplace()]


@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_full_covariance_reaches_the_log_evidence(temperature: float) -> None:
    model = linear_gaussian(temperature)
    fit = FullCovarianceVI(300).infer(
        Batched(model.batch),
        prior_std=model.prior_std,
        temperature=temperature,
        z0=ZEROS,
        generator=seeded(),
    )
    # Where q is the posterior, the bound is the same at every z: no Monte-Carlo error is left.
    assert float(fit.elbo_error) < 1e-3
    assert abs(float(fit.elbo) - model.log_evidence) < 1e-3
    assert_close(fit.mean, model.mean, rtol=1e-3, scale=model.cov.diagonal().sqrt())
    assert_close(fit.covariance, model.cov, rtol=3e-3, scale=float(model.cov.max()))


@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_mean_field_reaches_the_best_diagonal(temperature: float) -> None:
    model = linear_gaussian(temperature)
    fit = MeanFieldVI(300, n_draws=16, n_elbo=16000).infer(
        Batched(model.batch),
        prior_std=model.prior_std,
        temperature=temperature,
        z0=ZEROS,
        generator=seeded(),
    )
    assert abs(float(fit.elbo) - model.best_mean_field) < 5 * float(fit.elbo_error) + 2e-3
    assert model.log_evidence - model.best_mean_field > 5 * float(fit.elbo_error)
    assert_close(fit.mean, model.mean, rtol=0.05, scale=model.cov.diagonal().sqrt())
    assert_close(fit.covariance.diagonal(), 1 / model.cov.inverse().diagonal(), rtol=0.06)
    assert_close(fit.covariance, torch.diag(fit.covariance.diagonal()), rtol=1e-9, scale=1.0)


def test_the_flow_reaches_the_log_evidence() -> None:
    model = linear_gaussian(2.0)
    fit = FlowVI(500, n_steps=250).infer(
        model.log_likelihood, prior_std=model.prior_std, temperature=2.0, z0=ZEROS, generator=seeded()
    )
    assert abs(float(fit.elbo) - model.log_evidence) < 0.02 + 5 * float(fit.elbo_error)
    z = fit.sample(4000, generator=seeded(1))
    assert_close(z.mean(0), model.mean, rtol=0.1, scale=model.cov.diagonal().sqrt())
    assert_close(torch.cov(z.T), model.cov, rtol=0.15, scale=float(model.cov.max()))
    assert fit.z.shape == (500, 3)
    assert isinstance(fit.posterior(), Empirical)


def banana(z: Tensor) -> Tensor:
    """A ridge along a parabola, z (n, 2)."""
    return -4 * (z[:, 1] + 1 - z[:, 0].square()).square()


def test_the_flow_beats_the_gaussian_where_none_fits() -> None:
    grid = torch.linspace(-6, 6, 1201).double()
    points = torch.cartesian_prod(grid, grid)
    prior = -0.5 * points.square().sum(1) - math.log(2 * math.pi)
    truth = float((banana(points) + prior).logsumexp(0)) + 2 * math.log(0.01)
    z0 = torch.zeros(2, dtype=torch.float64)
    gaussian = FullCovarianceVI(400).infer(Batched(banana), prior_std=1.0, z0=z0, generator=seeded())
    flow = FlowVI(n_steps=400).infer(Batched(banana), prior_std=1.0, z0=z0, generator=seeded())
    assert float(flow.elbo) < truth + 4 * float(flow.elbo_error)
    assert float(flow.elbo) > truth - 0.2
    assert float(gaussian.elbo) < float(flow.elbo) - 0.2


@pytest.mark.parametrize("is_random", [False, True])
def test_the_elbos_error_is_its_spread(is_random: bool) -> None:
    """Mirrored draws of an even function are equal; draws of one minibatch share its luck."""
    generator = seeded()

    def bound(n_draws: int) -> Tensor:
        half = torch.randn(n_draws // 2, 1, generator=generator)
        luck = torch.randn((), generator=generator) if is_random else 0.0
        return torch.cat([half, -half]).square() + luck

    found = [reached(bound, 8, 128, is_random=is_random) for _ in range(400)]
    spread = float(torch.stack([mean for mean, _ in found]).std())
    # the standard deviation of 400 means is known to 1/√800 = 3.5 %
    assert float(torch.stack([error for _, error in found]).mean()) == pytest.approx(spread, rel=0.15)


@final
class Shaky:
    """A log-likelihood with a minibatch's luck in it."""

    is_random = True

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def batch(self, z: Tensor) -> Tensor:
        return 10 * torch.randn((), generator=self._generator) - z.square().sum(1)


@pytest.mark.parametrize("method", [MeanFieldVI(1), FlowVI(1, n_steps=1)])
def test_the_error_of_a_minibatched_elbo(method: Any) -> None:
    fits = [method.infer(Shaky(seeded(i)), prior_std=1.0, z0=ZEROS, generator=seeded(i)) for i in range(12)]
    spread = float(torch.stack([fit.elbo for fit in fits]).std())
    error = float(torch.stack([fit.elbo_error for fit in fits]).mean())
    assert 0.5 < error / spread < 2


def test_a_flows_draws_are_independent() -> None:
    fit = FlowVI(200, n_steps=1).infer(
        Batched(lambda z: -z.square().sum(1)), prior_std=1.0, z0=ZEROS, generator=seeded()
    )
    for z in (fit.z, fit.sample(200, generator=seeded(1))):
        first, second = z[:100], z[100:]
        assert float((first + second - 2 * z.mean(0)).std()) > 0.5 * float(z.std())


def test_a_flow_of_one_dimension() -> None:
    fit = FlowVI(200, n_steps=300).infer(
        Batched(lambda z: -1.5 * (z[:, 0] - 1).square()), prior_std=1.0, z0=torch.zeros(1), generator=seeded()
    )
    assert_close(fit.mean, [0.75], rtol=0.15)
    assert_close(fit.covariance, [[0.25]], rtol=0.3)


def test_many_problems_at_once() -> None:
    """Row i stays problem i, with its own data, prior and temperature."""
    models = [linear_gaussian(t, std) for t, std in ((1.0, 0.7), (5.0, 0.3))]
    a, y = (torch.stack([getattr(m, name) for m in models]) for name in ("a", "y"))

    def log_likelihood(z: Tensor) -> Tensor:
        constant = -0.5 * y.shape[1] * math.log(math.pi)  # of variance 0.5
        return constant - (y - torch.einsum("nij,nj->ni", a, z)).square().sum(1)

    settings: dict[str, Any] = {
        "prior_std": torch.tensor([[0.7], [0.3]]).double(),
        "temperature": torch.tensor([1.0, 5.0]),
        "z0": torch.zeros(2, 3, dtype=torch.float64),
        "n_steps": 500,
        "generator": seeded(),
    }
    full = full_covariance_batch(log_likelihood, **settings)
    assert_close(full.mean, torch.stack([m.mean for m in models]), rtol=2e-3, scale=1.0)
    assert_close(full.covariance, torch.stack([m.cov for m in models]), rtol=2e-3, scale=0.1)
    assert_close(full.elbo, [m.log_evidence for m in models], rtol=1e-2, scale=1.0)
    assert full.sample(5, generator=seeded()).shape == (2, 5, 3)
    field = mean_field_batch(log_likelihood, **settings, n_elbo=400)
    gap = array(field.elbo) - [m.best_mean_field for m in models]
    assert (np.abs(gap) < 5 * array(field.elbo_error) + 5e-3).all()
    with pytest.raises(InputError, match="n problems"):
        full.posterior()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
def test_laplace_is_exact_for_a_gaussian(temperature: float) -> None:
    model = linear_gaussian(temperature)
    fit = Laplace().infer(model.log_likelihood, prior_std=model.prior_std, temperature=temperature, z0=ZEROS)
    assert_close(fit.mean, model.mean, rtol=1e-6, scale=1.0)
    assert_close(fit.covariance, model.cov, rtol=1e-8, scale=float(model.cov.max()))
    assert abs(float(fit.log_evidence) - model.log_evidence) < 1e-6


def test_laplaces_hessian_of_another_density() -> None:
    """A Poisson regression: the Hessian by hand at the mode."""
    x = torch.randn(40, 2, generator=seeded()).double()
    counts = torch.poisson((x @ torch.tensor([0.5, -0.3]).double()).exp(), generator=seeded(1))
    fit = Laplace().infer(
        Batched(lambda z: (counts * (z @ x.T) - (z @ x.T).exp()).sum(1)),
        prior_std=2.0,
        temperature=3.0,
        z0=torch.zeros(2, dtype=torch.float64),
    )
    rate = (x @ fit.mean).exp()
    precision = (x.T * rate) @ x / 3.0 + torch.eye(2).double() / 4.0
    assert_close(fit.covariance, precision.inverse(), rtol=1e-6, scale=0.1)
    gradient = x.T @ (counts - rate) / 3.0 - fit.mean / 4.0
    assert float(gradient.abs().max()) < 1e-5


def test_laplace_says_where_it_stopped_before_the_mode(caplog: pytest.LogCaptureFixture) -> None:
    def steep(z: Tensor) -> Tensor:
        return -((z - 2) ** 4).sum(1) * torch.tensor(50.0) - z[:, 0] * z[:, 1]

    settings: dict[str, Any] = {"prior_std": 1.0, "z0": torch.zeros(2).double()}
    Laplace().infer(Batched(steep), **settings)
    assert not caplog.records
    Laplace(2).infer(Batched(steep), **settings)
    assert "before the mode: one more Newton step would gain" in caplog.text
    assert "raise n_steps" in caplog.text


def test_laplace_at_a_saddle_takes_the_priors_curvature(caplog: pytest.LogCaptureFixture) -> None:
    fit = Laplace().infer(
        Batched(lambda z: 3 * z[:, 0].square() - 4 * z[:, 1].square() - z[:, 0] ** 4),
        prior_std=0.5,
        z0=torch.zeros(2, dtype=torch.float64),
    )
    assert "curves upwards in 1 of 2 directions" in caplog.text
    assert_close(fit.covariance, torch.diag(torch.tensor([0.25, 1 / 12.0])), rtol=1e-6, scale=1.0)


def test_gaussians_over_the_weights_lie_in_the_subspace() -> None:
    model = linear_gaussian()
    space = Subspace(torch.arange(6.0).double(), torch.randn(6, 3, generator=seeded()).double())
    fit = Laplace().infer(Batched(model.batch), prior_std=model.prior_std, subspace=space)
    posterior = fit.posterior()
    assert isinstance(posterior, LowRankGaussian)
    basis = space.basis
    assert_close(posterior.mean, space.lift(model.mean), rtol=1e-6)
    assert_close(posterior.covariance_matrix(), basis @ model.cov @ basis.T, rtol=1e-6, scale=1.0)
    theta = posterior.sample(2000, generator=seeded(2))
    assert_close(space.lift(space.project(theta)), theta, rtol=1e-9, scale=1.0)
    z = space.project(theta)
    assert_means(z, model.mean)
    assert_covariance_close(z, model.cov, mean=model.mean)
    own = fit.sample(2000, generator=seeded(3))
    assert_covariance_close(own, model.cov, mean=model.mean)


def test_the_projected_swag_gaussian() -> None:
    collector = trained(14, rank=6)
    swag, space = collector.swag(0.5), collector.subspace(3)
    fit = ProjectedGaussian(swag).infer(space)
    inverse = np.linalg.pinv(array(space.basis))
    expected = inverse @ array(swag.covariance_matrix()) @ inverse.T
    assert_close(fit.covariance, expected, rtol=1e-4, scale=expected.max())
    assert_close(fit.mean, np.zeros(3), rtol=1e-4, scale=1.0)
    # PCA's own directions have unit variance at scale 1: half of it here, and the diagonal's share on top.
    only_rows = LowRankGaussian(swag.mean, torch.zeros_like(swag.mean), swag.cov_factor)
    assert_close(ProjectedGaussian(only_rows).infer(space).covariance, 0.5 * np.eye(3), rtol=1e-3, scale=1.0)
    shifted = LowRankGaussian(space.lift(torch.tensor([1.0, 0.0, -2.0])), swag.cov_diag, swag.cov_factor)
    assert_close(ProjectedGaussian(shifted).infer(space).mean, [1.0, 0.0, -2.0], rtol=1e-3, scale=1.0)
    assert ProjectedGaussian(swag).run(space).layout == collector.layout


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(method: Any) -> None:
    model = linear_gaussian()

    def covariance(seed: int) -> Tensor:
        fit = method.infer(model.log_likelihood, prior_std=1.0, z0=ZEROS, generator=seeded(seed))
        return fit.covariance

    before = torch.get_rng_state()
    assert torch.equal(covariance(0), covariance(0))
    assert torch.equal(covariance(0), covariance(1)) == isinstance(method, Laplace)
    assert torch.equal(torch.get_rng_state(), before)


# --- Bad input


@pytest.mark.parametrize("method", METHODS)
def test_nan_names_z_and_step(method: Any) -> None:
    def log_likelihood(z: Tensor) -> Tensor:
        return torch.where(z[:, 0] > 0.9, math.nan, 10 * z[:, 0])

    with pytest.raises(DensityError, match=r"was nan at step \d+.*z = \[") as caught:
        method.infer(Batched(log_likelihood), prior_std=1.0, z0=torch.zeros(2), generator=seeded())
    assert caught.value.z is not None
    assert caught.value.z[0] > 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature: got 0.0"),
        ({"prior_std": -1.0}, "prior_std: got -1.0"),
        ({"z0": torch.zeros(4)}, "prior_std|z0"),
        ({"log_likelihood": None}, "log_likelihood: got a NoneType"),
    ],
)
def test_bad_arguments(method: Any, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "log_likelihood": lambda z: -z.square().sum(),
        "prior_std": torch.ones(2),
        "z0": torch.zeros(2),
    }
    with pytest.raises(InputError, match=message):
        method.run(**(arguments | change))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MeanFieldVI(0), "n_steps: got 0"),
        (FullCovarianceVI(lr=0.0), "lr: got 0.0"),
        (MeanFieldVI(first_std=-1.0), "first_std: got -1.0"),
        (FlowVI(n_couplings=0), "n_couplings: got 0"),
        (FlowVI(lr=-1.0), "lr: got -1.0"),
        (Laplace(0), "n_steps: got 0"),
    ],
)
def test_bad_settings(method: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        method.run(lambda z: -z.square().sum(), prior_std=1.0, z0=torch.zeros(2))


def test_a_gaussian_of_another_model() -> None:
    gaussian = LowRankGaussian(torch.zeros(3), torch.ones(3), torch.zeros(3, 0))
    with pytest.raises(InputError, match="D=4"):
        ProjectedGaussian(gaussian).run(Subspace(torch.zeros(4), torch.ones(4, 1)))
