"""Samplers in a subspace: the closed-form posterior, tempered too; seeds; and what they refuse."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from swag.errors import InputError
from swag.posterior import Empirical
from swag.subspace import (
    NUTS,
    Batched,
    Chains,
    DensityError,
    EllipticalSlice,
    FullCovarianceVI,
    Laplace,
    Subspace,
    UnivariateSlice,
    elliptical_slice,
    elliptical_slice_batch,
    univariate_slice_batch,
)
from tests.checks import assert_close, assert_covariance_close, assert_means
from tests.linear_gaussian import LinearGaussian, linear_gaussian
from tests.runs import seeded

SAMPLERS = [EllipticalSlice, UnivariateSlice]
ZEROS = torch.zeros(3, dtype=torch.float64)


def assert_agrees(z: Tensor, model: LinearGaussian) -> None:
    """Chains (C, S, k) have the closed form's mean and covariance; each chain is one independent number."""
    assert_means(z.mean(1), model.mean)
    centred = z - model.mean
    assert_means(torch.einsum("csi,csj->cij", centred, centred) / z.shape[1], model.cov)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 8.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_closed_form(sampler: type, temperature: float) -> None:
    model = linear_gaussian(temperature)
    chains = sampler(80, n_chains=100, burn_in=20).infer(
        Batched(lambda z: -((model.y - z @ model.a.T).square().sum(1))),  # variance 0.5, without its constant
        prior_std=model.prior_std,
        temperature=temperature,
        z0=ZEROS,
        generator=seeded(1),
    )
    assert_agrees(chains.z, model)
    expected = torch.stack([model.log_likelihood(z) for z in chains.z[0]]) / temperature
    constant = expected[0] - chains.log_likelihood[0, 0]
    torch.testing.assert_close(chains.log_likelihood[0] + constant, expected)


def test_the_three_temperatures_differ_by_far_more_than_the_error() -> None:
    spreads = [float(linear_gaussian(t).cov.trace()) for t in (0.3, 1.0, 8.0)]
    assert spreads[0] < 0.5 * spreads[1] < 0.5 * 0.5 * spreads[2]


def test_the_pure_function() -> None:
    model = linear_gaussian()
    z = elliptical_slice(model.log_likelihood, model.prior_std, 4000, z0=ZEROS, generator=seeded(2))
    assert z.shape == (4000, 3)
    assert z.dtype == torch.float64
    assert_agrees(z.view(40, 100, 3), model)  # a hundred transitions are many correlation times


def test_the_pure_function_finds_k_by_itself() -> None:
    model = linear_gaussian()
    for prior_std in (0.7, torch.full((3,), 0.7).double()):
        assert elliptical_slice(model.log_likelihood, prior_std, 3, generator=seeded()).shape == (3, 3)
    with pytest.raises(InputError, match=r"z0=torch.zeros\(k\)"):
        elliptical_slice(lambda z: -z.square().sum(), 1.0, 3)


def test_the_pure_function_knows_the_k_of_a_likelihood_in_a_subspace() -> None:
    class Known:
        subspace = Subspace(torch.zeros(90), torch.eye(90)[:, :70])

        def __call__(self, z: Tensor) -> Tensor:
            assert z.shape == (70,), "nothing is tried"
            return -z.square().sum()

    assert elliptical_slice(Known(), 1.0, 2, generator=seeded()).shape == (2, 70)


@pytest.mark.parametrize("wrap", [float, np.array, lambda value: np.array([value])])
def test_numbers_that_are_no_tensors_will_do(wrap: Callable[[float], object]) -> None:
    z = elliptical_slice(lambda z: wrap(-float(z.square().sum())), 1.0, 20, z0=ZEROS, generator=seeded())
    same = elliptical_slice(lambda z: -z.square().sum(), 1.0, 20, z0=ZEROS, generator=seeded())
    assert torch.equal(z, same)


