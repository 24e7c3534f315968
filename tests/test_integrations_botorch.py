"""SWAG ensembles in BoTorch: posteriors against a loop over members, acquisitions, whole optimisations."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("botorch")

from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.models.model import ModelList
from botorch.models.transforms import Normalize, Standardize
from botorch.optim import optimize_acqf
from botorch.sampling.get_sampler import get_sampler
from botorch.sampling.index_sampler import IndexSampler

import swag
from swag.errors import InputError
from swag.integrations.botorch import MemberSampler, SWAGModel, SWAGPosterior, fit_swag
from tests.checks import assert_close

D = 3
BOUNDS = torch.tensor([[0.0, -1.0, 0.0], [1.0, 2.0, 5.0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def network(n_outputs: int = 1, dtype: torch.dtype = torch.float64) -> nn.Module:
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, n_outputs)).to(dtype)


def gaussian(model: nn.Module, std: float = 0.3) -> swag.LowRankGaussian:
    layout = swag.Layout.of(model)
    theta = layout.flatten(model)
    return swag.LowRankGaussian(
        theta, torch.full_like(theta, std**2), theta.new_zeros(len(theta), 0), layout=layout
    )


def points(*shape: int) -> Tensor:
    return BOUNDS[0] + (BOUNDS[1] - BOUNDS[0]) * torch.rand(*shape, D, dtype=torch.float64)


# --- the posterior ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 2, 4), (1, 1)])
def test_values_are_those_of_the_members_one_by_one(shape: tuple[int, ...]) -> None:
    net = network()
    posterior = gaussian(net)
    model = SWAGModel(net, posterior, n_samples=6, seed=3)
    X = points(*shape)
    values = model.posterior(X).values
    assert values.shape == (*shape[:-1], 6, shape[-1], 1)
    thetas = posterior.sample(6, generator=torch.Generator().manual_seed(3))
    layout, other = swag.Layout.of(net), copy.deepcopy(net)
    for s, theta in enumerate(thetas):
        layout.write_(other, theta)
        assert_close(values[..., s, :, :].detach(), other(X).detach(), rtol=1e-12, scale=1.0)


def test_transforms_are_undone() -> None:
    net = network()
    posterior = gaussian(net)
    plain = SWAGModel(net, posterior, n_samples=5, seed=0)
    outcomes = Standardize(m=1)
    outcomes(torch.tensor([[3.0], [7.0], [11.0]], dtype=torch.float64))  # mean 7, standard deviation 4
    scaled = SWAGModel(
        net,
        posterior,
        n_samples=5,
        seed=0,
        likelihood=swag.HomoscedasticGaussian(0.25),
        input_transform=Normalize(D, bounds=BOUNDS),
        outcome_transform=outcomes.eval(),
    )
    X = points(2, 4)
    unit = (X - BOUNDS[0]) / (BOUNDS[1] - BOUNDS[0])
    assert_close(scaled(X).detach(), 7 + 4 * plain(unit).detach(), rtol=1e-12)
    extra = scaled.posterior(X, observation_noise=True).variance - scaled.posterior(X).variance
    assert_close(extra.detach(), torch.full((2, 4, 1), 4.0), rtol=1e-9)


def test_moments_and_samples() -> None:
    model = SWAGModel(net := network(), gaussian(net), n_samples=16, seed=0)
    posterior = model.posterior(points(3, 2))
    assert_close(posterior.mean.detach(), posterior.values.mean(-3).detach(), rtol=1e-12, scale=1.0)
    assert_close(posterior.variance.detach(), posterior.values.var(-3).detach(), rtol=1e-12)
    samples = MemberSampler(torch.Size([32]), seed=1)(posterior)
    assert samples.shape == (32, 3, 2, 1)
    # 32 of 16 members: each twice, and a sample is one function at both points and in every batch element.
    assert_close(samples.mean(0).detach(), posterior.mean.detach(), rtol=1e-10, scale=1.0)
    functions = posterior.values.movedim(-3, 0)
    for sample in samples:
        assert sum(torch.equal(sample, function) for function in functions) == 1
    assert posterior.rsample(torch.Size([7])).shape == (7, 3, 2, 1)
    assert posterior.rsample().shape == (1, 3, 2, 1)
    assert IndexSampler(torch.Size([5]), seed=0)(posterior).shape == (5, 3, 2, 1)  # botorch's own fits too


def test_gradients_agree_with_finite_differences() -> None:
    model = SWAGModel(net := network(), gaussian(net), n_samples=4, seed=0)
    X = points(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model.posterior(x).values, (X,))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_noise_is_the_same_at_every_call_and_for_every_q() -> None:
    net = network(2)
    model = SWAGModel(net, gaussian(net), n_samples=400, seed=0, likelihood=swag.HeteroscedasticGaussian())
    X = points(1, 5)
    noisy, quiet = model.posterior(X, observation_noise=True), model.posterior(X)
    again = model.posterior(X[:, :2], observation_noise=True)
    assert_close(again.values.detach(), noisy.values[..., :2, :].detach(), rtol=1e-12, scale=1.0)
    assert torch.equal(noisy.mean, quiet.mean)
    raw = model.functions(X[0])[..., 1]
    expected = quiet.variance[0, :, 0] + nn.functional.softplus(raw).mean(0)
    assert_close(noisy.variance[0, :, 0].detach(), expected.detach(), rtol=1e-9)
    # The noise in the samples has that variance: of 400 normal numbers, to 5 standard errors.
    added = (noisy.values - quiet.values)[0, :, :, 0] / nn.functional.softplus(raw).sqrt()
    assert_close(added.var(0).detach(), torch.ones(5), rtol=5 * (2 / 400) ** 0.5)
    given = model.posterior(X, observation_noise=torch.full((1, 1, 1), 2.0, dtype=torch.float64))
    assert_close((given.variance - quiet.variance).detach(), torch.full((1, 5, 1), 2.0), rtol=1e-9)


def test_float32_networks_take_float64_points() -> None:
    model = SWAGModel(net := network(dtype=torch.float32), gaussian(net), n_samples=4, seed=0)
    posterior = model.posterior(points(2, 2))
    assert posterior.dtype == torch.float64 and posterior.mean.shape == (2, 2, 1)


def test_batch_norm_has_each_members_statistics() -> None:
    net = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)).double()
    rows = points(64)
    posterior = gaussian(net)
    with pytest.raises(InputError, match="bn_loader"):
        SWAGModel(net, posterior)
    model = SWAGModel(net, posterior, n_samples=3, seed=0, bn_loader=[rows])
    ensemble = swag.Ensemble(
        net, posterior, 3, seed=0, bn_loader=[rows], likelihood=swag.HomoscedasticGaussian(1.0)
    )
    X = points(5)
    assert_close(model.posterior(X).mean[:, 0].detach(), ensemble(X).mean, rtol=1e-9, scale=1.0)


def test_a_model_can_be_copied_pickled_and_cast() -> None:
    model = SWAGModel(net := network(), gaussian(net), n_samples=4, seed=0)
    X = points(2, 2)
    expected = model.posterior(X).mean
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.posterior(X).mean, expected)
    in_float32 = copy.deepcopy(model).to(torch.float32).posterior(X).mean
    assert_close(in_float32.detach(), expected.detach(), rtol=1e-5, scale=1.0)
    assert not torch.equal(in_float32, expected)


def test_training_goes_on_without_touching_the_model() -> None:
    model = SWAGModel(net := network(), gaussian(net), n_samples=4, seed=0)
    X = points(3)
    expected = model.posterior(X).mean
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert torch.equal(model.posterior(X).mean, expected)


def test_float32_observations() -> None:
    X = points(8).float()
    with torch.no_grad():  # as where candidates are made
        model = fit_swag(X, X[:, :1], bounds=BOUNDS.float(), steps=10, averaging_steps=8)
    assert model.posterior(X).mean.dtype == torch.float32
    assert model.posterior(X.double()).mean.dtype == torch.float64


class Branching(nn.Module):
    """Something vmap cannot do: a branch on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if y.sum() > 0 else -y


