"""The training log-likelihood over z: against a loop by hand, with batch norm, in part, in an ensemble."""

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import swag
from swag.errors import InputError
from swag.parameters import Layout
from swag.subspace import (
    EllipticalSlice,
    FullCovarianceVI,
    Laplace,
    LogLikelihood,
    MeanFieldVI,
    Subspace,
    UnivariateSlice,
)
from tests import cases
from tests.checks import assert_close
from tests.runs import seeded


def mlp(n_in: int = 3, n_out: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, 6), nn.Tanh(), nn.Linear(6, n_out))


def space_of(model: nn.Module, k: int = 2, norm: float = 1.0) -> Subspace:
    layout = Layout.of(model)
    return Subspace.random(layout.flatten(model), k, norm=norm, layout=layout, generator=seeded(9))


def regression(n: int = 25) -> list[tuple[Tensor, Tensor]]:
    """Batches of unequal length."""
    x = torch.randn(n, 3, generator=seeded(1))
    y = x[:, 0] - x[:, 1] + 0.1 * torch.randn(n, generator=seeded(2))
    return [(x[:10], y[:10]), (x[10:], y[10:])]


def by_hand(model: nn.Module, space: Subspace, z: Tensor, batches: Any, log_prob: Any) -> Tensor:
    """One model after the other, written into a copy."""
    copied = copy.deepcopy(model).eval()
    totals = []
    for one in z:
        Layout.of(model).write_(copied, space.lift(one))
        with torch.no_grad():
            totals.append(sum(log_prob(copied(x), y).double().sum() for x, y in batches))
    return torch.stack(totals)  # type: ignore[arg-type]


def heteroscedastic(outputs: Tensor, y: Tensor) -> Tensor:
    return torch.distributions.Normal(outputs[:, 0], F.softplus(outputs[:, 1]).sqrt()).log_prob(y)


CASES: list[tuple[Any, int, Any, Any]] = [
    (swag.HeteroscedasticGaussian(), 2, heteroscedastic, None),
    (
        swag.HomoscedasticGaussian(0.3),
        1,
        lambda o, y: torch.distributions.Normal(o[:, 0], 0.3**0.5).log_prob(y),
        None,
    ),
    (swag.Categorical(), 4, lambda o, y: -F.cross_entropy(o, y, reduction="none"), 4),
    (lambda o, y: -(o[:, 0] - y).abs(), 1, lambda o, y: -(o[:, 0] - y).abs(), None),
]


@pytest.mark.parametrize(("likelihood", "n_out", "log_prob", "n_classes"), CASES)
@pytest.mark.parametrize("chunk", [None, 2])
def test_it_is_the_sum_over_the_training_rows(
    likelihood: Any, n_out: int, log_prob: Any, n_classes: int | None, chunk: int | None
) -> None:
    model = mlp(3, n_out)
    batches: list[Any] = regression()
    if n_classes:
        batches = [(x, torch.randint(n_classes, (len(x),), generator=seeded(3))) for x, _ in batches]
    space = space_of(model)
    log_likelihood = LogLikelihood(model, space, iter(batches), likelihood, chunk=chunk)
    z = torch.randn(5, 2, generator=seeded(4)).double()
    got = log_likelihood.batch(z)
    assert got.dtype == torch.float64
    assert_close(got, by_hand(model, space, z, batches, log_prob), rtol=1e-6)
    assert_close(log_likelihood(z[1]), got[1], rtol=1e-6)
    assert log_likelihood.n_rows == 25


def test_the_model_is_left_alone_and_dropout_is_off() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.5), nn.Linear(6, 2)).train()
    before = copy.deepcopy(model.state_dict())
    log_likelihood = LogLikelihood(model, space_of(model), regression(), swag.HeteroscedasticGaussian())
    z = torch.randn(3, 2, generator=seeded())
    assert torch.equal(log_likelihood.batch(z), log_likelihood.batch(z))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(log_likelihood.batch(z), log_likelihood.batch(z))