@pytest.mark.parametrize("method", [*(s(30, n_chains=2) for s in SAMPLERS), FullCovarianceVI(5), Laplace()])
def test_a_likelihood_that_writes_into_z_does_no_harm(method: Any) -> None:
    def clean(z: Tensor) -> Tensor:
        return -2 * (z - 1).square().sum(1)

    def careless(z: Tensor) -> Tensor:
        z -= 1
        return -2 * z.square().sum(1)

    def one(z: Tensor) -> Tensor:
        z -= 1
        return -2 * z.square().sum()

    expected, *got = (
        method.infer(function, prior_std=1.0, z0=ZEROS, generator=seeded())
        for function in (Batched(clean), Batched(careless), one)
    )
    for result in got:
        assert_close(result.mean, expected.mean, rtol=1e-9)
        assert_close(result.covariance, expected.covariance, rtol=1e-9, scale=1.0)


def test_the_pure_functions_chain_is_its_own() -> None:
    def careless(z: Tensor) -> Tensor:
        z -= 1
        return -z.square().sum()

    z = elliptical_slice(careless, 1.0, 20, z0=ZEROS, generator=seeded())
    same = elliptical_slice(lambda z: -(z - 1).square().sum(), 1.0, 20, z0=ZEROS, generator=seeded())
    assert torch.equal(z, same)


def test_without_data_the_prior_is_sampled() -> None:
    """A standard deviation, not a variance, and per coordinate."""
    std = torch.tensor([0.5, 3.0])
    for sampler in SAMPLERS:
        chains = sampler(1, n_chains=2000, burn_in=10).infer(
            Batched(lambda z: torch.zeros(len(z))), prior_std=std, z0=torch.zeros(2), generator=seeded(4)
        )
        assert chains.z.dtype == torch.float32
        assert_covariance_close(chains.samples, torch.diag(std**2), mean=torch.zeros(2))


@pytest.mark.parametrize("batch", [elliptical_slice_batch, univariate_slice_batch])
def test_many_problems_at_once(batch: Callable[..., Chains]) -> None:
    """Row i stays problem i: its own data, its own prior and temperature."""
    models = [linear_gaussian(t, std) for t, std in ((1.0, 0.7), (5.0, 0.3))]
    which = torch.arange(2).repeat_interleave(60)
    a = torch.stack([m.a for m in models])[which]
    y = torch.stack([m.y * (1 - 2 * i) for i, m in enumerate(models)])[which]
    chains = batch(
        lambda z: -((y - torch.einsum("nij,nj->ni", a, z)) ** 2).sum(1),
        torch.tensor([m.prior_std for m in models]).double()[which][:, None],
        80,
        z0=torch.zeros(120, 3, dtype=torch.float64),
        temperature=torch.tensor([m.temperature for m in models])[which],
        burn_in=20,
        generator=seeded(5),
    )
    assert chains.z.shape == (120, 80, 3)
    for i, model in enumerate(models):
        mirrored = LinearGaussian(model.a, model.y * (1 - 2 * i), model.prior_std, model.temperature)
        assert_agrees(chains.z[which == i], mirrored)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_seed_decides(sampler: type) -> None:
    model = linear_gaussian()

    def draw(seed: int, n: int = 20) -> Tensor:
        method = sampler(n, n_chains=3, burn_in=5)
        chains = method.infer(model.log_likelihood, prior_std=1.0, z0=ZEROS, generator=seeded(seed))
        return chains.z

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw(0)
    assert torch.equal(first, draw(0))
    assert not torch.equal(first, draw(1))
    assert torch.equal(first[:, :10], draw(0, 10)), "the first draws do not depend on how many are drawn"
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(
        elliptical_slice(model.log_likelihood, 1.0, 5, z0=ZEROS, generator=seeded(1)),
        elliptical_slice(model.log_likelihood, 1.0, 9, z0=ZEROS, generator=seeded(1))[:5],
    )


def test_thinning_and_burn_in_leave_draws_out() -> None:
    model = linear_gaussian()
    whole = EllipticalSlice(40, n_chains=2, burn_in=0)
    thinned = EllipticalSlice(10, n_chains=2, burn_in=10, thin=3)
    z, fewer = (
        m.infer(model.log_likelihood, prior_std=1.0, z0=ZEROS, generator=seeded(7)).z
        for m in (whole, thinned)
    )
    assert torch.equal(fewer, z[:, 12::3])


def test_vmap_is_tried_and_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def with_branch(z: Tensor) -> Tensor:
        calls.append(z)
        return -z.square().sum() if float(z.sum()) < 10 else -2 * z.square().sum()

    caplog.set_level("INFO", "swag")
    EllipticalSlice(5, n_chains=2, burn_in=0).run(with_branch, prior_std=1.0, z0=torch.zeros(2))
    assert "vmap cannot run this log-likelihood" in caplog.text
    assert all(z.shape == (2,) for z in calls)