def test_networks_that_vmap_cannot_run_are_run_in_turn(caplog: pytest.LogCaptureFixture) -> None:
    net = Branching()
    model = SWAGModel(net, gaussian(net), n_samples=4, seed=0)
    X = points(3).requires_grad_()
    model.posterior(X).mean.sum().backward()
    assert X.grad is not None and X.grad.abs().sum() > 0
    assert "one after the other" in caplog.text


# --- acquisition functions -------------------------------------------------------------------------------


def test_acquisitions_are_fixed_functions_whatever_the_batch() -> None:
    model = SWAGModel(net := network(), gaussian(net), n_samples=16, seed=0)
    acquisition = qLogExpectedImprovement(model, best_f=0.2)
    X = points(6, 2)
    together = acquisition(X)
    assert isinstance(get_sampler(model.posterior(X), torch.Size([4])), MemberSampler)
    alone = torch.cat([acquisition(x[None]) for x in X])
    assert_close(together.detach(), alone.detach(), rtol=1e-9)
    # 512 samples of 16 members: the average over members, of the improvement of the better of two points.
    improvement = (model(X).amax(dim=-2)[..., 0] - 0.2).clamp_min(0).mean(-1)
    smooth = acquisition(X).exp()
    assert_close(smooth.detach(), improvement.detach(), rtol=0.05, scale=improvement.max().item())