def test_gradients_and_hessians() -> None:
    model = mlp().double()
    log_likelihood = LogLikelihood(
        model,
        space_of(model),
        [(x.double(), y.double()) for x, y in regression()],
        swag.HeteroscedasticGaussian(),
    )
    z = torch.tensor([0.3, -0.2]).double().requires_grad_()
    (gradient,) = torch.autograd.grad(log_likelihood(z), z)
    step = 1e-4
    eye = step * torch.eye(2).double()
    slopes = [(log_likelihood(z.detach() + e) - log_likelihood(z.detach() - e)) / (2 * step) for e in eye]
    assert_close(gradient, torch.stack(slopes), rtol=1e-5)
    forward = torch.func.jacfwd(torch.func.jacfwd(log_likelihood))(z.detach())
    reverse = torch.autograd.functional.hessian(log_likelihood, z.detach())
    assert_close(forward, reverse, rtol=1e-8, scale=float(reverse.abs().max()))


class Branching(nn.Module):
    """Control flow that depends on values: no rule for vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return out if float(out.sum()) > 0 else 2 * out


def test_models_that_vmap_cannot_run_are_looped(caplog: pytest.LogCaptureFixture) -> None:
    model = Branching()
    space, batches = space_of(model, norm=0.5), regression()
    z = torch.randn(4, 2, generator=seeded(4))
    got = LogLikelihood(model, space, batches, swag.HeteroscedasticGaussian()).batch(z)
    assert_close(got, by_hand(model, space, z, batches, heteroscedastic), rtol=1e-6)
    assert "each z is run by itself" in caplog.text


def with_batchnorm() -> nn.Sequential:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    model(torch.randn(64, 3) * 3 + 1)
    return model


def test_batch_norm_gets_the_statistics_of_each_z() -> None:
    model = with_batchnorm()
    space, batches = space_of(model), regression()
    z = torch.randn(3, 2, generator=seeded(4))
    expected = []
    for one in z:
        copied = copy.deepcopy(model)
        space.layout.write_(copied, space.lift(one))  # type: ignore[union-attr]
        swag.refresh_batchnorm_(copied, batches)
        copied.eval()
        with torch.no_grad():
            expected.append(sum(heteroscedastic(copied(x), y).double().sum() for x, y in batches))
    before = copy.deepcopy(model.state_dict())
    log_likelihood = LogLikelihood(model, space, batches, swag.HeteroscedasticGaussian())
    assert_close(log_likelihood.batch(z), torch.stack(expected), rtol=1e-5)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = LogLikelihood(
        model, space, batches, swag.HeteroscedasticGaussian(), batchnorm=swag.KeepBatchNorm()
    )
    assert_close(kept.batch(z), by_hand(model, space, z, batches, heteroscedastic), rtol=1e-5)
    gap = (kept.batch(z) - log_likelihood.batch(z)).abs()
    assert float(gap.min()) > 0.1, "the two policies do not give the same"


def test_methods_run_on_batch_norm(caplog: pytest.LogCaptureFixture) -> None:
    model = with_batchnorm()
    log_likelihood = LogLikelihood(model, space_of(model), regression(), swag.HeteroscedasticGaussian())
    for method in (EllipticalSlice(3, n_chains=2, burn_in=0), FullCovarianceVI(3), Laplace(5)):
        posterior = method.run(log_likelihood, prior_std=0.3, generator=seeded())
        assert bool(posterior.mean.isfinite().all())
    caplog.clear()
    Laplace(1).run(log_likelihood, prior_std=1.0)
    assert "before the mode" in caplog.text
    assert "take batch-norm statistics as constants" in caplog.text
    z = torch.tensor([[0.3, 0.1], [0.0, 0.4]])
    held = log_likelihood.held_at(z[0])
    assert_close(held.batch(z)[0], log_likelihood.batch(z)[0], rtol=1e-6)
    assert float((held.batch(z)[1] - log_likelihood.batch(z)[1]).abs()) > 1e-3


def test_a_subsample_is_one_density_and_says_so() -> None:
    model = mlp()
    whole = LogLikelihood(model, space_of(model), regression(), swag.HeteroscedasticGaussian())
    part = whole.subsample(10, seed=0)
    z = torch.randn(4, 2, generator=seeded())
    assert torch.equal(part.batch(z), part.batch(z))
    parts = torch.stack([whole.subsample(10, seed=i).batch(z) for i in range(60)])
    assert float((parts.mean(0) / whole.batch(z) - 1).abs().max()) < 0.1
    assert_close(whole.subsample(25, seed=1).batch(z), whole.batch(z), rtol=1e-6)
    chains = EllipticalSlice(5, n_chains=2).infer(part, prior_std=0.5, generator=seeded())
    assert chains.approximation == "10 of 25 rows, chosen once"
    assert "approximate" in str(chains)
    assert "approximate" in repr(part)
    assert not whole.approximation


def test_minibatches_are_for_variational_inference_alone() -> None:
    model = mlp()
    whole = LogLikelihood(model, space_of(model), regression(), swag.HeteroscedasticGaussian())
    random = whole.minibatch(10, seed=0)
    z = torch.zeros(1, 2)
    draws = torch.cat([random.batch(z) for _ in range(400)])
    assert float(draws.std()) > 0
    assert abs(float(draws.mean() - whole.batch(z)[0])) < 5 * float(draws.std()) / 20
    fit = MeanFieldVI(20).infer(random, prior_std=0.5, generator=seeded())
    assert fit.approximation == "minibatches of 10 of 25 rows"
    for method in (EllipticalSlice(5), UnivariateSlice(5), Laplace()):
        with pytest.raises(InputError, match=r"another value at every call.*subsample"):
            method.run(random, prior_std=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": []}, "batches: is empty"),
        ({"batches": iter([])}, "batches: gave no batch"),
        ({"batches": [(torch.zeros(0, 3), torch.zeros(0))]}, "batches: hold no rows"),
        ({"batches": [torch.zeros(4, 3)]}, "no targets"),
        ({"subspace": "plane"}, "subspace: got a str"),
        ({"subspace": Subspace(torch.zeros(5), torch.ones(5, 1))}, "D=5 and no layout"),
        ({"likelihood": swag.Categorical}, "likelihood: got"),
        ({"batchnorm": swag.ExactBatchNorm}, "batchnorm: got"),
        ({"chunk": 0}, "chunk: got 0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    model = mlp()
    arguments: dict[str, Any] = {
        "model": model,
        "subspace": space_of(model),
        "batches": regression(),
        "likelihood": swag.HeteroscedasticGaussian(),
    }
    with pytest.raises(InputError, match=message):
        LogLikelihood(**(arguments | change))


def test_bad_calls() -> None:
    model = mlp()
    log_likelihood = LogLikelihood(model, space_of(model), regression(), swag.HeteroscedasticGaussian())
    with pytest.raises(InputError, match=r"z: got shape \(3, 5\)"):
        log_likelihood.batch(torch.zeros(3, 5))
    with pytest.raises(InputError, match="there are 25 rows"):
        log_likelihood.subsample(26, seed=0)
    with pytest.raises(InputError, match="there are 25 rows"):
        log_likelihood.minibatch(0, seed=0)
    with pytest.raises(InputError, match="already"):
        log_likelihood.subsample(5, seed=0).minibatch(2, seed=0)
    with pytest.raises(InputError, match="HeteroscedasticGaussian takes outputs"):
        three = mlp(3, 3)
        LogLikelihood(three, space_of(three), regression(), swag.HeteroscedasticGaussian())(torch.zeros(2))


# --- The toy regression: narrow at the data, wide in the gap


def published() -> Path:
    """Where the published data lies, if anybody said so."""
    return Path(os.environ.get("SWAG_DATA", "data")) / "toy_regression" / "data.npy"


def generated_toy() -> tuple[Tensor, Tensor]:
    """Three clusters with gaps between them, as the published toy data has."""
    generator = seeded(5)
    x = torch.cat([torch.rand(60, generator=generator) * 2 + start for start in (-7.2, -1.5, 4.5)])
    return x, 0.6 * torch.sin(x) + 0.1 * x + 0.05 * torch.randn(180, generator=generator)


def published_toy() -> tuple[Tensor, Tensor]:
    table = torch.from_numpy(np.load(published())).float()
    return table[:, 0], table[:, 1]


def features(x: Tensor) -> Tensor:
    return torch.stack([x / 2, (x / 2) ** 2 / 3], 1)


def trained_on(x: Tensor, y: Tensor) -> tuple[nn.Module, swag.Collector]:
    torch.manual_seed(1)
    inputs = features(x)
    model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    collector = swag.Collector(model, rank=20)
    for step in range(1200):
        optimizer.zero_grad()
        F.mse_loss(model(inputs)[:, 0] + 0.05 * torch.randn(len(x)), y).backward()
        optimizer.step()
        if step >= 800 and step % 20 == 0:
            collector.collect(model)
    return model, collector


def middle_of_the_gaps(x: Tensor) -> Tensor:
    """Points in the middle halves of the two widest gaps."""
    ordered = x.sort().values
    widest = ordered.diff().topk(2).indices
    parts = []
    for left, right in zip(ordered[widest].tolist(), ordered[widest + 1].tolist(), strict=True):
        quarter = (right - left) / 4
        parts.append(torch.linspace(left + quarter, right - quarter, 40))
    return torch.cat(parts)


@pytest.mark.parametrize("toy", [generated_toy, published_toy])
def test_the_band_is_narrow_at_the_data_and_wide_in_the_gap(toy: Any, tmp_path: Path) -> None:
    if toy is published_toy and not published().exists():
        pytest.skip("set SWAG_DATA to the folder with toy_regression/")
    x, y = toy()
    model, collector = trained_on(x, y)
    likelihood = swag.HomoscedasticGaussian(0.05**2)
    log_likelihood = LogLikelihood(model, collector.subspace(4), [(features(x), y)], likelihood)
    for method in (EllipticalSlice(30, n_chains=4, burn_in=30), FullCovarianceVI(150)):
        posterior = method.run(log_likelihood, prior_std=20.0, temperature=2.0, generator=seeded(1))
        ensemble = swag.Ensemble(model, posterior, n_samples=50, likelihood=likelihood, seed=0)
        at_data, in_gap = (
            float(ensemble(features(points)).epistemic.sqrt().mean()) for points in (x, middle_of_the_gaps(x))
        )
        assert in_gap > 1.5 * at_data, f"{method}: {at_data:.4f} at the data, {in_gap:.4f} in the gap"
        # The result is a posterior like any other: saved, loaded, predicted, reported.
        swag.save(tmp_path / "posterior.swag", posterior)
        loaded = swag.load(tmp_path / "posterior.swag")
        again = swag.Ensemble(model, loaded, n_samples=50, likelihood=likelihood, seed=0)
        assert torch.equal(again(features(x)).mean, ensemble(features(x)).mean)
    report = swag.Report({"VI": ensemble(features(x))}, y)
    report.save(tmp_path / "report.json")
    assert '"VI"' in (tmp_path / "report.json").read_text(encoding="utf-8")


def test_a_module_with_two_names_is_whole_after_vmap() -> None:
    """What one call leaves in the private copy must not be in the way of the next."""
    model, x = cases.SharedBatchNorm().eval(), cases.features(12)
    labels = torch.arange(12) % 2
    layout = swag.Layout.of(model)
    space = swag.Subspace(layout.flatten(model), torch.eye(layout.size)[:, :2], layout=layout)
    found = swag.subspace.LogLikelihood(model, space, [(x, labels)], swag.Categorical())
    z = torch.tensor([[0.0, 0.0], [0.3, -0.2], [0.1, 0.4]])
    first, again = found.batch(z), found.batch(z)
    assert torch.equal(first, again)
    torch.testing.assert_close(torch.stack([found(one) for one in z]), first, rtol=1e-5, atol=1e-4)