def test_the_posterior_is_lifted() -> None:
    space = Subspace.random(torch.arange(5.0), 2, norm=3.0, generator=seeded())
    chains = EllipticalSlice(50, n_chains=2).infer(
        lambda z: -z.square().sum(), prior_std=1.0, subspace=space, generator=seeded(1)
    )
    posterior = chains.posterior()
    assert isinstance(posterior, Empirical)
    torch.testing.assert_close(posterior.samples, space.lift(chains.samples))
    torch.testing.assert_close(space.project(posterior.samples), chains.samples.float(), rtol=1e-4, atol=1e-5)
    few = chains.posterior(7).samples
    assert few.shape == (7, 5)
    assert torch.equal(few[[0, -1]], posterior.samples[[0, -1]])
    with pytest.raises(InputError, match="there are 100 draws"):
        chains.posterior(101)


def test_arviz_gets_plain_arrays() -> None:
    chains = EllipticalSlice(8, n_chains=3).infer(
        lambda z: -z.square().sum(), prior_std=1.0, z0=torch.zeros(2)
    )
    exported = chains.to_arviz()
    assert exported["posterior"]["z"].shape == (3, 8, 2)
    assert exported["sample_stats"]["lp"].shape == (3, 8)
    assert "elliptical slice: 3 × 8 draws" in str(chains)


# --- Bad input


def _nan_beyond(limit: float) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.where(z[0] > limit, math.nan, -0.5 * z.square().sum())


@pytest.mark.parametrize(("sampler", "limit"), [(EllipticalSlice, 1.6), (UnivariateSlice, 2.2)])
def test_nan_names_z_and_step_and_keeps_the_chain(sampler: type, limit: float) -> None:
    def run(log_likelihood: Callable[[Tensor], Tensor]) -> Tensor:
        method = sampler(150, n_chains=2, burn_in=0)
        return method.infer(
            Batched(torch.vmap(log_likelihood)), prior_std=1.0, z0=torch.zeros(2), generator=seeded(3)
        ).z

    with pytest.raises(DensityError, match=r"was nan at step \d+ of chain [01], z = \[") as caught:
        run(_nan_beyond(limit))
    error = caught.value
    assert error.z is not None and error.z[0] > limit
    assert error.step is not None and error.step >= 1
    assert error.chain is not None and len(error.chain) == error.step
    clean = run(lambda z: -0.5 * z.square().sum())
    assert any(torch.equal(error.chain, chain[: error.step]) for chain in clean), (
        "the chain before it is sound"
    )


def test_the_pure_function_names_nan_too() -> None:
    with pytest.raises(DensityError, match=r"was nan at step \d+, z = \[") as caught:
        elliptical_slice(_nan_beyond(1.6), 1.0, 1000, z0=torch.zeros(2), generator=seeded(3))
    clean = elliptical_slice(
        lambda z: -0.5 * z.square().sum(), 1.0, 1000, z0=torch.zeros(2), generator=seeded(3)
    )
    assert caught.value.chain is not None and caught.value.step is not None
    assert torch.equal(caught.value.chain, clean[: caught.value.step])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nan_at_the_start(sampler: type, value: float) -> None:
    with pytest.raises(DensityError, match="at step 0"):
        sampler(5).run(lambda z: z.sum() * 0 + value, prior_std=1.0, z0=torch.zeros(2))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_chain_that_never_moves_is_an_error_with_advice(sampler: type) -> None:
    needle = lambda z: torch.where((z == 0).all(), 0.0, -math.inf)  # noqa: E731
    with pytest.raises(DensityError, match=r"no other point is ever accepted.*raise temperature"):
        sampler(1000, n_chains=2).run(needle, prior_std=1.0, z0=torch.zeros(2))
    with pytest.raises(DensityError, match="no other point is ever accepted"):
        elliptical_slice(needle, 1.0, 1000, z0=torch.zeros(2))
    with pytest.raises(DensityError, match=r"−inf at the start.*such as zeros"):
        sampler(10, n_chains=2).run(needle, prior_std=1.0, z0=torch.ones(2))
    with pytest.raises(DensityError, match="−inf at the start"):
        elliptical_slice(needle, 1.0, 10, z0=torch.ones(2))