def test_the_optimiser_finds_the_candidate_that_a_grid_finds() -> None:
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    model = SWAGModel(net, gaussian(net, std=1.0), n_samples=32, seed=0)
    bounds = torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64)[:, None, None]
    for acquisition in (
        qLogExpectedImprovement(model, best_f=1.0),
        LogExpectedImprovement(model, best_f=1.0),
        qLogNoisyExpectedImprovement(model, X_baseline=grid[::100, 0], prune_baseline=False),
    ):
        _, value = optimize_acqf(acquisition, bounds, q=1, num_restarts=3, raw_samples=32)
        assert value >= acquisition(grid).max() - 1e-3


def test_minimising_by_a_transform_is_maximising_the_negative() -> None:
    model = SWAGModel(
        net := network(), gaussian(net), n_samples=8, seed=0, likelihood=swag.HomoscedasticGaussian(0.5)
    )
    X = points(3, 2)
    negated = ScalarizedPosteriorTransform(torch.tensor([-2.0], dtype=torch.float64), offset=1.0)
    plain = model.posterior(X, observation_noise=True)
    changed = model.posterior(X, observation_noise=True, posterior_transform=negated)
    assert_close(changed.mean.detach(), 1 - 2 * plain.mean.detach(), rtol=1e-12, scale=1.0)
    assert_close(changed.variance.detach(), 4 * plain.variance.detach(), rtol=1e-12)
    minimising = LogExpectedImprovement(model, best_f=-1.0, posterior_transform=negated)
    assert minimising(X[:, :1]).shape == (3,)


def test_several_outcomes_are_joined_by_a_model_list() -> None:
    nets = [network(), network()]
    joined = ModelList(*[SWAGModel(net, gaussian(net), n_samples=4, seed=0) for net in nets])
    posterior = joined.posterior(points(2, 3))
    assert posterior.mean.shape == (2, 3, 2)
    assert get_sampler(posterior, torch.Size([8]), seed=0)(posterior).shape == (8, 2, 3, 2)


# --- fitting ---------------------------------------------------------------------------------------------


def test_fit_swag_learns_a_function() -> None:
    X = points(40)
    Y = 100 + 20 * (X[:, :1] + X[:, 1:2])
    model = fit_swag(X, Y, bounds=BOUNDS, seed=1, members=2, steps=150)
    other = points(50)
    error = model.posterior(other).mean - (100 + 20 * (other[:, :1] + other[:, 1:2]))
    assert error.square().mean().sqrt() < 0.2 * Y.std()
    assert (model.posterior(other).variance > 0).all()
    noise = model.posterior(X, observation_noise=True).variance - model.posterior(X).variance
    assert_close(noise.detach(), torch.full_like(noise, 0.01 * float(Y.var())).detach(), rtol=1e-6)


def test_fit_swag_is_reproducible() -> None:
    X = points(12)
    one, again, another = (
        fit_swag(X, X[:, :1], bounds=BOUNDS, seed=seed, members=2, steps=5, averaging_steps=8)
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.posterior(X).values, again.posterior(X).values)
    assert not torch.equal(one.posterior(X).values, another.posterior(X).values)


def test_a_whole_optimisation_comes_closer_than_its_start() -> None:
    bounds = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)

    def objective(x: Tensor) -> Tensor:
        return -(x - 0.7).square().sum(1, keepdim=True)

    X = 0.4 * torch.rand(5, 2, dtype=torch.float64)
    Y = objective(X)
    start = Y.max()
    for step in range(3):
        model = fit_swag(X, Y, bounds=bounds, seed=step, steps=100, averaging_steps=60, n_samples=32)
        acquisition = qLogExpectedImprovement(model, best_f=Y.max())
        x, _ = optimize_acqf(
            acquisition, bounds, q=2, num_restarts=2, raw_samples=32, options={"maxiter": 20}
        )
        X, Y = torch.cat([X, x]), torch.cat([Y, objective(x)])
    assert Y.max() > 0.5 * start


