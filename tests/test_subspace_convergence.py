"""R̂ and effective sample size: against what is known of AR(1) chains; the pictures; the grid."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from swag.errors import InputError
from swag.subspace import (
    Batched,
    Chains,
    EllipticalSlice,
    Laplace,
    Subspace,
    effective_sample_size,
    evaluate_plane,
    plot_plane,
    plot_trace,
    split_rhat,
)
from tests.checks import assert_close
from tests.runs import seeded


def autoregressive(rho: float, n_chains: int, n: int, seed: int = 0) -> Tensor:
    """x_t = ρ x_{t−1} + √(1−ρ²) ε_t, stationary from the start, (C, S, 1)."""
    noise = torch.randn(n_chains, n, generator=seeded(seed)).double()
    if rho == 0:
        return noise[:, :, None]
    x = [noise[:, 0]]
    for t in range(1, n):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * noise[:, t])
    return torch.stack(x, 1)[:, :, None]


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.5, 0.9])
def test_ess_of_autoregressive_chains(rho: float) -> None:
    """N(1 − ρ)/(1 + ρ), within the estimate's own spread."""
    z = autoregressive(rho, 8, 4000)
    expected = 8 * 4000 * (1 - rho) / (1 + rho)
    assert_close(effective_sample_size(z), [expected], rtol=0.15)


def test_ess_does_not_care_for_monotone_maps_and_order_of_coordinates() -> None:
    z = autoregressive(0.5, 4, 500)
    both = torch.cat([z, z.exp()], 2)
    ess = effective_sample_size(both)
    assert_close(ess[0], ess[1], rtol=1e-9)
    assert_close(effective_sample_size(both.flip(2)), ess.flip(0), rtol=1e-12)


def test_rhat_is_one_for_chains_that_agree() -> None:
    rhat = split_rhat(torch.cat([autoregressive(0.3, 4, 2000, i) for i in range(3)], 2))
    assert rhat.shape == (3,)
    assert bool((rhat < 1.01).all())


def test_rhat_by_hand() -> None:
    """For ranks that are normal already, the classical formula on half chains."""
    z = autoregressive(0.0, 4, 20000) + 0.1 * torch.arange(4.0)[:, None, None]
    halves = torch.cat([z[:, :10000], z[:, 10000:]])[:, :, 0]
    within = halves.var(1).mean()
    expected = math.sqrt(0.9999 + float(halves.mean(1).var() / within))
    assert_close(split_rhat(z), [expected], rtol=2e-3)
    assert expected > 1.005


@pytest.mark.parametrize("kind", ["place", "spread", "drift"])
def test_rhat_sees(kind: str) -> None:
    z = autoregressive(0.0, 4, 1000)
    if kind == "place":
        z[0] += 1.0
    elif kind == "spread":
        z[0] *= 4.0
    else:
        z = z + torch.linspace(0, 2, 1000)[None, :, None]
    assert float(split_rhat(z)) > 1.05


def test_a_coordinate_that_never_moves_is_nan() -> None:
    z = torch.cat([autoregressive(0.0, 2, 100), torch.ones(2, 100, 1)], 2)
    assert math.isfinite(float(effective_sample_size(z)[0]))
    assert math.isnan(float(effective_sample_size(z)[1]))


@pytest.mark.parametrize("z", [torch.zeros(2, 3, 1), torch.zeros(5, 2)])
def test_bad_draws(z: Tensor) -> None:
    for function in (split_rhat, effective_sample_size):
        with pytest.raises(InputError, match="z: "):
            function(z)


def ridge(z: Tensor) -> Tensor:
    return -2 * (z[:, 0] + z[:, 1] - 1).square() + 0 * z[:, 2]


def test_the_plane_is_the_tempered_log_density() -> None:
    z = torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64)
    plane = evaluate_plane(
        Batched(ridge), prior_std=2.0, temperature=4.0, axes=(2, 0), span=1.0, n_points=5, z=z
    )
    assert_close(plane.x, np.linspace(-0.75, 1.25, 5), rtol=1e-12)
    assert_close(plane.y, np.linspace(-0.5, 1.5, 5), rtol=1e-12)
    at = torch.tensor([float(plane.y[3]), 0.0, float(plane.x[1])]).double()
    prior = torch.distributions.Normal(0.0, 2.0).log_prob(at).sum()
    assert_close(plane.log_density[3, 1], float(ridge(at[None])[0]) / 4 + float(prior), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": (0, 0)}, "axes"),
        ({"axes": (0, 3)}, "axes"),
        ({"span": -1.0}, "span"),
        ({"n_points": 1}, "n_points"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_bad_planes(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"prior_std": 1.0, "z": torch.zeros(3)}
    with pytest.raises(InputError, match=message):
        evaluate_plane(Batched(ridge), **(arguments | change))  # type: ignore[arg-type]


def test_pictures() -> None:
    space = Subspace(torch.zeros(4), torch.eye(4)[:, :3])
    likelihood = Batched(ridge)
    chains = EllipticalSlice(60, n_chains=3).infer(
        likelihood, prior_std=1.0, subspace=space, generator=seeded()
    )
    assert isinstance(chains, Chains)
    plane = evaluate_plane(likelihood, prior_std=1.0, subspace=space, n_points=12)
    axes = Figure().subplots(1, 3)
    assert plot_trace(axes[0], chains, coordinate=1) is axes[0]
    assert len(axes[0].lines) == 3
    assert "R̂" in axes[0].get_title()
    plot_plane(axes[1], plane, chains)
    assert len(axes[1].lines[0].get_xdata()) == 180
    fit = Laplace().infer(likelihood, prior_std=1.0, subspace=space)
    plot_plane(axes[2], plane, fit)
    x, y = (np.asarray(values) for values in axes[2].lines[0].get_data())
    centred = np.stack([x, y]) - fit.mean[:2].numpy()[:, None]
    inverse = np.linalg.inv(fit.covariance[:2, :2].numpy())
    assert_close((centred * (inverse @ centred)).sum(0), np.ones(len(x)), rtol=1e-4)
    with pytest.raises(InputError, match="coordinate"):
        plot_trace(axes[0], chains, coordinate=3)