def test_impossible_regions_are_no_error() -> None:
    """−∞ is a point the data excludes: half a Gaussian is left."""
    half = Batched(lambda z: torch.where(z[:, 0] < 0, -math.inf, 0.0))
    for sampler in SAMPLERS:
        z = sampler(200, n_chains=40).infer(half, prior_std=2.0, z0=torch.ones(1), generator=seeded()).z
        assert bool((z >= 0).all())
        assert_means(z.mean(1), torch.tensor([2.0 * math.sqrt(2 / math.pi)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature: got 0.0"),
        ({"temperature": -1.0}, "temperature: got -1.0"),
        ({"temperature": math.nan}, "temperature: got nan"),
        ({"prior_std": 0.0}, "prior_std: got 0.0"),
        ({"prior_std": math.inf}, "prior_std: got inf"),
        ({"prior_std": torch.ones(3)}, r"prior_std: got shape \(3,\) for k=2"),
        ({"z0": torch.zeros(5, 3)}, "prior_std|z0"),
        ({"z0": torch.tensor([math.nan, 0.0])}, "z0: holds NaN"),
        ({"subspace": "plane"}, "subspace: got a str"),
        ({"log_likelihood": 3.0}, "log_likelihood: got a float"),
        ({"log_likelihood": lambda z: z}, r"returned shape \(2,\) for one z"),
        ({"log_likelihood": Batched(lambda z: z)}, "a number for each row"),
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_bad_arguments(sampler: type, change: dict[str, object], message: str) -> None:
    arguments = {"log_likelihood": lambda z: -z.square().sum(), "prior_std": 1.0, "z0": torch.zeros(2)}
    with pytest.raises(InputError, match=message):
        sampler(5).run(**(arguments | change))


@pytest.mark.parametrize("name", ["n_samples", "n_chains", "burn_in", "thin"])
@pytest.mark.parametrize("sampler", [*SAMPLERS, NUTS])
def test_bad_counts(sampler: type, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: got -1"):
        sampler(**{name: -1}).run(lambda z: -z.square().sum(), prior_std=1.0, z0=torch.zeros(2))


def test_nuts() -> None:
    model = linear_gaussian(3.0)
    if not _has_pyro():
        with pytest.raises(InputError, match=r"pip install 'swag-torch\[subspace\]'"):
            NUTS(10).run(model.log_likelihood, prior_std=0.7, z0=ZEROS)
        return
    settings = {"prior_std": model.prior_std, "temperature": 3.0, "z0": ZEROS}
    before = torch.get_rng_state()
    chains = NUTS(400, n_chains=2, burn_in=60).infer(model.log_likelihood, **settings, generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert_agrees(chains.z.reshape(40, 20, 3), model)
    assert 0.5 < float(chains.acceptance.mean()) <= 1
    assert float(chains.rhat().max()) < 1.05
    again = NUTS(10, n_chains=2, burn_in=60).infer(model.log_likelihood, **settings, generator=seeded(1))
    assert torch.equal(chains.z[:, :10], again.z)


@pytest.mark.skipif("not _has_pyro()")
def test_nuts_that_never_moves_or_meets_nan() -> None:
    needle = lambda z: torch.where((z == 0).all(), 0.0, -math.inf) + 0 * z.sum()  # noqa: E731
    with pytest.raises(DensityError, match=r"NUTS sampler stays at z = \[0, 0\].*raise temperature"):
        NUTS(20, n_chains=1, burn_in=20).run(needle, prior_std=1.0, z0=torch.zeros(2), generator=seeded())
    nan = lambda z: torch.where(z[0] > 1.8, math.nan, -0.5 * z.square().sum())  # noqa: E731
    with pytest.raises(DensityError, match=r"was nan at step \d+, z = \[") as caught:
        NUTS(400, n_chains=1, burn_in=5).run(nan, prior_std=1.0, z0=torch.zeros(2), generator=seeded(1))
    assert caught.value.chain is not None and caught.value.step is not None
    assert len(caught.value.chain) == max(0, caught.value.step - 5)


def _has_pyro() -> bool:
    try:
        import pyro  # noqa: F401
    except ImportError:
        return False
    return True