# --- bad input -------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    net = network()
    with pytest.raises(InputError, match="no parameter"):
        SWAGModel(net, gaussian(Branching()))
    with pytest.raises(InputError, match="n_samples"):
        SWAGModel(net, gaussian(net), n_samples=0)
    with pytest.raises(InputError, match="likelihood"):
        SWAGModel(net, gaussian(net), likelihood=swag.Categorical())  # type: ignore[arg-type]
    two = network(2)
    with pytest.raises(InputError, match=r"several outcomes.*ModelList"):
        SWAGModel(two, gaussian(two), n_samples=2, seed=0).posterior(points(2))
    model = SWAGModel(net, gaussian(net), n_samples=2, seed=0)
    for wrong in (points(2)[0], points(2).long(), "x"):
        with pytest.raises(InputError, match="X: got"):
            model.posterior(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="output_indices"):
        model.posterior(points(2), output_indices=[1])
    with pytest.raises(InputError, match="observation_noise"):
        model.posterior(points(2), observation_noise=True)
    with pytest.raises(InputError, match=r"observation_noise: got shape \(7, 1\); .*broadcast to \(2, 1\)"):
        model.posterior(points(2), observation_noise=torch.ones(7, 1))
    with pytest.raises(InputError, match="observation_noise: holds NaN or negative"):
        model.posterior(points(2), observation_noise=-torch.ones(1))
    for call in (model.condition_on_observations, model.fantasize):
        with pytest.raises(InputError, match="without training"):
            call(points(2), points(2)[:, :1])
    assert model.subset_output([0]) is model and model.num_outputs == 1 and model.batch_shape == ()
    with pytest.raises(InputError, match="idcs"):
        model.subset_output([0, 1])
    with pytest.raises(InputError, match="base_samples"):
        SWAGPosterior(torch.zeros(4, 2, 1)).rsample_from_base_samples(torch.Size([3]), torch.zeros(2).long())


def flat(d: int, generator: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 1), nn.Flatten(0))


def double(d: int, generator: torch.Generator) -> nn.Module:
    return nn.Linear(d, 2)


@pytest.mark.parametrize(
    ("X", "Y", "more", "message"),
    [
        (torch.rand(4, 2), torch.rand(4, 2), {}, "several are not supported"),
        (torch.rand(4, 2), torch.rand(4), {}, r"train_Y: got shape \(4,\)"),
        (torch.rand(4, 2), torch.rand(3, 1), {}, "4 and 3 rows"),
        (torch.rand(1, 2), torch.rand(1, 1), {}, "2 or more"),
        (torch.full((4, 2), torch.nan), torch.rand(4, 1), {}, "train_X: holds NaN"),
        (torch.rand(4, 2), torch.rand(4, 1), {"bounds": torch.rand(2, 3)}, "bounds: got shape"),
        (torch.rand(4, 2), torch.rand(4, 1), {"members": 0}, "members"),
        (torch.rand(4, 2), torch.rand(4, 1), {"rank": 1}, "rank"),
        (torch.rand(4, 2), torch.rand(4, 1), {"swa_lr": 0.0}, "swa_lr"),
        (torch.rand(4, 2), torch.rand(4, 1), {"rank": "a"}, "rank"),
        (torch.rand(4, 2), torch.rand(4, 1), {"averaging_steps": 3}, "averaging_steps"),
        (torch.rand(4, 2), torch.rand(4, 1), {"lr": "fast"}, "lr: got 'fast'"),
        (torch.rand(4, 2), torch.rand(4, 1), {"noise_std": -1.0}, "noise_std"),
        (torch.rand(4, 2), torch.rand(4, 1), {"n_samples": 0}, "n_samples"),
        (torch.rand(4, 2), torch.rand(4, 1), {"bounds": torch.ones(2, 2)}, "bounds: a lower bound"),
        (
            torch.rand(4, 2),
            torch.rand(4, 1),
            {"network": nn.Linear(2, 1)},
            r"network: got a Linear; .*function",
        ),
        # Broadcast against (N, 1), each would have been trained on all outcomes.
        (torch.rand(4, 2), torch.rand(4, 1), {"network": flat}, r"network: gave outputs of shape \(2,\)"),
        (torch.rand(4, 2), torch.rand(4, 1), {"network": double}, r"outputs of shape \(2, 2\) for 2 rows"),
    ],
)
def test_fit_swag_refuses_what_it_cannot_fit(
    X: Tensor, Y: Tensor, more: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_swag(X, Y, **more)  # type: ignore[arg-type]
